"""It did really train: what stops a run that only looks healthy; one file for each guard."""
