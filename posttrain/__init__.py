"""posttrain: from raw data to a served, measured language model, in one recipe file."""

__version__ = "0.1.0"
