"""Rendered text -> token ids, exactly as the tokenizer itself gives them, and faster where proven.

``build_codec`` chooses the way; ``docs/design/encoding.md`` has the proof and the figures.
"""

from posttrain.data.tokens.build import build_codec, encode_rendered, stock_codec
from posttrain.data.tokens.codec import Codec, Encoded, Samples

__all__ = ["Codec", "Encoded", "Samples", "build_codec", "encode_rendered", "stock_codec"]
