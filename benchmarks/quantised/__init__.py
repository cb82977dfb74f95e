"""Rounds, tasks and pictures of quantfl.py."""
