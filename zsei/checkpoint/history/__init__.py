"""What is followed over the checkpoints of a run, and the findings that take time to be seen."""
