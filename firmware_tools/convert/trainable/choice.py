"""What each tail would cost a step, and which one is taken under a budget of memory and joules.

An estimate, by layers, of a batch of B examples. Memory is what is kept from the way forth to the way back, a byte for
each output of a ReLU and four for each input of a layer whose kernel trains, and beside it the fullest layer with what
it reads and gives. The compiled file is measured afterwards (:mod:`firmware_tools.convert.trainable.memory`), and what
turns out too large gives way to the next smaller choice. Work is counted in multiply-accumulates: once forth, once back
(but for the first layer), and once more for a kernel that trains. Joules are those above idle:

    joules = multiply-accumulates / MACS_PER_S * watts of one busy core

MACS_PER_S is assumed, for float kernels on one core of a Cortex-A72, and measured on no board. A device measures what
its steps take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from firmware_tools.convert.job import LAST_BLOCK
from firmware_tools.convert.trainable.graph import Layer, Tail
from protos.energy.boards import BoardProfile
from protos.errors import ModelError, UsageError

MACS_PER_S = 1e9
DEFAULT_BYTES = 4_000_000
# Each makes the file 13 kB larger, and a step a little slower.
BLOCKS = (1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A tail that may train, and what a step of it is expected to cost.

    Attributes:
        tail, kernels: its layers, and those whose kernels train beside all biases.
        memory_bytes: working memory of a step.
        macs: multiply-accumulates of a step.
        joules: of a step, above idle.
        blocks: in how many parts a step goes over its batch.
    """

    tail: Tail
    kernels: tuple[Layer, ...]
    memory_bytes: int
    macs: int
    joules: float
    blocks: int = 1

    def row(self) -> dict[str, Any]:
        """For the manifest and the report."""
        return {
            "cut": self.tail.cut,
            "shape": list(self.tail.shape),
            "biases": len(self.tail.biased),
            "kernels": len(self.kernels),
            "blocks": self.blocks,
            "memory_bytes": self.memory_bytes,
            "macs": self.macs,
            "joules": self.joules,
        }


def choices(
    found: tuple[Tail, ...], mode: str, pointwise: int, batch: int, classes: int, board: BoardProfile, *, where: str
) -> tuple[Choice, ...]:
    """Every tail of this kind, the latest cut first.

    Args:
        mode: ``BIAS`` or ``LAST_BLOCK`` of :mod:`firmware_tools.convert.job`.
        pointwise: how many 1 x 1 kernels train in the latter, counted from the last.

    Raises:
        ModelError: there are not so many.
    """
    made = []
    for tail in found:
        layers = tail.pointwise
        if mode == LAST_BLOCK and len(layers) < pointwise:
            continue
        kernels = layers[-pointwise:] if mode == LAST_BLOCK else ()
        macs = batch * (_macs(tail, kernels) + 3 * tail.width * classes)
        made.append(Choice(tail, kernels, _memory(tail, kernels, batch), macs, macs / MACS_PER_S * board.cpu_w))
    if not made:
        most = max((len(tail.pointwise) for tail in found), default=0)
        raise ModelError(
            f"has {most} layers of 1 x 1 that could train, and {pointwise} are asked for", where=where,
            fix="give --pointwise fewer, or train the biases alone: --trainable bias",
        )  # fmt: skip
    return tuple(made)


def fitting(
    offered: tuple[Choice, ...],
    most_bytes: int,
    most_joules: float | None,
    batch: int,
    *,
    blocks: tuple[int, ...] = BLOCKS,
    where: str,
) -> Iterator[Choice]:
    """Those within the budget, the one with most layers first, and of that the one in the fewest blocks.

    Raises:
        UsageError: none is.
    """
    affordable = [choice for choice in reversed(offered) if most_joules is None or choice.joules <= most_joules]
    found = [
        tried
        for choice in affordable
        for count in blocks
        if batch % count == 0 and (tried := in_blocks(choice, count, batch)).memory_bytes <= most_bytes
    ]
    if not found:
        least = min((in_blocks(offered[0], count, batch) for count in blocks if batch % count == 0), key=_bytes)
        share = min(most_bytes / least.memory_bytes, 1.0 if most_joules is None else most_joules / least.joules)
        smaller = max(1, int(batch * share))
        raise UsageError(
            f"the least that trains takes {least.memory_bytes / 1e3:.0f} kB and {least.joules:.3g} J a step of "
            f"{batch} examples, more than the budget", where=where,
            fix=f"allow more with --train-memory and --train-joules, or try --batch-size {smaller}",
        )  # fmt: skip
    yield from found


def _macs(tail: Tail, kernels: tuple[Layer, ...]) -> int:
    forth = sum(layer.macs for layer in tail.layers)
    back = sum(layer.macs for layer in tail.layers[1:])
    return forth + back + sum(kernel.macs for kernel in kernels)


def in_blocks(choice: Choice, blocks: int, batch: int) -> Choice:
    """The same, a step of which goes over its batch in so many blocks."""
    size = _memory(choice.tail, choice.kernels, batch // blocks)
    if blocks > 1:
        # What the other blocks read, and the gradient so far beside that of this block.
        size += (batch - batch // blocks) * int(np.prod(choice.tail.shape))
        trained = [layer.bias for layer in choice.tail.biased] + [layer.kernel for layer in choice.kernels]
        size += 2 * 4 * sum(int(np.prod(values.shape)) for values in trained if values is not None)
    return dataclasses.replace(choice, memory_bytes=size, blocks=blocks)


def _bytes(choice: Choice) -> int:
    return choice.memory_bytes


def _memory(tail: Tail, kernels: tuple[Layer, ...], batch: int) -> int:
    kept = int(np.prod(tail.shape))
    fullest = 0
    for layer in tail.layers:
        given, size = sum(int(np.prod(entry)) for entry in layer.given), int(np.prod(layer.shape))
        fullest = max(fullest, 4 * (given + size))
        kept += size if layer.activation != "NONE" else 0
        kept += 4 * given if any(layer is kernel for kernel in kernels) else 0
    return batch * (kept + fullest)
