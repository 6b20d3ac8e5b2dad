"""New tokens for a model: learned from text, merged into its BPE, given rows, proved."""
