"""The score of every cell against its joules and its bytes, with 95 % intervals, and the front that nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordinator.lab.sweep.table import Row, front

__all__ = ["draw"]


def draw(rows: Sequence[Row], path: Path, title: str) -> bool:
    """Write a picture; False where no row has both figures.

    Raises:
        ModuleNotFoundError: the extra plot is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    measure = rows[0].measure if rows else "accuracy"
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title)
    drawn = False
    for axes, (cost, label) in zip(
        figure.subplots(1, 2), (("energy_j", "joules of all devices"), ("bytes_up", "bytes up")), strict=True
    ):
        best = front(rows, cost)
        points = []
        for number, row in enumerate(rows):
            x, y = row.figures[cost], row.figures["best"]
            if x.mean is None or y.mean is None:
                continue
            drawn = True
            axes.errorbar(
                x.mean, y.mean, xerr=x.half or 0.0, yerr=y.half or 0.0, fmt="o" if row.cell in best else "x",
                color=f"C{number % 10}", capsize=3, label=row.cell,
            )  # fmt: skip
            if row.cell in best:
                points.append((x.mean, y.mean))
        points.sort()
        axes.plot(*zip(*points, strict=True) if points else ([], []), color="0.6", zorder=0, drawstyle="steps-post")
        axes.set_xlabel(label)
        axes.set_ylabel(f"best {measure}")
        axes.grid(alpha=0.3)
    if drawn:
        figure.axes[0].legend(fontsize="small")
        figure.savefig(path, dpi=120)
    return drawn
