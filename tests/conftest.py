"""What holds for every test: signals, no property that fails for being slow, and where the reference data are."""

from __future__ import annotations

import signal

from hypothesis import settings
from reference_data import reference

__all__ = ["reference"]

# Tests of our own plugin run pytest in pytest; pytest takes this line in the topmost conftest only.
pytest_plugins = ["pytester"]

settings.register_profile("edgejoule", deadline=None)
settings.load_profile("edgejoule")

# A shell starts what runs in the background with SIGINT ignored, and every program that a test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
