"""Render a conversation and say which characters are trained, by construction."""

from posttrain.data.templates.code import Piece
from posttrain.data.templates.renderer import ChatRenderer
from posttrain.data.templates.shield import SHIELD, Shield, unshield

__all__ = ["SHIELD", "ChatRenderer", "Piece", "Shield", "unshield"]
