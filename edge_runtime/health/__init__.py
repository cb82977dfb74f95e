"""How the board is: heat, throttling, other programs; and the pauses that follow from it."""
