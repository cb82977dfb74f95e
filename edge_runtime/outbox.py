"""What must still reach the coordinator: reports without an answer, and energy that became known afterwards.

Rules kept here:

* A report is on disk before its first byte is sent, and is deleted only when the coordinator has answered it. So a
  lost answer, a power cut or ``kill -9`` is repaired by sending the same bytes again.
* A damaged file is set aside and said, never sent and never in the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edge_runtime.journal import log
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.energy import Method, Phase, PhaseEnergy
from protos.orders import SettledEnergy

_SUFFIX = ".report"
_SETTLED = "settled.json"
# Energy of rounds that long ago interests nobody; the list must not grow while a coordinator is away.
_KEEP_SETTLED = 256


@dataclass(frozen=True)
class Letter:
    """A report ready to send: the bytes, and what its header says."""

    run_id: str
    round: int
    data: bytes
    path: Path


class Outbox:
    """Letters and settled energy in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, run_id: str, round: int, data: bytes) -> Letter:
        """Store a report; it is on disk afterwards.

        Raises:
            StoreError: it cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        key = hashlib.sha256(run_id.encode()).hexdigest()[:12]
        path = self.folder / f"{round:08d}-{key}{_SUFFIX}"
        header = json.dumps({"run_id": run_id, "round": round, "sha256": digest})
        with storing(path), write_whole(path) as file:
            file.write(header.encode() + b"\n" + data)
        return Letter(run_id, round, data, path)

    def pending(self) -> list[Letter]:
        """Every report without an answer, oldest round first."""
        letters = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            letter = self._open(path)
            if letter is not None:
                letters.append(letter)
        return letters

    def _open(self, path: Path) -> Letter | None:
        try:
            head, _, data = path.read_bytes().partition(b"\n")
            header = json.loads(head)
            if hashlib.sha256(data).hexdigest() != header["sha256"]:
                raise ValueError("its hash is another")
            return Letter(str(header["run_id"]), int(header["round"]), data, path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.set_aside(path, f"damaged ({error})")
            return None

    def set_aside(self, path: Path, reason: str) -> None:
        """Keep a report that cannot be sent under another name, and say so."""
        log().warning("%s: unsent report set aside: %s", path.name, reason)
        with storing(path):
            path.replace(path.with_suffix(".aside"))

    def answered(self, letter: Letter) -> None:
        """Delete a report that the coordinator has answered."""
        with storing(letter.path):
            letter.path.unlink(missing_ok=True)

    def add_settled(self, settled: SettledEnergy) -> None:
        """Remember energy until it is told; a later figure for a phase of the same round replaces the earlier."""
        kept = {(one.run_id, one.round): one for one in self.settled()}
        key = (settled.run_id, settled.round)
        before = {record.phase: record for record in kept[key].energy} if key in kept else {}
        merged = {**before, **{record.phase: record for record in settled.energy}}
        kept[key] = SettledEnergy(*key, tuple(merged.values()))
        self._write(list(kept.values())[-_KEEP_SETTLED:])

    def settled(self) -> tuple[SettledEnergy, ...]:
        """Energy that the coordinator was not yet told."""
        path = self.folder / _SETTLED
        try:
            rows = json.loads(path.read_bytes())
            return tuple(SettledEnergy(r["run_id"], r["round"], tuple(map(_record, r["energy"]))) for r in rows)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            log().warning("%s: unreadable, its figures are lost (%s)", path, error)
            path.unlink(missing_ok=True)
            return ()

    def told(self, settled: Iterable[SettledEnergy]) -> None:
        """Forget energy that the coordinator has answered for."""
        if done := set(settled):
            self._write([one for one in self.settled() if one not in done])

    def _write(self, rows: list[SettledEnergy]) -> None:
        path = self.folder / _SETTLED
        with storing(path):
            if not rows:
                path.unlink(missing_ok=True)
                return
            with write_whole(path) as file:
                text = [{"run_id": r.run_id, "round": r.round, "energy": list(map(_row, r.energy))} for r in rows]
                file.write(json.dumps(text).encode())


_FIELDS = ("phase", "energy_j", "covered_s", "uncovered_s", "method", "sensor", "uncertainty_j", "flags")


def _row(record: PhaseEnergy) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _FIELDS}


def _record(row: dict[str, Any]) -> PhaseEnergy:
    values = {name: row[name] for name in _FIELDS}
    values.update(phase=Phase(row["phase"]), method=cast(Method, row["method"]), flags=tuple(row["flags"]))
    return PhaseEnergy(**values)
