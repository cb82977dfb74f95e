"""What a round may cost, what it will cost, and who is asked for how much."""
