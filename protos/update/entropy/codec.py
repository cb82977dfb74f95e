"""`entropy_coded` and `entropy_coded_mmse`: evenly spaced levels and an entropy coder, at any real rate.

One step over all tensors is reverse water-filling: a tensor of small values costs few bits and gets small errors.
No rotation: what the values are like (heavy tails, layers of unlike scale) is what the entropy coder lives on, and a
rotation would make all of it Gaussian. The whole tree is one message and one stream.

* Dithered: E[decoded] = value for every value, up to 2**-17 of a step (the step is chosen with another dither; past
  2**17 coordinates with the same one, of which it then knows next to nothing). The error is step**2 / 12 throughout.
  Under ``_SPARSE_BITS`` bits a coordinate it is cheaper to send a random part of the coordinates better.
* MMSE: rounded to nearest, levels at about the means, all times ||x||^2 / <x, decoded>, so that the inner product with
  the value is kept: the error is D / (1 - D) at distortion D. Not unbiased coordinate by coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protos.update.contract import Codec, State, stateless
from protos.update.entropy import rans, symbols
from protos.update.entropy.coordinates import Fitted, Pricer, Source, source, tokens_of
from protos.update.entropy.rate import payload_bits, step_for
from protos.update.entropy.reader import INSET, MAX_INSET, EntropyCoded, insets_of, laplace_inset
from protos.update.quantised import dither
from protos.update.reading import ABSURD
from protos.update.tensors import WHOLE_TREE, EncodedTensor
from protos.update.trees import FloatArray, Tree, coordinates

Sums = npt.NDArray[np.float64]

# Cheapest bits per coordinate that travels: where (1 + error) * bits has its minimum for a Gaussian.
_SPARSE_BITS = 0.75
_ALL_SEEN = 1 << 17
_SAMPLE = 1 << 15
_GUESSED_FIXED_BITS = 8.0 * 24  # of tables and coder states, before there is a model


def header_bits(tensors: int, total: int, *, dithered: bool, shared: bool, gains: bool) -> float:
    """What the message around the codes takes, tables and codes aside."""
    numbers = 2 + max(1, -(-total.bit_length() // 7)) + 3 + 2 + 2 * (5 if total > 4096 else 3)
    seeds = (5 if dithered else 6) + (4 if shared else 0)
    return 8.0 * (numbers + 5 + seeds + 2 + tensors + ((2 + tensors) if gains else 0))


def _codes(own: Source, chosen: Fitted, step: float, insets: tuple[int, int]) -> EntropyCoded:
    whole, high = tokens_of(chosen)
    tokens, tails = symbols.tokens(high, chosen.model, chosen.row)
    return EntropyCoded(
        step,
        own.seed,
        own.share,
        *insets,
        own.levels(chosen.levels),
        own.gains,
        chosen.model.data,
        rans.encode(tokens, chosen.model.frequencies, chosen.model.precision),
        symbols.low_bits(whole, chosen.placed.splits, own.sizes),
        tails,
    )


def _multiple(laplacian: Sums, off: Sums, number: Sums) -> int:
    """The multiple of a Laplacian's insets that leaves the least error, over tensors.

    Args:
        off: sum of |q| - |x| over the numbers of a kind, for each tensor; ``number``: how many there are.
    """
    best = float(laplacian @ off) / max(1e-12, float((laplacian * laplacian) @ number))
    return min(MAX_INSET, max(0, round(best * INSET)))


def _rescaled(own: Source, chosen: Fitted, step: float) -> EntropyCoded:
    """Insets and the factor that keeps the inner product."""
    begins = np.concatenate([[0], np.cumsum(own.sizes)[:-1]]).astype(np.intp)

    def sums(values: FloatArray | npt.NDArray[np.bool_]) -> Sums:
        return np.add.reduceat(values, begins, dtype=np.float64)

    size = np.abs(own.values)
    size *= np.float32(1 / step)
    whole = np.abs(chosen.whole)
    first, beyond = whole == 1, whole > 1
    first_size, beyond_size = sums(size * first), sums(size * beyond)
    firsts, beyonds = sums(first), sums(beyond)
    laplacian = np.array([laplace_inset(level) for level in chosen.levels])
    insets = (
        _multiple(laplacian, firsts - first_size, firsts),
        _multiple(laplacian, sums(whole) - firsts - beyond_size, beyonds),
    )
    moved = np.array([insets_of(level, *insets) for level in chosen.levels])
    inner = float(whole @ size) - float(moved[:, 0] @ first_size) - float(moved[:, 1] @ beyond_size)
    if inner <= 0:
        return EntropyCoded(0.0)
    return _codes(own, chosen, _travelling(step * float(size @ size) / inner), insets)


def _travelling(step: float) -> float:
    return float(np.float32(min(step, ABSURD)))


def _coded(
    tree: Tree, target: float, *, dithered: bool, per_tensor: bool, generator: np.random.Generator
) -> EntropyCoded:
    moved = [array for _, array in sorted(tree.items()) if array.size]
    total = sum(array.size for array in moved)
    if not total:
        return EntropyCoded(0.0)
    budget = target * total
    header = header_bits(len(tree), total, dithered=dithered, shared=target < _SPARSE_BITS, gains=per_tensor)
    rate = payload_bits(budget, header + _GUESSED_FIXED_BITS) / total
    share = max(1, round(rate / _SPARSE_BITS * dither.WHOLE)) if dithered and rate < _SPARSE_BITS else 0
    drawing = generator if dithered else None
    own = source(tree, share=share, per_tensor=per_tensor, generator=drawing)
    if not own.values.size:
        return EntropyCoded(0.0)
    # A step that had looked at the dither would correlate with it, and the mean would be off.
    looked = own
    if dithered and total <= _ALL_SEEN:
        another = source(tree, share=share, per_tensor=per_tensor, generator=drawing)
        looked = another if any(another.means) else own
    pricer = Pricer(looked, header)
    top = float(np.abs(looked.values).max())
    # At a low rate most numbers are 0, and a larger sample says as much.
    stride = max(1, int(looked.values.size / _SAMPLE * min(1.0, budget / looked.values.size)))
    step, found = step_for(
        (lambda step: pricer.estimated(step, stride)) if stride > 1 else None,
        pricer.fitted,
        budget,
        count=looked.values.size,
        top=top,
        finest=top / symbols.MAX_WHOLE,
    )
    step = _travelling(step)
    if looked is not own:
        found = Pricer(own, header).fitted(step)
    return _codes(own, found, step, (0, 0)) if dithered else _rescaled(own, found, step)


def _build(name: str, dithered: bool, parameters: Mapping[str, float]) -> Codec:
    target, per_tensor = parameters["bits"], bool(parameters["per_tensor"])

    def encode(tree: Tree, state: State, generator: np.random.Generator) -> tuple[tuple[EncodedTensor, ...], State]:
        coded = _coded(tree, target, dithered=dithered, per_tensor=per_tensor, generator=generator)
        return (EncodedTensor(WHOLE_TREE, (coordinates(tree),), coded),), state

    return Codec(name, stateless, encode)


def entropy_coded(parameters: Mapping[str, float]) -> Codec:
    """Dithered: exactly unbiased. ``bits`` per coordinate; ``per_tensor`` 1: steps proportional to each rms."""
    return _build("entropy_coded", True, parameters)


def entropy_coded_mmse(parameters: Mapping[str, float]) -> Codec:
    """To nearest, inner product kept. Parameters as :func:`entropy_coded`."""
    return _build("entropy_coded_mmse", False, parameters)
