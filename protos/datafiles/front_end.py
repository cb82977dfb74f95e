"""What stands before a model whose examples are no arrays: sound to a log-mel picture, a table to rows, or to
windows of a series.

A bundle says it in one line, in the provenance of its manifest (``front_end``), so that every device makes the very
same values of its recordings as the conversion did of its examples:

    log-mel rate=16000 frame=512 hop=256 bins=40 frames=61
    windows length=128 hop=64 columns=ax,ay,az label=activity
    rows width=20 label=topic

Values are float32. Everything else of a model's preprocessing comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import UsageError

__all__ = ["KEY", "FrontEnd", "LogMel", "TableRows", "Windows", "declared", "front_end_of", "log_mel"]

KEY = "front_end"
"""In the provenance of a manifest."""
_LEAST_POWER = 1e-10


@dataclass(frozen=True)
class LogMel:
    """Logarithms of the energy in mel bands, [frames, bins].

    Attributes:
        rate: samples a second of the recordings, Hz.
        frame, hop: samples of a frame, and from one to the next.
        bins: mel bands from 20 Hz to half the rate.
        frames: of an example; a shorter recording is padded with silence, a longer one cut around its middle.
    """

    rate: int
    frame: int
    hop: int
    bins: int
    frames: int

    @property
    def samples(self) -> int:
        """Of one example."""
        return self.frame + self.hop * (self.frames - 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.frames, self.bins


@dataclass(frozen=True)
class Windows:
    """Stretches of a table's rows, [length, columns].

    Attributes:
        hop: rows from one to the next.
        columns: names of those with numbers, in the order of the model.
        label: name of the column with the class; a window over rows of several classes is left out.
    """

    length: int
    hop: int
    columns: tuple[str, ...]
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.length, len(self.columns)


@dataclass(frozen=True)
class TableRows:
    """Rows of a table, each an example of its own, [width]: the numbers beside the class, in the order of the columns.

    Attributes:
        label: name of the column with the class.
    """

    width: int
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.width,)


FrontEnd = LogMel | Windows | TableRows
_NUMBERS = {
    "log-mel": {"rate": (1000, 192_000), "frame": (16, 1 << 16), "hop": (1, 1 << 16), "bins": (2, 512),
                "frames": (1, 1 << 14)},
    "windows": {"length": (1, 1 << 20), "hop": (1, 1 << 20)},
    "rows": {"width": (1, 1 << 16)},
}  # fmt: skip


def front_end_of(text: str) -> FrontEnd:
    """What the line says.

    Raises:
        UsageError: it is none, and why.

    >>> front_end_of("windows length=128 hop=64 columns=x,y label=what").shape
    (128, 2)
    """
    kind, *words = text.split()[:20] or [""]
    fix = (
        "write it like: log-mel rate=16000 frame=512 hop=256 bins=40 frames=61; windows length=128 hop=64 columns=x,y; "
        "rows width=20 label=topic"
    )
    if kind not in _NUMBERS:
        raise UsageError(f"{kind[:40]!r} is no front end", where=KEY, fix=fix)
    said = dict(word.partition("=")[::2] for word in words)
    numbers: dict[str, int] = {}
    for name, (low, high) in _NUMBERS[kind].items():
        value = said.pop(name, "")
        if not value.isdecimal() or not low <= int(value) <= high:
            raise UsageError(f"{name}={value[:20]} is no number from {low} to {high}", where=KEY, fix=fix)
        numbers[name] = int(value)
    if kind == "log-mel":
        made: FrontEnd = LogMel(**numbers)
    elif kind == "rows":
        made = TableRows(label=said.pop("label", "label"), **numbers)
    else:
        columns = tuple(part for part in said.pop("columns", "").split(",") if part)
        if not columns or len(set(columns)) != len(columns):
            raise UsageError("columns= names no columns, or one twice", where=KEY, fix=fix)
        made = Windows(columns=columns, label=said.pop("label", "label"), **numbers)
    if said:
        raise UsageError(f"{kind} has no {sorted(said)[0][:40]!r}", where=KEY, fix=fix)
    return made


def declared(provenance: Mapping[str, Any]) -> FrontEnd | None:
    """The front end of a bundle, or None when its examples are arrays or images.

    Raises:
        UsageError: this version does not know it.
    """
    said = provenance.get(KEY)
    return front_end_of(said) if isinstance(said, str) else None


def log_mel(samples: NDArray[Any], spec: LogMel) -> NDArray[np.float32]:
    """A log-mel picture of a recording.

    1. cut around the middle, or padded with zeros behind, to ``spec.samples``;
    2. frames of ``frame`` samples every ``hop``, under a Hann window w_n = (1 - cos(2 pi n / N)) / 2;
    3. power spectrum ``|rfft|^2 / N``;
    4. triangular bands whose centres are evenly spaced in mel, ``m = 2595 log10(1 + f / 700)`` (O'Shaughnessy 1987);
    5. ``log10(max(energy, 1e-10))``.

    Args:
        samples: real [n], -1 to 1, at ``spec.rate``.

    Returns:
        float32 [frames, bins].
    """
    wanted, values = spec.samples, np.asarray(samples, np.float64)
    if len(values) > wanted:
        first = (len(values) - wanted) // 2
        values = values[first : first + wanted]
    values = np.pad(values, (0, wanted - len(values)))
    frames = np.lib.stride_tricks.sliding_window_view(values, spec.frame)[:: spec.hop]
    window = 0.5 * (1.0 - np.cos(2.0 * np.pi * np.arange(spec.frame) / spec.frame))
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2 / spec.frame
    energy = power @ _bands(spec.rate, spec.frame, spec.bins)
    result: NDArray[np.float32] = np.log10(np.maximum(energy, _LEAST_POWER)).astype(np.float32)
    return result


@cache
def _bands(rate: int, frame: int, bins: int) -> NDArray[np.float64]:
    """Triangles, [frame // 2 + 1, bins]."""
    low, high = 2595.0 * np.log10(1.0 + np.array([20.0, rate / 2.0]) / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(low, high, bins + 2) / 2595.0) - 1.0)
    hertz = np.arange(frame // 2 + 1)[:, None] * rate / frame
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    bands: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return bands
