"""`entropy_coded` and `entropy_coded_mmse`: evenly spaced levels and an entropy coder, at any real rate.

One step over all tensors is reverse water-filling: a tensor of small values costs few bits and gets small errors.
No rotation: what the values are like (heavy tails, layers of unlike scale) is what the entropy coder lives on, and a
rotation would make all of it Gaussian.

* Dithered: E[decoded] = value for every value, up to 2**-17 of a step (the step is chosen with another dither; past
  2**17 coordinates with the same one, of which it then knows next to nothing). The error is step**2 / 12 throughout.
  Under ``_SPARSE_BITS`` bits a coordinate it is cheaper to send a random part of the coordinates better.
* MMSE: rounded to nearest, levels at the means, all times ||x||^2 / <x, decoded>, so that the inner product with the
  value is kept: the error is D / (1 - D) at distortion D. Not unbiased coordinate by coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.update import dither, rans, symbols
from protos.update.contract import Codec, State, stateless
from protos.update.entropy import INSET, EntropyCoded
from protos.update.frequencies import Model, fit, ideal_bits
from protos.update.packing import pack
from protos.update.rate import payload_bits, step_for
from protos.update.reading import ABSURD
from protos.update.tensors import EncodedTensor
from protos.update.trees import FloatArray, Tree

# Cheapest bits per coordinate that travels: where (1 + error) * bits has its minimum for a Gaussian.
_SPARSE_BITS = 0.75
_ALL_SEEN = 1 << 17
_NOTHING = 1e-30  # a tensor without a coordinate beyond this travels as zeros
_SAMPLE = 1 << 15
_PLAIN_MEAN = 2.0  # mean |q| from which knowing the dither saves nothing worth its table
_CONTEXT_SIZE = 1500  # coordinates from which a table for each quarter of the dither pays
_CONTEXT_SURE = 1 << 16  # and from which it is not worth looking whether it does
_FINE_MEAN = 5.3  # mean |q| up to which no low bits are split off


@dataclass(frozen=True)
class Source:
    """A tensor on its way: flat values that travel, in units of ``scale``."""

    name: str
    shape: tuple[int, ...]
    values: FloatArray
    scale: float
    seed: int | None
    share: int
    u: FloatArray | None
    shorter: int

    def part(self, stride: int) -> Source:
        u = None if self.u is None else self.u[::stride]
        return Source(self.name, self.shape, self.values[::stride], self.scale, self.seed, self.share, u, self.shorter)


@dataclass(frozen=True)
class Fitted:
    """Whole numbers of a source and the model that codes them."""

    whole: symbols.Whole
    high: symbols.Whole
    context: npt.NDArray[np.uint8] | None
    split: int
    model: Model
    cost_bits: float
    shorter: int

    @property
    def fixed_bits(self) -> float:
        # A lane's state starts with 16 bits and ends with 8 that say nothing, on average.
        return 8.0 * len(self.model.data) + 24.0 * rans.layout(self.whole.size, self.shorter)[1]

    @property
    def total_bits(self) -> float:
        return self.coded_bits + self.fixed_bits

    @property
    def coded_bits(self) -> float:
        return self.cost_bits - 8.0 * len(self.model.data) + self.split * self.whole.size


def _rounded(source: Source, step: float) -> tuple[symbols.Whole, int, bool]:
    """Whole numbers, how many low bits of them to split off, and whether knowing the dither helps."""
    scaled = source.values * np.float32(1.0 / (step * source.scale))
    if source.u is not None:
        scaled += source.u
    whole = np.rint(scaled, out=scaled).astype(np.int32)
    mean = float(np.abs(scaled, out=scaled).mean(dtype=np.float64))
    split = min(symbols.MAX_SPLIT, max(0, math.floor(math.log2(max(mean, 1e-9) / _FINE_MEAN))))
    return whole, split, source.u is not None and mean < _PLAIN_MEAN


def _by_dither(source: Source, whole: symbols.Whole) -> tuple[symbols.Whole, npt.NDArray[np.uint8]]:
    assert source.u is not None
    return np.where(source.u < 0, -whole, whole), symbols.context_of(source.u)


def estimated_bits(source: Source, step: float) -> float:
    """What :func:`fitted` would come to, without its table: quick."""
    whole, split, helps = _rounded(source, step)
    if helps and whole.size >= _CONTEXT_SIZE:
        return ideal_bits(*symbols.count(*_by_dither(source, whole)))
    return ideal_bits(*symbols.count(whole >> split, None)) + split * whole.size


def fitted(source: Source, step: float) -> Fitted:
    """Round ``source`` with a step in its own units, and fit a model."""
    whole, split, helps = _rounded(source, step)
    best: Fitted | None = None
    if helps and whole.size >= _CONTEXT_SIZE:
        turned, context = _by_dither(source, whole)
        best = Fitted(whole, turned, context, 0, *fit(*symbols.count(turned, context), split=0), source.shorter)
        if whole.size >= _CONTEXT_SURE:
            return best
    high = whole >> split if split else whole
    plain = Fitted(whole, high, None, split, *fit(*symbols.count(high, None), split=split), source.shorter)
    return plain if best is None or plain.total_bits < best.total_bits else best


def _codes(source: Source, chosen: Fitted, step: float, insets: tuple[int, int]) -> EntropyCoded:
    tokens, tails = symbols.split_off(chosen.high, chosen.model)
    if chosen.context is not None:
        tokens = tokens + chosen.context.astype(np.int32) * np.int32(chosen.model.frequencies.shape[1])
    low = chosen.whole & np.int32((1 << chosen.split) - 1) if chosen.split else None
    return EntropyCoded(
        step,
        source.seed,
        source.share,
        chosen.split,
        chosen.context is not None,
        *insets,
        chosen.model.data,
        rans.encode(tokens, chosen.model.frequencies, chosen.model.precision, chosen.shorter),
        b"" if low is None else pack(low.astype(np.uint8), chosen.split),
        tails,
        chosen.shorter,
    )


def header_bytes(name: str, shape: Sequence[int]) -> int:
    """About what the message around the codes of one tensor takes."""
    return 34 + len(name.encode()) + sum(max(1, -(-int(size).bit_length() // 7)) for size in shape)


def _sources(tree: Tree, rate: float, dithered: bool, per_tensor: bool, generator: np.random.Generator) -> list[Source]:
    share = 0
    if dithered and rate < _SPARSE_BITS:
        share = max(1, round(rate / _SPARSE_BITS * dither.WHOLE))
    made = []
    # Many small tensors: the rows of each are walked one after the other, so they are made shorter.
    shorter = min(2, len(tree) // 8)
    for name in sorted(tree):
        flat = np.ascontiguousarray(tree[name], np.float32).ravel()
        top = max(float(flat.max(initial=0)), -float(flat.min(initial=0)))
        seed = int(generator.integers(1 << 32)) if dithered else None
        if top < _NOTHING:
            made.append(Source(name, tree[name].shape, flat[:0], 0.0, None, 0, None, 0))
            continue
        if share and seed is not None:
            flat = flat[dither.kept(seed, share, flat.size)]
        scale = math.sqrt(float(np.mean(np.square(flat, dtype=np.float64)))) if per_tensor and flat.size else 1.0
        u = None if seed is None else dither.dither(seed, flat.size)
        made.append(Source(name, tree[name].shape, flat, scale or 1.0, seed, share, u, shorter))
    return made


def _inset(size: FloatArray, whole: FloatArray, chosen: npt.NDArray[np.bool_]) -> int:
    if not chosen.any():
        return 0
    off = float((whole[chosen] - size[chosen]).mean(dtype=np.float64))
    return min(INSET // 2, max(0, round(off * INSET)))


def _mmse(source: Source, chosen: Fitted, step: float) -> tuple[tuple[int, int], float, float]:
    """Insets, ||x||^2, and <x, decoded> before the common factor."""
    size = np.abs(source.values) * np.float32(1 / (step * source.scale))
    whole = np.abs(chosen.whole).astype(np.float32)
    first, rest = _inset(size, whole, whole == 1), _inset(size, whole, whole > 1)
    level = whole - np.where(whole > 1, np.float32(rest / INSET), np.float32(first / INSET)) * (whole > 0)
    inner = float(np.dot(size.astype(np.float64), level)) * (step * source.scale) ** 2
    return (first, rest), float(np.sum(np.square(source.values, dtype=np.float64))), inner


def _finish(sources: Sequence[Source], found: Sequence[Fitted], step: float, per_tensor: bool) -> list[EntropyCoded]:
    if not any(source.u is None for source in sources):
        return [_codes(s, f, _travelling(step * s.scale), (0, 0)) for s, f in zip(sources, found, strict=True)]
    parts = [_mmse(source, one, step) for source, one in zip(sources, found, strict=True)]
    norm, inner = sum(part[1] for part in parts), sum(part[2] for part in parts)
    coded = []
    for source, one, (insets, own_norm, own_inner) in zip(sources, found, parts, strict=True):
        if own_inner <= 0:
            coded.append(EntropyCoded(0.0))
            continue
        factor = own_norm / own_inner if per_tensor else norm / inner
        coded.append(_codes(source, one, _travelling(step * source.scale * factor), insets))
    return coded


def _travelling(step: float) -> float:
    return float(np.float32(min(step, ABSURD)))


def _build(name: str, dithered: bool, parameters: Mapping[str, float]) -> Codec:
    target, per_tensor = parameters["bits"], bool(parameters["per_tensor"])

    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        moved = [name for name in sorted(tree) if np.abs(tree[name]).max(initial=0) >= _NOTHING]
        total = sum(tree[name].size for name in moved)
        headers = 8.0 * sum(header_bytes(name, tree[name].shape) for name in moved)
        rate = payload_bits(target * total, headers, len(moved)) / max(1, total)
        sources = _sources(tree, rate, dithered, per_tensor, generator)
        live = [source for source in sources if source.values.size]
        coded: dict[str, EntropyCoded] = {}
        if live and dithered and total <= _ALL_SEEN:
            # A step that had looked at the dither would correlate with it, and the mean would be off.
            looked = [source for source in _sources(tree, rate, True, per_tensor, generator) if source.values.size]
            step, _ = step_for(looked or live, fitted, looked or live, estimated_bits, target * total, headers)
            found = [fitted(source, step) for source in live]
            coded = {s.name: one for s, one in zip(live, _finish(live, found, step, False), strict=True)}
        elif live:
            stride = max(1, sum(source.values.size for source in live) // _SAMPLE)
            parts = [source.part(stride) for source in live]
            step, found = step_for(live, fitted, parts, estimated_bits, target * total, headers)
            done = _finish(live, found, step, per_tensor)
            coded = {source.name: one for source, one in zip(live, done, strict=True)}
        tensors = tuple(
            EncodedTensor(source.name, source.shape, coded.get(source.name, EntropyCoded(0.0))) for source in sources
        )
        return tensors, state

    return Codec(name, stateless, encode)


def entropy_coded(parameters: Mapping[str, float]) -> Codec:
    """Dithered: exactly unbiased. ``bits`` per coordinate; ``per_tensor`` 1: steps proportional to each rms."""
    return _build("entropy_coded", True, parameters)


def entropy_coded_mmse(parameters: Mapping[str, float]) -> Codec:
    """To nearest, inner product kept. Parameters as :func:`entropy_coded`."""
    return _build("entropy_coded_mmse", False, parameters)
