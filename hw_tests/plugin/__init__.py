"""The pytest plugin of the bench: options, markers, fixtures, what a session leaves behind."""
