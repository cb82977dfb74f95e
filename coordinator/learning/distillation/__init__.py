"""Knowledge between models of different shapes, as soft labels on a proxy set that nobody had to label."""
