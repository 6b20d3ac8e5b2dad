"""Models on their way out: merged, quantized, compared with what they were made from."""
