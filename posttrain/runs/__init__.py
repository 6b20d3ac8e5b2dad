"""Composition root: the only place that knows every stage, and in which order they go."""
