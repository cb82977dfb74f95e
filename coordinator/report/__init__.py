"""What is left of a run on paper: one page that needs nothing else, and its figures as CSV."""
