"""Keras, loaded without what TensorFlow says of its own start."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from firmware_tools.loading import loading
from protos.native_remarks import remarks_dropped

# Severity letters of absl's log: information and warnings.
_REMARK = re.compile(rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog\(\)")


def loaded() -> Any:
    """The module ``keras``; errors that are said while it loads are heard."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" in sys.modules:
        # What was loaded is frozen once; models that nobody holds any more are to be collected.
        return sys.modules["keras"]
    with remarks_dropped(lambda line: _REMARK.match(line) is not None), loading():
        import keras
    return keras
