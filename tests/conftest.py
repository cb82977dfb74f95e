"""What holds for every test: no property fails for being slow."""

from __future__ import annotations

from hypothesis import settings

# Tests of our own plugin run pytest in pytest; pytest takes this line in the topmost conftest only.
pytest_plugins = ["pytester"]

settings.register_profile("edgejoule", deadline=None)
settings.load_profile("edgejoule")
