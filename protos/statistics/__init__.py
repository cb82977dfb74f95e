"""Exact sums of integer embeddings: what a linear head can be solved from, and how they travel."""
