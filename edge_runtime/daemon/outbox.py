"""What must still reach the coordinator: reports without an answer, and energy that became known afterwards.

Rules kept here:

* A report is on disk before its first byte is sent, and is deleted only when the coordinator has answered it. So a
  lost answer, a power cut or ``kill -9`` is repaired by sending the same bytes again.
* A damaged file is set aside and said, never sent and never in the way. So is a report that will never be taken.
* A full disk costs durability, not work: what cannot be stored is kept in memory, said, and sent all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edge_runtime.state import ASIDE, keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.energy.trace import Method, Phase, PhaseEnergy, joined
from protos.errors import StoreError
from protos.orders import SettledEnergy

_SUFFIX = ".report"
_KEEP_ASIDE = 16
_SETTLED = "settled.json"
# Energy of rounds that long ago interests nobody; the list must not grow while a coordinator is away.
_KEEP_SETTLED = 256


@dataclass(frozen=True)
class Letter:
    """A report ready to send: the bytes, and what its header says. Without a path it is in memory only."""

    run_id: str
    round: int
    data: bytes
    path: Path | None
    attempt: int | None = None


class Outbox:
    """Letters and settled energy in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Energy as it was last seen or written; it counts while the disk can be neither read nor written.
        self._settled: list[SettledEnergy] = []
        self._unsaved = False

    def put(self, run_id: str, round: int, data: bytes, attempt: int | None = None) -> Letter:
        """Store a report; it is on disk afterwards.

        Raises:
            StoreError: it cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        key = hashlib.sha256(run_id.encode()).hexdigest()[:12]
        path = self.folder / f"{round:08d}-{key}{_SUFFIX}"
        header = json.dumps({"run_id": run_id, "round": round, "attempt": attempt, "sha256": digest})
        with storing(path), write_whole(path) as file:
            file.write(header.encode() + b"\n" + data)
        return Letter(run_id, round, data, path, attempt)

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
            # Versions that knew of no attempts wrote none.
            attempt = header.get("attempt")
            return Letter(
                str(header["run_id"]), int(header["round"]), data, path, None if attempt is None else int(attempt)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._move_aside(path, f"damaged ({error})")
            return None

    def set_aside(self, letter: Letter, reason: str) -> None:
        """Keep a report that will never be taken out of the way, among the newest of its kind, and say so."""
        if letter.path is None:
            log().warning("round %d: report given up: %s", letter.round, reason)
        else:
            self._move_aside(letter.path, reason)

    def _move_aside(self, path: Path, reason: str) -> None:
        log().warning("%s: report set aside: %s", path.name, reason)
        folder = self.folder / ASIDE
        with storing(path):
            folder.mkdir(exist_ok=True, mode=0o700)
            path.replace(folder / path.name)
        used(folder / path.name)
        keep_newest(folder, _KEEP_ASIDE, in_use=[folder / path.name])

    def answered(self, letter: Letter) -> None:
        """Delete a report that the coordinator has answered."""
        if letter.path is not None:
            with storing(letter.path):
                letter.path.unlink(missing_ok=True)

    def add_settled(self, settled: SettledEnergy) -> None:
        """Remember energy until it is told; a later figure for a phase of the same order replaces the earlier."""
        kept = {
            (settled_energy.run_id, settled_energy.round, settled_energy.attempt): settled_energy
            for settled_energy in self.settled()
        }
        key = (settled.run_id, settled.round, settled.attempt)
        before = {record.phase: record for record in kept[key].energy} if key in kept else {}
        merged = {**before, **{record.phase: record for record in settled.energy}}
        kept[key] = dataclasses.replace(settled, energy=tuple(merged.values()))
        self._write(list(kept.values())[-_KEEP_SETTLED:])

    def add_sending(self, letter: Letter, energy: Iterable[PhaseEnergy]) -> None:
        """Add what sending a report that was left over took to its earlier tries; what those cost is unknown when they
        died with their process, and the whole is then, too, of the seconds that are known."""
        key = (letter.run_id, letter.round, letter.attempt)
        known = (
            settled_energy
            for settled_energy in self.settled()
            if (settled_energy.run_id, settled_energy.round, settled_energy.attempt) == key
        )
        before = [record for settled in known for record in settled.energy if record.phase is Phase.SEND]
        lost = PhaseEnergy(Phase.SEND, None, 0.0, 0.0, "unknown", "", None, ("interrupted",))
        for record in energy:
            if record.phase is Phase.SEND:
                whole = joined(before[0] if before else lost, record)
                self.add_settled(SettledEnergy(letter.run_id, letter.round, (whole,), letter.attempt))

    def settled(self) -> tuple[SettledEnergy, ...]:
        """Energy that the coordinator was not yet told."""
        if not self._unsaved:
            self._settled = self._read()
        return tuple(self._settled)

    def _read(self) -> list[SettledEnergy]:
        path = self.folder / _SETTLED
        try:
            rows = json.loads(path.read_bytes())
            return [
                SettledEnergy(r["run_id"], r["round"], tuple(map(_record, r["energy"])), r.get("attempt")) for r in rows
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            log().warning("%s: cannot be read now (%s)", path, error)
            return self._settled
        except (ValueError, KeyError, TypeError) as error:
            log().warning("%s: unreadable, its figures are lost (%s)", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return []

    def told(self, settled: Iterable[SettledEnergy]) -> None:
        """Forget energy that the coordinator has answered for."""
        if done := set(settled):
            self._write([settled_energy for settled_energy in self.settled() if settled_energy not in done])

    def _write(self, rows: list[SettledEnergy]) -> None:
        path = self.folder / _SETTLED
        self._settled = rows
        try:
            with storing(path):
                if rows:
                    text = [{**vars(r), "energy": list(map(_row, r.energy))} for r in rows]
                    with write_whole(path) as file:
                        file.write(json.dumps(text).encode())
                else:
                    path.unlink(missing_ok=True)
            self._unsaved = False
        except StoreError as error:
            if not self._unsaved:
                log().warning("%s; the energy of sending is kept in memory until it is told", error)
            self._unsaved = True


_FIELDS = ("phase", "energy_j", "covered_s", "uncovered_s", "method", "sensor", "uncertainty_j", "flags")


def _row(record: PhaseEnergy) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _FIELDS}


def _record(row: dict[str, Any]) -> PhaseEnergy:
    values = {name: row[name] for name in _FIELDS}
    values.update(phase=Phase(row["phase"]), method=cast(Method, row["method"]), flags=tuple(row["flags"]))
    return PhaseEnergy(**values)
