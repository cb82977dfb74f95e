"""Whole Keras models that learn from soft labels, in the workshop."""
