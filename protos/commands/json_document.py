"""JSON that our commands print: every document, and every line of those that print lines, says what it is.

``schema`` is ``edgejoule.KIND/VERSION``. Keys are only added to a version; one that goes, or changes its meaning, makes
the next. Joules are ``energy_j`` wherever they are the energy of what the object is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["document"]


def document(kind: str, values: Mapping[str, Any], version: int = 1) -> dict[str, Any]:
    """The values, and what they are.

    >>> document("devices", {"devices": []})
    {'schema': 'edgejoule.devices/1', 'devices': []}
    """
    return {"schema": f"edgejoule.{kind}/{version}", **values}
