"""Recipes: what may be written in one, and how a file becomes one. Needs pydantic, never torch."""

import os

# Looking for pydantic plugins reads the metadata of every installed package: 30 ms at each start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
