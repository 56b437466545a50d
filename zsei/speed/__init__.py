"""Speed-ups measured on a model: each alone, then those that held together."""
