"""The head on its way down: as the coded difference from the head that devices hold already.

H is the head that the coordinator makes; D is the one that devices hold and train from. They are kept apart:

    D' = D + s C(H - D),

with C a codec and s = 1 as long as that leaves clearly less than there was; else s = <H - D, C> / ||C||^2, which
travels along and leaves the least. So the code of any codec at any rate brings D nearer to H, also that of an unbiased
one at so few bits that its error is larger than the difference. Sums are made in float32, one coordinate at a time, so
that both ends get the same bits. What the coding of one round lost is part of the next difference: error feedback with
H - D as its residual (Seide et al. 2014), as in DoubleSqueeze (Tang et al., ICML 2019) and EF21-BC (Fatkhullin et al.
2021) for their way down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.errors import UpdateError
from protos.update import trees
from protos.update.contract import Codec
from protos.update.tensors import ABSURD, EncodedTensor, decode
from protos.update.trees import Shapes, Tree
from protos.update.wrappers import apply_difference

# Devices on another processor would rebuild other bits: a rotation is read by a product of matrices, whose sums are
# made in the order that suits the processor.
NOT_EXACT = ("eden",)
MAX_SCALE = 4.0
# What is left of H - D after a coding, at most, for the code to be worth sending.
_MOST_LEFT = 0.99
# Up to this part the code stays as it is: its noise is gone in the next difference, while a smaller step would let D
# fall behind. Beyond, noise would add up faster than it goes.
_PLAIN_UP_TO = 0.8


@dataclass(frozen=True)
class Difference:
    """What is added to one head for the next: ``scale`` times the values of the tensors."""

    tensors: tuple[EncodedTensor, ...]
    scale: float = 1.0


def step_towards(head: Tree, held: Tree, codec: Codec, random: np.random.Generator) -> tuple[Difference, Tree] | None:
    """The code of ``head - held``, and what its reader holds afterwards; None when the code would hardly help.

    Args:
        codec: how to code. A memory of its own stays empty: H - D is the memory.
    """
    wanted = trees.subtract(head, held)
    tensors, _ = codec.encode(wanted, codec.init(trees.shapes(wanted)), random)
    decoded = decode(tensors, trees.shapes(wanted))
    difference = Difference(tensors, _scale(wanted, decoded))
    reached = _moved(held, decoded, difference.scale)
    left = trees.norm(trees.subtract(head, reached))
    if not _sensible(reached) or not left < _MOST_LEFT * trees.norm(wanted):
        return None
    return difference, reached


def rebuild(base: Tree, differences: Sequence[Difference], expected: Shapes) -> Tree:
    """The head that ``differences`` lead to, one after the other, from ``base``.

    Raises:
        UpdateError: a difference that is not as declared and expected, or leads to absurd numbers.
    """
    head = base
    for number, difference in enumerate(differences, 1):
        try:
            if not 0 < difference.scale <= MAX_SCALE:
                raise UpdateError(f"a scale of {difference.scale:g}")
            head = _moved(head, decode(difference.tensors, expected), difference.scale)
            if not _sensible(head):
                raise UpdateError(f"leads beyond {ABSURD:g}")
        except UpdateError as error:
            raise UpdateError(f"difference {number} of {len(differences)}: {error}", where="head") from error
    return head


def _moved(held: Tree, decoded: Tree, scale: float) -> Tree:
    if scale != 1.0:
        factor = np.float32(scale)
        decoded = {name: factor * array for name, array in decoded.items()}
    return apply_difference(held, decoded)


def _scale(wanted: Tree, decoded: Tree) -> float:
    """1, or the factor on the code that leaves the least of what was wanted, as float32 has it."""
    product = square = whole = 0.0
    for name, array in decoded.items():
        one, other = wanted[name].ravel().astype(np.float64), array.ravel().astype(np.float64)
        product += float(one @ other)
        square += float(other @ other)
        whole += float(one @ one)
    if not (square > 0 and product > 0):
        return 1.0
    best = product / square
    if whole - 2 * product + square <= _PLAIN_UP_TO**2 * whole or not math.isfinite(best):
        return 1.0
    return float(np.float32(min(best, MAX_SCALE)))


def _sensible(head: Tree) -> bool:
    return all(float(np.abs(array).max(initial=0)) <= ABSURD for array in head.values())
