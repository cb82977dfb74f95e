"""When a round opens and closes, for whom, and what it may cost."""
