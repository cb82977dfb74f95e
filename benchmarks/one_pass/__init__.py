"""Fleets, methods and tasks of comparisons over heads from sums."""
