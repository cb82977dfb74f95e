"""The curves of a report as one PNG, for slides and papers. matplotlib is an extra, imported when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from coordinator.report.device_sections import PHASES
from coordinator.report.record import RunRecord

__all__ = ["draw"]

_MOST_DEVICES = 25


def draw(file: IO[bytes], records: Sequence[RunRecord]) -> None:
    """Draw score by round and by joule, bytes by round, and joules by device and phase, with their intervals.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    ((by_round, by_joule), (traffic, energy)) = figure.subplots(2, 2)
    measures = {record.measure for record in records}
    measure = measures.pop() if len(measures) == 1 else "score"
    for record in records:
        name, scored = _plain(record.run.name), [row for row in record.rounds if row.score is not None]
        scores = [row.score or 0.0 for row in scored]
        by_round.plot([row.round for row in scored], scores, marker="o", ms=3, label=name)
        if record.spent.known:
            widths = [row.uncertainty_so_far_j for row in scored]
            bars = None if None in widths else [value or 0.0 for value in widths]
            spent = [row.known_so_far_j for row in scored]
            by_joule.errorbar(spent, scores, xerr=bars, marker="o", ms=3, capsize=2, label=name)
        asked = [row for row in record.rounds if row.devices]
        traffic.plot(
            [this_round.round for this_round in asked],
            [this_round.bytes_up / 1000 for this_round in asked],
            label=f"{name}: up",
        )
        down = [this_round.bytes_down / 1000 for this_round in asked]
        traffic.plot([this_round.round for this_round in asked], down, ls="--", label=f"{name}: down")
    by_round.set(xlabel="round", ylabel=measure)
    by_joule.set(xlabel="joules of all devices so far", ylabel=measure)
    traffic.set(xlabel="round", ylabel="kB")
    devices = [
        (
            f"{_plain(record.run.name)}: {_plain(device.device_id)}" if len(records) > 1 else _plain(device.device_id),
            device,
        )
        for record in records
        for device in record.devices
        if device.spent.known
    ]
    devices.sort(key=lambda named: named[1].spent.known_j)
    shown = devices[-_MOST_DEVICES:]
    left = [0.0] * len(shown)
    for phase in PHASES:
        values = [part.known_j if (part := device.phases.get(phase)) else 0.0 for _, device in shown]
        energy.barh(range(len(shown)), values, left=left, label=str(phase))
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, (_, each_device) in enumerate(shown):
        if (width := each_device.spent.uncertainty_j) is not None:
            energy.errorbar(left[place], place, xerr=width, color="black", capsize=3, lw=1)
    energy.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=7)
    energy.set(xlabel="joules")
    for axes in (by_round, by_joule, traffic, energy):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(file, format="png")


def _plain(text: str) -> str:
    # A dollar begins mathematics there, and names with an underscore in front are left out of legends.
    return text.replace("$", r"\$").removeprefix("_")
