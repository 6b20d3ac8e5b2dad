"""Models of transformers, prepared for the packed batch: loading, attention, head, adapters."""
