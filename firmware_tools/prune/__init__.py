"""Filters that a model can do without."""
