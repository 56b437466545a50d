"""Side by side with Torch-Pruning and simpler orders: `python -m benchmarks.pruning`."""
