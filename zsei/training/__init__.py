"""Beside a training run: hand over checkpoints, carry out decisions, cut the optimizer too."""
