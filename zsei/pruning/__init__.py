"""Searches the cut that loses least for a budget, repairs it, and lets the gate judge it."""
