"""Boards: machines that tests act on as root."""
