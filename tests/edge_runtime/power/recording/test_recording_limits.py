"""A column whose check is right and whose numbers no bridge can send is refused; the greatest that one can is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.power.events import Sums
from edge_runtime.power.recording.columns import Cursor, DamagedBlock, pack
from edge_runtime.power.recording.sections import READERS, WRITERS
from protos.bridge.hello import MAX_SENSORS
from protos.bridge.messages import Stats

BATCH, SUMS, EDGE = 1, 2, 4
# One batch of two samples; what a number of each column may be, as the messages of the bridge have it.
BATCHES = {
    "sensor": ([0], 0, MAX_SENSORS - 1), "boot": ([1], 0, 0xFFFF), "seq": ([2], 0, 0xFFFF), "flags": ([0], 0, 0xFF),
    "profile": ([1], 0, 0xFF), "dt_shift": ([0], 0, 16), "count": ([2], None, None), "t0": ([7], None, None),
    "dt_us": ([500, 500], 0, 0xFFFF << 16), "shunt": ([-3, 3], -0x8000, 0x7FFF), "bus": ([9, 9], 0, 0xFFFF),
}  # fmt: skip
EDGES = {"level": ([1], 0, 1), "boot": ([1], 0, 0xFFFF), "seq": ([2], 0, 0xFFFF), "tick": ([7], 0, (1 << 62) - 1)}


def cases() -> list[Any]:
    return [
        pytest.param(kind, columns, name, bound, past, id=f"{name} of {kind}: {bound}")
        for kind, columns in ((BATCH, BATCHES), (EDGE, EDGES))
        for name, (_, low, high) in columns.items()
        if high is not None
        for bound, past in ((low, low - 1), (high, high + 1))
    ]


def read(kind: int, columns: dict[str, Any], name: str, value: int) -> Any:
    """One event whose last number of a column is this."""
    numbers = {key: list(given) for key, (given, _, _) in columns.items()}
    numbers[name][-1] = value
    (event,) = READERS[kind](Cursor(b"".join(pack(np.array(number, np.int64)) for number in numbers.values())), 1)
    return event


@pytest.mark.parametrize(("kind", "columns", "name", "bound", "past"), cases())
def test_the_last_number_that_a_bridge_can_send_is_read_and_the_next_is_damage(
    kind: int, columns: dict[str, Any], name: str, bound: int, past: int
) -> None:
    event = read(kind, columns, name, bound)
    if name in ("dt_us", "shunt"):
        assert int(getattr(event.samples, name)[-1]) == bound
    elif kind == BATCH and name != "bus":
        assert getattr(event.samples, name) == bound
    with pytest.raises(DamagedBlock, match="outside"):
        read(kind, columns, name, past)


@pytest.mark.parametrize(("sensor", "is_one"), [(MAX_SENSORS - 1, True), (MAX_SENSORS, False), (-1, False)])
def test_sums_are_of_a_sensor_that_can_be(sensor: int, is_one: bool) -> None:
    stats = Stats(sensor, 1, 2, 700, 700, 16, 500, 3, 4, 5)
    data = WRITERS[SUMS]([Sums(stats)])
    if is_one:
        assert READERS[SUMS](Cursor(data), 1) == [Sums(stats)]
    else:
        with pytest.raises(DamagedBlock, match="sums of a sensor"):
            READERS[SUMS](Cursor(data), 1)
