"""A measurement as a picture: power over time, the periods as bands, joules and their uncertainty in the title.

matplotlib is an extra (``pip install 'edgejoule[plot]'``) and imported here alone, when a picture is asked for. It
draws on the Agg canvas: no display is needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_runtime.measure.envelope import Envelope
from edge_runtime.measure.period import MeasuredPeriod
from protos.atomic import write_whole
from protos.energy.trace import PhaseEnergy
from protos.errors import StoreError, UsageError
from protos.extras import advice

__all__ = ["draw", "require"]

_LINE, _BAND, _REST, _MEASURED = "#1f5fa8", "#9fc0e6", "#e9e9e9", "#fdf1d8"
_INK = "#444444"


def require() -> None:
    """Find out, before anything is measured, whether a picture can be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("needs matplotlib", where="--plot", fix=f"{advice('plot')}, or leave --plot out")


def draw(path: Path, envelope: Envelope, periods: Sequence[MeasuredPeriod], *, title: str = "") -> None:
    """Draw a PNG, 1200 by 600 points; written whole or not at all.

    Args:
        path: the file to write.
        envelope: the power curve.
        periods: at least one, drawn as bands; time counts from the beginning of the first.
        title: what stands above the figures, such as the command.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    zero_s = periods[0].start_s
    times, least, mean, largest = envelope.curve()
    figure = Figure(figsize=(8, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for period in periods:
        colour = _REST if period.name.startswith("idle") else _MEASURED
        axes.axvspan(period.start_s - zero_s, period.stop_s - zero_s, color=colour, lw=0, zorder=0)
        if len(periods) > 1:
            middle_s = (period.start_s + period.stop_s) / 2 - zero_s
            axes.text(middle_s, 0.99, period.name, transform=axes.get_xaxis_transform(), ha="center", va="top",
                      fontsize=7, color=_INK)  # fmt: skip
    axes.fill_between(times - zero_s, least, largest, color=_BAND, lw=0, zorder=2)
    axes.plot(times - zero_s, mean, color=_LINE, lw=0.9, zorder=3)
    top_w = float(np.nanmax(largest)) if len(largest) else 1.0
    axes.set_xlim(0, max(periods[-1].stop_s - zero_s, 1e-3))
    axes.set_ylim(min(0.0, float(np.nanmin(least)) if len(least) else 0.0), top_w * 1.12 or 1.0)
    axes.set_xlabel("time / s")
    axes.set_ylabel("power / W")
    axes.grid(color="#dddddd", lw=0.5, zorder=1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=8)
    main = next((period for period in periods if not period.name.startswith("idle")), periods[0])
    # A command may hold dollars, which would be read as mathematics.
    axes.set_title("\n".join(filter(None, [_short(title), _figures(main.energy)])), fontsize=9, color=_INK,
                   parse_math=False)  # fmt: skip
    try:
        with write_whole(path) as file:
            figure.savefig(file, format="png")
    except OSError as cause:
        raise StoreError(f"cannot be written: {cause.strerror or cause}", where=str(path)) from cause


def _figures(energy: PhaseEnergy) -> str:
    if energy.energy_j is None:
        return f"energy unknown ({', '.join(energy.flags) or energy.method})"
    spread = "uncertainty unknown" if energy.uncertainty_j is None else f"± {energy.uncertainty_j:.2g} J (95 %)"
    seconds = energy.covered_s + energy.uncovered_s
    return f"{energy.energy_j:.5g} J  {spread} in {seconds:.4g} s, {energy.coverage:.1%} covered, {energy.method}"


def _short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
