"""Runs as they go: followed by one poll, shown as a page, in a terminal, and to Prometheus."""
