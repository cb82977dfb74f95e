"""Whether examples look like those that a bundle's integer ranges came from.

A model that was trained on 0..255 answers 0..1 as readily, and as wrongly: nothing fails, and accuracy falls to chance.
So a conversion records how the first integers of the backbone (its quantised inputs) are distributed over the
examples it was calibrated on, and whoever brings data of his own holds them against that: a few hundred examples, no
inference. Devices differ by nature, so only what leaves the model blind is refused; the rest is one warning.

numpy only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.datafiles.rows import are_token_ids
from protos.datafiles.stored import Rows
from protos.errors import DataError
from protos.model.backbone import quantise
from protos.model.json_values import decode
from protos.model.manifest import BackboneSpec, Manifest, Preprocessing

RECORD = "inputs"
"""Key in the manifest's provenance."""
EXAMPLES = 256
"""So many examples are looked at: their mean is known to a sixteenth of their deviation, even if each is one value."""
_BLOCKS = 16
# Raw values that are read of examples to be looked at, at most; and how many are quantised at once, in float64.
_MOST_BYTES = 16 << 20
_AT_ONCE = 1 << 17
_LEVELS = 256
# Fewer say too little.
_LEAST = 8
_MOST_CHANNELS = 64
# Less than this share of the calibrated deviation, or more than that share at one end of the range, leaves a model
# nothing to tell classes apart by: 0..1 in place of 0..255 has 1/255 of the deviation.
_BLIND_SPREAD = 0.05
_BLIND_END, _SEEING_END = 0.98, 0.75
# In deviations of the calibration; as factors; as a share of all values.
_SHIFT, _WIDER, _MORE_AT_ENDS = 1.5, 2.5, 0.25
# Raw values that go so far outside the calibrated range (a share of its width), and so many more at its ends.
_OUTSIDE, _CLIPPED = 0.25, 0.05
_TOKENISER = "number the words as the model's tokeniser does, or convert with --calibrate on such data"


@dataclasses.dataclass(frozen=True, slots=True)
class InputRecord:
    """How raw values and the backbone's first integers are distributed.

    Attributes:
        examples: looked at.
        raw_low, raw_high, raw_mean: of the raw values.
        levels: how many different integers occur, of 256.
        low_share, high_share: of the values, how many are the least and the greatest integer.
        mean, deviation: of the integers of each channel (last dimension); one entry for all where there are more than
            64 channels. Of token ids the integers are 0 to 255, which part of the vocabulary an id is in, and there is
            one entry for all: a place in a text is no channel.
    """

    examples: int
    raw_low: float
    raw_high: float
    raw_mean: float
    levels: int
    low_share: float
    high_share: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def sample(rows: Rows, count: int = EXAMPLES) -> npt.NDArray[Any]:
    """About ``count`` examples, in runs spread evenly over all; only these are read."""
    return np.concatenate([np.asarray(rows[run]) for run in _runs(len(rows), count)])


def places_looked_at(rows: Rows) -> npt.NDArray[np.int64]:
    """Which rows :func:`held_against` reads, int64 [K]: so many that the raw values of all K fit 16 MB, 256 at
    most, and 8 of examples that are larger than that allows: they are read one after another."""
    every = np.arange(len(rows), dtype=np.int64)
    return np.concatenate([every[run] for run in _runs(len(rows), _count_of(rows))])


def _count_of(rows: Rows) -> int:
    each = max(1, rows.dtype.itemsize * math.prod(rows.shape[1:]))
    return max(_LEAST, min(EXAMPLES, _MOST_BYTES // each))


def _runs(length: int, count: int) -> list[slice]:
    if length <= count:
        return [slice(0, length)]
    blocks = min(_BLOCKS, count)
    size = count // blocks
    return [slice(start, start + size) for start in np.linspace(0, length - size, blocks).astype(int).tolist()]


def record_of_inputs(raw: npt.NDArray[Any], spec: BackboneSpec, preprocessing: Preprocessing) -> InputRecord:
    """The record of raw examples, [N, *input_shape], N >= 1; values are rounded to 6 digits."""
    tally = _Tally(spec, preprocessing)
    tally.add(raw)
    return tally.record()


class _Tally:
    """Counts how often each integer comes in each channel, a few examples at a time: the counts ``n_k`` of the 256
    values ``k`` of a channel hold its mean ``m = sum n_k k / N`` and its deviation ``sqrt(sum n_k (k - m)^2 / N)``
    exactly, and no array of all examples is ever made."""

    def __init__(self, spec: BackboneSpec, preprocessing: Preprocessing) -> None:
        self._spec, self._preprocessing = spec, preprocessing
        channels = spec.input_shape[-1]
        self._columns = channels if channels <= _MOST_CHANNELS and spec.vocabulary is None else 1
        self._low = int(np.iinfo(spec.input_dtype).min) if spec.vocabulary is None else 0
        self._counts = np.zeros((self._columns, _LEVELS), np.int64)
        self._examples, self._values, self._sum = 0, 0, 0.0
        self._raw_low, self._raw_high = math.inf, -math.inf

    def add(self, raw: npt.NDArray[Any]) -> None:
        """Count raw examples, [N, ...] of as many values each as the model takes."""
        each = max(1, math.prod(raw.shape[1:]))
        step = max(1, _AT_ONCE // each)
        for start in range(0, len(raw), step):
            self._add(raw[start : start + step])

    def _add(self, raw: npt.NDArray[Any]) -> None:
        self._raw_low = min(self._raw_low, float(raw.min()))
        self._raw_high = max(self._raw_high, float(raw.max()))
        self._sum += float(raw.sum(dtype=np.float64))
        self._values += raw.size
        self._examples += len(raw)
        codes = quantise(raw.reshape(len(raw), *self._spec.input_shape), self._spec, self._preprocessing)
        columns = codes.reshape(-1, self._columns).astype(np.int64) - self._low
        if self._spec.vocabulary is not None:
            columns = columns * _LEVELS // max(self._spec.vocabulary, _LEVELS)
        for at in range(self._columns):
            self._counts[at] += np.bincount(columns[:, at], minlength=_LEVELS)

    def record(self) -> InputRecord:
        """Of all that was counted, at least one example."""

        def rounded(value: Any) -> float:
            return float(f"{float(value):.6g}")

        levels = np.arange(_LEVELS, dtype=np.float64) + self._low
        each = self._counts.sum(axis=1)
        mean = self._counts @ levels / each
        deviation = np.sqrt((self._counts * (levels - mean[:, None]) ** 2).sum(axis=1) / each)
        total = self._counts.sum(axis=0)
        return InputRecord(
            examples=self._examples,
            raw_low=rounded(self._raw_low),
            raw_high=rounded(self._raw_high),
            raw_mean=rounded(self._sum / self._values),
            levels=int(np.count_nonzero(total)),
            low_share=rounded(total[0] / total.sum()),
            high_share=rounded(total[-1] / total.sum()),
            mean=tuple(rounded(one) for one in mean),
            deviation=tuple(rounded(one) for one in deviation),
        )


def recorded(provenance: Mapping[str, Any]) -> InputRecord | None:
    """What a conversion recorded; None of bundles from before, and of those made without examples."""
    value = provenance.get(RECORD)
    if value is None:
        return None
    record: InputRecord = decode(InputRecord, value, f"provenance.{RECORD}")
    return record


def held_against(manifest: Manifest, rows: Rows, *, where: str) -> str | None:
    """A warning with both figures where examples are unlike those of the calibration; None where they are alike.

    Args:
        manifest: of the bundle.
        rows: raw examples [N, ...], in the shape of the model but for dimensions of 1.
        where: their file, for the error.

    Raises:
        DataError: they are so unlike that the model cannot tell any of them apart.
    """
    known = recorded(manifest.provenance)
    return None if known is None else compared(known, manifest.backbone, manifest.preprocessing, rows, where=where)


def compared(
    known: InputRecord, spec: BackboneSpec, preprocessing: Preprocessing, rows: Rows, *, where: str
) -> str | None:
    """The same of a record and the backbone that it was made with."""
    if len(rows) < _LEAST:
        return None
    tally = _Tally(spec, preprocessing)
    few = max(1, _AT_ONCE // max(1, math.prod(rows.shape[1:])))
    for run in _runs(len(rows), _count_of(rows)):
        for start in range(run.start, run.stop, few):
            raw = np.asarray(rows[start : min(start + few, run.stop)])
            if raw.dtype.kind == "f" and not np.isfinite(raw).all():
                return None  # the check of the data says which example it is
            if spec.vocabulary is not None and not are_token_ids(raw, spec.vocabulary).all():
                return None  # likewise
            tally.add(raw)
    own = tally.record()
    values, parts = ("raw values", "input levels") if spec.vocabulary is None else ("token ids", "parts of the words")
    both = (
        f"{values} are {_raw(own)} and use {own.levels} of 256 {parts}; the bundle was calibrated on "
        f"{_raw(known)} with {known.levels} {parts.split()[-1] if spec.vocabulary is None else 'parts'}"
    )
    if _is_blind(own, known):
        raise DataError(
            f"these examples are not like those of the bundle, and its head would guess: {both}", where=where,
            fix="store the values as the model was calibrated on them (0 to 255 is not 0 to 1), or convert with "
            "--calibrate on such data and the right --preprocess" if spec.vocabulary is None else _TOKENISER,
        )  # fmt: skip
    if (reason := _unlike(own, known)) is not None:
        return f"these examples are unlike those of the bundle ({reason}): {both}"
    return None


def _raw(record: InputRecord) -> str:
    return f"{record.raw_low:.4g} to {record.raw_high:.4g} (mean {record.raw_mean:.4g})"


def _is_blind(own: InputRecord, known: InputRecord) -> bool:
    spread, usual = np.array(own.deviation), np.array(known.deviation)
    narrow = bool((spread <= _BLIND_SPREAD * usual).all()) and bool((usual > 0).any())
    at_an_end = any(
        mine >= _BLIND_END and theirs <= _SEEING_END
        for mine, theirs in ((own.low_share, known.low_share), (own.high_share, known.high_share))
    )
    return narrow or at_an_end


def _unlike(own: InputRecord, known: InputRecord) -> str | None:
    # A channel that hardly moves counts as moving by one level.
    usual = np.maximum(np.array(known.deviation), 1.0)
    shift = (np.array(own.mean) - np.array(known.mean)) / usual
    worst = int(np.abs(shift).argmax())
    if abs(shift[worst]) > _SHIFT:
        return f"the mean of channel {worst} lies {shift[worst]:+.1f} deviations away" if len(usual) > 1 else (
            f"their mean lies {shift[worst]:+.1f} deviations away"
        )  # fmt: skip
    wider = np.maximum(np.array(own.deviation), 1.0) / usual
    for channel in (int(wider.argmax()), int(wider.argmin())):
        if not 1 / _WIDER <= wider[channel] <= _WIDER:
            which = f"channel {channel}" if len(usual) > 1 else "they"
            return f"{which} spread{'s' if len(usual) > 1 else ''} {wider[channel]:.2g} times as wide"
    more = own.low_share + own.high_share - known.low_share - known.high_share
    if more > _MORE_AT_ENDS:
        return f"{own.low_share + own.high_share:.0%} of the values are at the ends of the range, there "\
            f"{known.low_share + known.high_share:.0%}"  # fmt: skip
    width = _OUTSIDE * (known.raw_high - known.raw_low)
    outside = own.raw_low < known.raw_low - width or own.raw_high > known.raw_high + width
    if outside and more > _CLIPPED:
        return f"{own.low_share + own.high_share:.0%} of the values lie outside the calibrated range or at its ends, "\
            f"there {known.low_share + known.high_share:.0%}"  # fmt: skip
    return None
