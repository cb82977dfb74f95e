"""CSV with CoLExT's files and columns (KAUST; sands-lab/colext, ``metric_retriever.py``), for its plots and those of
whoever has some for it.

CoLExT integrates a power trace; a coordinator knows joules by round. So ``hw_metrics.csv`` has two rows for each device
and round, a microsecond within the round: 0 mW at its beginning, and at its end the mean power of the work, mW, which
times the time between them gives the device's joules of the round. Idling is left out, as in all joules of rounds. A
device whose joules are not known has no rows there, and columns that nobody measured are empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from coordinator.operator.status import DeviceRound, RoundStatus
from coordinator.results.figures import RunFigures
from protos.atomic import write_whole

__all__ = ["write"]

FILES: dict[str, tuple[str, ...]] = {
    "client_info": ("client_id", "device_name", "dev_type"),
    "round_metrics": ("round_number", "start_time", "end_time", "dist_accuracy", "srv_accuracy", "stage"),
    "client_round_metrics": (
        "client_id", "round_number", "stage", "start_time", "end_time", "loss", "num_examples", "accuracy",
    ),
    "hw_metrics": (
        "client_id", "time", "cpu_util", "mem_util", "gpu_util", "power_consumption", "n_bytes_sent", "n_bytes_rcvd",
        "net_usage_out", "net_usage_in",
    ),
}  # fmt: skip
# Columns are CoLExT's: a round of training.
_STAGE = "FIT"
_WITHIN_S = 1e-6
Cell = str | int | float | None


def write(found: RunFigures, folder: Path) -> list[Path]:
    """Write the four files of a run into ``folder/RUN/raw``; the paths."""
    place = folder / found.run.run_id / "raw"
    place.mkdir(parents=True)
    names = sorted({device.device_id for this_round in found.run.rounds for device in this_round.devices})
    numbers = {name: index for index, name in enumerate(names)}
    closed = [
        this_round
        for this_round in found.run.rounds
        if this_round.state == "closed" and this_round.round and this_round.closed_unix_s is not None
    ]
    rows: dict[str, Iterable[Sequence[Cell]]] = {
        "client_info": ([numbers[name], name, _board(found, name)] for name in names),
        "round_metrics": (_round(this_round) for this_round in closed),
        "client_round_metrics": (
            _client(numbers[device.device_id], this_round, device)
            for name in names
            for this_round in closed
            for device in this_round.devices
            if device.device_id == name and device.outcome == "accepted"
        ),
        "hw_metrics": (row for name in names for row in _power(numbers[name], name, closed)),
    }
    paths = []
    for name, table in rows.items():
        paths.append(place / f"{name}.csv")
        with write_whole(paths[-1]) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(FILES[name])
            writer.writerows(["" if cell is None else cell for cell in row] for row in table)
            text.detach()
    return paths


def _board(found: RunFigures, name: str) -> str:
    card = found.cards.get(name)
    return "" if card is None else card.board


def _round(this_round: RoundStatus) -> list[Cell]:
    assert this_round.closed_unix_s is not None
    told = this_round.federated.accuracy if this_round.federated is not None else None
    return [
        this_round.round,
        _iso(this_round.opened_unix_s),
        _iso(this_round.closed_unix_s),
        told,
        this_round.accuracy,
        _STAGE,
    ]


def _client(number: int, this_round: RoundStatus, device: DeviceRound) -> list[Cell]:
    assert this_round.closed_unix_s is not None
    times = [_iso(this_round.opened_unix_s), _iso(this_round.closed_unix_s)]
    return [number, this_round.round, _STAGE, *times, device.loss, device.examples, None]


def _power(number: int, name: str, closed: Iterable[RoundStatus]) -> Iterator[list[Cell]]:
    """Two rows of a device for each of its rounds whose joules are known: E = P (t2 - t1)."""
    for this_round in closed:
        for device in this_round.devices:
            if device.device_id != name or device.spent_j is None or this_round.closed_unix_s is None:
                continue
            begin_s, end_s = this_round.opened_unix_s + _WITHIN_S, this_round.closed_unix_s - _WITHIN_S
            power_mw = device.spent_j / (end_s - begin_s) * 1000.0
            for at_s, mw, up, down in ((begin_s, 0.0, 0, 0), (end_s, power_mw, device.bytes_up, device.bytes_down)):
                yield [number, _iso(at_s), None, None, None, mw, up, down, None, None]


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds")
