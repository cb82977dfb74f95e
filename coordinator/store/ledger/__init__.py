"""Joules as rows: what was granted and spent, what it is expected to cost, and sums of both."""
