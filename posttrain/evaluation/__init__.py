"""Generate, grade, count: every score with its interval, every answer kept for re-grading."""
