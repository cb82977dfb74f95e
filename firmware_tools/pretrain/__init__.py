"""Small pre-trained models to start from when one has none of its own."""
