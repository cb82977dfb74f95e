"""The header of a recording: who measured what, when, on which machine, in which units. JSON, deflated."""

from __future__ import annotations

import dataclasses
import json
import time
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.board import board_name, software_version
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.recording.columns import DamagedBlock
from edge_runtime.power.recording.sections import STEPS_PER_S, STEPS_PER_W
from edge_runtime.power.sensor import Capabilities, PowerSensor
from protos.energy.uncertainty import ErrorModel

__all__ = ["SCHEMA", "Header"]

SCHEMA = "edgejoule.recording/1"
_LONGEST_TEXT = 1 << 16
_Made = TypeVar("_Made")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a reader must know before the first sample.

    Args:
        identity: method, sensor, calibration and quality at the beginning.
        capabilities: of the sensor.
        errors: limits of the chain's errors at the beginning; a bridge's follow from its greetings.
        begun_s: host time (CLOCK_MONOTONIC) at which the recording began.
        begun_utc: wall clock of that moment, ISO 8601.
        board: kind of the measuring machine.
        host_boot: boot id of the measuring machine, to which host times belong; empty when it has none.
        software: version that wrote the file.
    """

    identity: MeterIdentity
    capabilities: Capabilities
    errors: ErrorModel
    begun_s: float
    begun_utc: str
    board: str
    host_boot: str
    software: str

    @classmethod
    def of(cls, sensor: PowerSensor, *, begun_s: float) -> Header:
        """The header of a recording of ``sensor`` that begins now."""
        try:
            host_boot = _BOOT_ID.read_text().strip()
        except OSError:
            host_boot = ""
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        return cls(
            sensor.identity, sensor.capabilities, sensor.errors(), begun_s, now, board_name(), host_boot,
            software_version(),
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The header by name, with its schema and the steps of samples in host time."""
        steps = {"time_step_s": 1 / STEPS_PER_S, "power_step_w": 1 / STEPS_PER_W}
        return {"schema": SCHEMA, **steps, **dataclasses.asdict(self)}

    def encode(self) -> bytes:
        """The body of a header block."""
        document = self.as_json()
        perfect = dataclasses.asdict(ErrorModel())
        document["errors"] = {name: value for name, value in document["errors"].items() if value != perfect[name]}
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)

    @classmethod
    def decode(cls, body: bytes) -> Header:
        """Read the body of a header block; names that are not known are passed over.

        Raises:
            DamagedBlock: it is none.
        """
        try:
            document = json.loads(zlib.decompressobj().decompress(body, _LONGEST_TEXT))
            if document["schema"] != SCHEMA:
                raise DamagedBlock(f"a header of schema {document['schema']!r}")
            texts = ("begun_utc", "board", "host_boot", "software")
            return cls(
                _made(MeterIdentity, document["identity"]),
                _made(Capabilities, document["capabilities"]),
                _made(ErrorModel, document["errors"]),
                float(document["begun_s"]),
                *(str(document[name]) for name in texts),
            )
        except (zlib.error, ValueError, TypeError, LookupError, RecursionError) as cause:
            raise DamagedBlock("a header that cannot be read") from cause


def _made(kind: type[_Made], fields: Mapping[str, Any]) -> _Made:
    """A dataclass from those fields that it has; numbers where it wants numbers, texts where it wants texts."""
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in fields.items() if name in known}
    for name, value in values.items():
        wanted = known[name]
        number = isinstance(value, int | float)
        if value is None and "None" in wanted:
            continue
        if number != wanted.startswith(("float", "int", "bool")):
            raise TypeError(f"{name} is {value!r}")
    return kind(**values)
