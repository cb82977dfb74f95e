"""Codecs that round: grids and levels, rotation, sparsity, and those of the literature."""
