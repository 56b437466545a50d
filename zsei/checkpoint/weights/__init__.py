"""Checkpoints as files: which lie in a folder, whether they are whole, and their weights."""
