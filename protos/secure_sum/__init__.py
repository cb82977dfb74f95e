"""Sums of whole numbers of which nobody sees a part."""
