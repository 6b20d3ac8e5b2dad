"""Training stages: one transformers.Trainer subclass on the packed layout, one file a stage."""
