"""Runs as experiments: many of them from one file, and what they say together."""
