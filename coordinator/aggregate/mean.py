"""The weighted mean, folded as reports come: one float64 accumulator, whatever the number of devices.

Plain: ``sum_i w_i D_i`` with ``w`` normalised to 1. Its fixed point is pulled towards devices that make more steps.

FedNova (Wang, Liu, Liang, Joshi, Poor: "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, equation 6): ``tau_eff * sum_i w_i D_i / a_i`` with ``tau_eff = sum_i w_i a_i`` and
``a_i = ||a_i||_1`` of the local steps that device i did. Weights stay unnormalised while folding, so that nothing
must be known beforehand:

    S = sum W_i D_i / a_i,  T = sum W_i,  A = sum W_i a_i    =>    change = (A / T) * (S / T).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.update.trees import Shapes, Tree

Wide = dict[str, npt.NDArray[np.float64]]


# Coordinates that are folded at once: 256 KiB of products.
_AT_ONCE = 1 << 15


@dataclass
class MeanState:
    """The accumulators: sum of scaled updates, of weights, and of weights times normalisers."""

    total: Wide
    weight: float = 0.0
    work: float = 0.0


def start(shapes: Shapes) -> MeanState:
    """An empty mean of trees of these shapes."""
    return MeanState({name: np.zeros(tuple(shape), np.float64) for name, shape in sorted(shapes.items())})


def add_plain(state: MeanState, update: Tree, weight: float, normaliser: float) -> MeanState:
    """Fold in one update; nothing happens without weight or without steps."""
    return _add(state, update, weight, normaliser, 1.0)


def add_fednova(state: MeanState, update: Tree, weight: float, normaliser: float) -> MeanState:
    """Fold in one update divided by its ``normaliser``; nothing happens without weight or without steps."""
    return _add(state, update, weight, normaliser, normaliser)


def _add(state: MeanState, update: Tree, weight: float, normaliser: float, divisor: float) -> MeanState:
    if not weight > 0 or not normaliser > 0:
        return state
    scale = weight / divisor
    for name, total in state.total.items():
        _add_scaled(total.reshape(-1), update[name].reshape(-1), scale)
    state.weight += weight
    state.work += weight * normaliser
    return state


def _add_scaled(total: npt.NDArray[np.float64], values: npt.NDArray[np.float32], scale: float) -> None:
    """``total += scale * values`` in float64, in pieces that stay in a cache: the same bits as in one piece."""
    product = np.empty(min(_AT_ONCE, total.size))
    for start in range(0, total.size, _AT_ONCE):
        piece = product[: min(_AT_ONCE, total.size - start)]
        np.multiply(values[start : start + _AT_ONCE], scale, out=piece, dtype=np.float64)
        total[start : start + _AT_ONCE] += piece


def finish_plain(state: MeanState) -> Wide | None:
    """The weighted mean, or None when nothing was folded."""
    return _finish(state, 1.0)


def finish_fednova(state: MeanState) -> Wide | None:
    """The normalised mean, or None when nothing was folded."""
    return _finish(state, state.work / state.weight if state.weight else 0.0)


def _finish(state: MeanState, factor: float) -> Wide | None:
    if not state.weight:
        return None
    return {name: total * (factor / state.weight) for name, total in state.total.items()}
