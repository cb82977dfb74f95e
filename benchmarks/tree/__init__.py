"""Counts of this tree itself."""
