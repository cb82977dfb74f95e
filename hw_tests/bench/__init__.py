"""A bench: what is on it, what it can do, and the one who has it."""
