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
    for name, total in state.total.items():
        total += (weight / divisor) * update[name].astype(np.float64)
    state.weight += weight
    state.work += weight * normaliser
    return state


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
