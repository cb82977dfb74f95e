"""What holds for every test: no property fails for being slow."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("edgejoule", deadline=None)
settings.load_profile("edgejoule")
