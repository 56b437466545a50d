"""Engines: how the tasks of an analysis are given to worker processes."""
