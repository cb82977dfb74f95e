"""Figures of this device for Prometheus, as a file that node_exporter's textfile collector reads.

Written whole or not at all when the daemon is ready and after each round; no port is opened, and nothing is imported
for it. Names and units as the coordinator's: base units, ``_total`` for what grows since the daemon started. A figure
that is not known has no sample, which is not the same as 0. A file that cannot be written is said once, and ends
nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.energy.trace import PhaseEnergy
from protos.orders import DeviceCard, Strain

__all__ = ["METRICS", "MetricsFile"]

METRICS: Mapping[str, tuple[str, str]] = {
    "edgejoule_board_info": ("gauge", "1, with what this board is and runs."),
    "edgejoule_board_start_time_seconds": ("gauge", "Unix time at which the daemon was ready."),
    "edgejoule_board_examples": ("gauge", "Training examples that it holds."),
    "edgejoule_board_rounds_total": ("counter", "Rounds by the answer to their reports."),
    "edgejoule_board_last_round_timestamp_seconds": ("gauge", "Unix time of the end of the last round."),
    "edgejoule_board_phase_energy_joules_total": (
        "counter",
        "Joules by phase and method, idling within runs included.",
    ),
    "edgejoule_board_phase_covered_seconds_total": ("counter", "Seconds of a phase with samples of power."),
    "edgejoule_board_phase_uncovered_seconds_total": ("counter", "Seconds of a phase without."),
    "edgejoule_board_unknown_phases_total": ("counter", "Phases without joules."),
    "edgejoule_board_hottest_celsius": ("gauge", "Hottest temperature in the last round."),
    "edgejoule_board_paused_seconds_total": ("counter", "Seconds of rounds in pauses, by cause."),
}
"""Kind and meaning by name."""

_Labels = tuple[tuple[str, str], ...]


class MetricsFile:
    """The file of one device; silent where the settings name none.

    Args:
        path: None for none. node_exporter reads what ends in ``.prom``.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._values: dict[str, dict[_Labels, float]] = defaultdict(dict)
        self._said = ""

    def ready(self, card: DeviceCard) -> None:
        """The device is open, and says this of itself."""
        if self._path is None:
            return
        about = {
            "device": card.device_id,
            "board": card.board,
            "version": card.software_version,
            "engine": str(card.engine),
            "sensor": card.meter.sensor,
            "method": card.meter.method,
        }
        self._values["edgejoule_board_info"] = {tuple(about.items()): 1.0}
        self._values["edgejoule_board_examples"] = {(): float(card.train_examples)}
        self._values["edgejoule_board_start_time_seconds"].setdefault((), time.time())
        self._write()

    def round(self, answer: str, energy: Iterable[PhaseEnergy], strain: Strain | None) -> None:
        """A round is over.

        Args:
            answer: to its report, such as "accepted"; "none" where none came.
            energy: of the whole round, sending included.
        """
        if self._path is None:
            return
        self._add("edgejoule_board_rounds_total", 1.0, answer=answer)
        self._values["edgejoule_board_last_round_timestamp_seconds"] = {(): time.time()}
        for phase_energy in energy:
            phase = str(phase_energy.phase)
            if phase_energy.energy_j is None:
                self._add("edgejoule_board_unknown_phases_total", 1.0, phase=phase)
            else:
                name = "edgejoule_board_phase_energy_joules_total"
                self._add(name, max(0.0, phase_energy.energy_j), phase=phase, method=phase_energy.method)
            self._add("edgejoule_board_phase_covered_seconds_total", phase_energy.covered_s, phase=phase)
            self._add("edgejoule_board_phase_uncovered_seconds_total", phase_energy.uncovered_s, phase=phase)
        if strain is not None:
            self._add("edgejoule_board_paused_seconds_total", strain.heat_s, cause="heat")
            self._add("edgejoule_board_paused_seconds_total", strain.busy_s, cause="busy")
        hottest = None if strain is None else strain.hottest_c
        self._values["edgejoule_board_hottest_celsius"] = {} if hottest is None else {(): hottest}
        self._write()

    def _add(self, name: str, value: float, **labels: str) -> None:
        rows, key = self._values[name], tuple(labels.items())
        rows[key] = rows.get(key, 0.0) + value

    def text(self) -> str:
        """The file's content, in Prometheus' text format 0.0.4."""
        lines = []
        for name, (kind, meaning) in METRICS.items():
            rows = self._values.get(name)
            if rows:
                lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
                lines += [f"{name}{_said(labels)} {value!r}" for labels, value in rows.items()]
        return "\n".join(lines) + "\n"

    def _write(self) -> None:
        assert self._path is not None
        try:
            with write_whole(self._path) as file:
                file.write(self.text().encode())
            self._said = ""
        except OSError as error:
            what = f"{self._path}: metrics cannot be written ({error.strerror or error})"
            if what != self._said:
                log().warning("%s; name another place in metrics_file, and work goes on", what)
            self._said = what


def _said(labels: _Labels) -> str:
    """
    >>> print(_said((("board", 'a"b'),)))
    {board="a\\"b"}
    """
    if not labels:
        return ""
    texts = ((key, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for key, text in labels)
    return "{" + ",".join(f'{key}="{text}"' for key, text in texts) + "}"
