"""Measurements for people: one live line with a small power plot, and the figures at the end. Unknown is ``?``."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from edge_runtime.measure.instruments.energy_runner import Replay
from edge_runtime.measure.measurement import MAIN, Glance
from edge_runtime.measure.report import known

__all__ = ["LiveLine", "replay_lines", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-=+*#@"


def sparkline(values: Sequence[float | None], bars: str = _BARS) -> str:
    """A bar per value from 0 to the largest; a gap for None.

    >>> sparkline([0.0, 4.0, None, 8.0])
    '▁▅ █'
    """
    highest = max((value for value in values if value is not None), default=0.0)
    steps = len(bars) - 1
    return "".join(
        " "
        if value is None
        else bars[min(steps, max(0, math.ceil(value / highest * steps)))]
        if highest > 0
        else bars[0]
        for value in values
    )


class LiveLine:
    """One line at the bottom of a terminal, written over and over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            _BARS.encode(stream.encoding or "ascii")
            self._bars = _BARS
        except (UnicodeEncodeError, LookupError):
            self._bars = _PLAIN_BARS
        self._watts: deque[float | None] = deque(maxlen=40)
        self._shown = False

    def show(self, glance: Glance) -> None:
        """Write the line anew."""
        self._watts.append(glance.power_w)
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            columns = 80
        label = "" if glance.name == MAIN else f"{glance.name}  "
        watts, joules = known(glance.power_w, ".3f"), known(glance.energy_j, ".2f")
        figures = f"{label}{glance.seconds:8.1f} s  {watts:>8} W  {joules:>9} J  "
        plot = sparkline(list(self._watts), self._bars)
        room = max(0, columns - 1 - len(figures))
        self._stream.write("\r\x1b[K" + (figures + plot[-room:] if room else figures[: columns - 1]))
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Leave an empty line where it was."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def replay_lines(replay: Replay) -> list[str]:
    """The figures of a recording: the whole, then a line per window."""
    lines = [
        f"energy    {replay.total_j:.6g} J",
        f"peak      {replay.peak_w:.4g} W",
        f"time      {replay.duration_s:.3f} s, {replay.samples} samples at {replay.rate_hz:g} Hz",
    ]
    if replay.windows:
        lines.append(
            f"{'window':>6}  {'start s':>10}  {'stop s':>10}  {'J':>12}  {'W':>10}  {'J/inference':>12}  flags"
        )
    for row in replay.windows:
        lines.append(
            f"{row.window.number:>6}  {row.window.start_s:>10.3f}  {row.window.stop_s:>10.3f}"
            f"  {known(row.energy_j, '.6g'):>12}  {known(row.mean_w, '.5g'):>10}"
            f"  {known(row.per_inference_j, '.5g'):>12}  {', '.join(row.flags)}".rstrip()
        )
    return lines
