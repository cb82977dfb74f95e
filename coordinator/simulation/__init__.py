"""A whole fleet in one process, on virtual time: the real coordinator, codecs and rounds, and boards that are reckoned.

See docs/simulation.md.
"""
