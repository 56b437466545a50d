"""Claims about a model's speed, memory and accuracy, each held against a measurement."""
