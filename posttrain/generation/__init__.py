"""Sample text from models."""
