"""Names and sizes that both ends of the model's socket share."""

from __future__ import annotations

__all__ = ["MOST_EXAMPLE_BYTES", "SOCKET"]

SOCKET = "model.sock"
"""In the state folder, unless a setting names another place."""
MOST_EXAMPLE_BYTES = 64 << 20
"""The largest example, raw or as an image file, that is taken from an application."""
