"""Readers of local examples, one for each format of files."""
