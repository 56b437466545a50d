"""The analysis of checkpoints as an HTTP service."""
