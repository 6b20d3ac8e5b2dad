"""Text in, verdict out: find the answer, compare it. No torch."""
