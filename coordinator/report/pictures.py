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
    measures = {one.measure for one in records}
    measure = measures.pop() if len(measures) == 1 else "score"
    for record in records:
        name, scored = _plain(record.run.name), [one for one in record.rounds if one.score is not None]
        scores = [one.score or 0.0 for one in scored]
        by_round.plot([one.round for one in scored], scores, marker="o", ms=3, label=name)
        if record.spent.known:
            widths = [one.uncertainty_so_far_j for one in scored]
            bars = None if None in widths else [one or 0.0 for one in widths]
            spent = [one.known_so_far_j for one in scored]
            by_joule.errorbar(spent, scores, xerr=bars, marker="o", ms=3, capsize=2, label=name)
        asked = [one for one in record.rounds if one.devices]
        traffic.plot([one.round for one in asked], [one.bytes_up / 1000 for one in asked], label=f"{name}: up")
        down = [one.bytes_down / 1000 for one in asked]
        traffic.plot([one.round for one in asked], down, ls="--", label=f"{name}: down")
    by_round.set(xlabel="round", ylabel=measure)
    by_joule.set(xlabel="joules of all devices so far", ylabel=measure)
    traffic.set(xlabel="round", ylabel="kB")
    devices = [
        (f"{_plain(record.run.name)}: {_plain(one.device_id)}" if len(records) > 1 else _plain(one.device_id), one)
        for record in records
        for one in record.devices
        if one.spent.known
    ]
    devices.sort(key=lambda named: named[1].spent.known_j)
    shown = devices[-_MOST_DEVICES:]
    left = [0.0] * len(shown)
    for phase in PHASES:
        values = [part.known_j if (part := one.phases.get(phase)) else 0.0 for _, one in shown]
        energy.barh(range(len(shown)), values, left=left, label=str(phase))
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, (_, one) in enumerate(shown):
        if (width := one.spent.uncertainty_j) is not None:
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
