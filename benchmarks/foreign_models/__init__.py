"""Further models and data for any_model.py, and who makes them."""
