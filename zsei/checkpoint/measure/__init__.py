"""What a checkpoint is measured for, layer group by layer group, and merged into one analysis."""
