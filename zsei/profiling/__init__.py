"""Where a model's time and memory go: per call and per component, against the machine's limits."""
