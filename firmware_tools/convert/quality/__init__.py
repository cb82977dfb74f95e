"""How much integers lose, layer by layer, and what makes them lose less."""
