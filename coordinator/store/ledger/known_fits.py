"""Fits that were read or written lately, by the very text that is stored: reading a text again is most of what learning
from a figure costs.

The rows stay the truth: a fit is found here only by the text that its row holds now. One that is about to learn is
taken out, and comes back under its new text; when that was never committed, the row still has the old one, and is read.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from threading import Lock
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

from coordinator.budgets.cost_model import CostModel

# About 5 kB each.
MOST = 2048

_lock = Lock()
_of: WeakKeyDictionary[Engine, OrderedDict[tuple[str, str, str], CostModel]] = WeakKeyDictionary()


def fit(connection: Connection, device_id: str, bundle_id: str, text: str, *, to_learn: bool = False) -> CostModel:
    """The fit that a row describes.

    Args:
        text: of the row.
        to_learn: the caller changes it, and alone: nobody else finds it until :func:`put`.
    """
    key = device_id, bundle_id, text
    with _lock:
        known = _of.setdefault(connection.engine, OrderedDict())
        found = known.pop(key, None)
        if found is not None and not to_learn:
            known[key] = found
    if found is None:
        found = CostModel.from_state(json.loads(text))
        if not to_learn:
            put(connection, device_id, bundle_id, text, found)
    return found


def put(connection: Connection, device_id: str, bundle_id: str, text: str, model: CostModel) -> None:
    """Keep a fit under the text that describes it now. Nobody changes it from here on."""
    with _lock:
        known = _of.setdefault(connection.engine, OrderedDict())
        known[device_id, bundle_id, text] = model
        while len(known) > MOST:
            known.popitem(last=False)
