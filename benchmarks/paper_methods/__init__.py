"""The parts of papers.py: a method of a paper each, their rows and pictures."""
