"""How updates become one change of the head."""
