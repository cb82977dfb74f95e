"""What a coordinator does with the mean of changes: a table of steps with explicit state.

A step maps (change, state) to (move of the head, new state). With D the mean change of a round, as the rule of
:mod:`coordinator.aggregate.rules` gives it, and eta the plan's ``server_rate``:

    mean      head += eta D                                     FedAvg (McMahan et al., AISTATS 2017)
    momentum  m = beta m + D,  head += eta m                    FedAvgM (Hsu, Qi, Brown 2019, arXiv 1909.06335)
    adam      m = beta m + (1 - beta) D,  v = beta2 v + (1 - beta2) D^2,
              head += eta m / (sqrt(v) + tau)                   FedAdam (Reddi et al., ICLR 2021, arXiv 2003.00295)
    yogi      the same with v = v - (1 - beta2) D^2 sign(v - D^2)   FedYogi (the same)

``v`` begins at tau^2, as there. States are float32 trees, so that what a restart reads is what went on in memory.

The contract of every row (one test-suite runs over the table): no change moves nothing when there is no state yet; a
step changes neither its arguments nor depends on anything else; the first move has the sign of the change in every
coordinate; a state written down and read again goes on with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.aggregate.mean import Wide
from protos.update.trees import Shapes, Tree

Reals = npt.NDArray[np.float64]

_FIRST, _SECOND = "first/", "second/"


@dataclass(frozen=True)
class ServerSettings:
    """beta, beta2 and tau of the formulas above."""

    momentum: float
    second: float
    tau: float


Step = Callable[[Wide, Tree, ServerSettings], tuple[Wide, Tree]]


@dataclass(frozen=True)
class ServerOptimiser:
    """A row of the table.

    Attributes:
        start: shapes and settings to the state before the first round; empty for a step without any.
        step: see above; the move is not yet multiplied with ``server_rate``.
    """

    start: Callable[[Shapes, ServerSettings], Tree]
    step: Step
    meaning: str

    def from_state(self, state: Tree, shapes: Shapes, settings: ServerSettings) -> Tree:
        """What a round begins with: ``state`` where it is one of this step, and else the start, as before the first
        round, or when the run had another plan."""
        begun = self.start(shapes, settings)
        return state if state.keys() == begun.keys() else begun


def _nothing(shapes: Shapes, settings: ServerSettings) -> Tree:
    return {}


def _zeros(shapes: Shapes, settings: ServerSettings) -> Tree:
    return {f"{_FIRST}{name}": np.zeros(tuple(shape), np.float32) for name, shape in sorted(shapes.items())}


def _moments(shapes: Shapes, settings: ServerSettings) -> Tree:
    second = {
        f"{_SECOND}{name}": np.full(tuple(shape), settings.tau**2, np.float32) for name, shape in sorted(shapes.items())
    }
    return {**_zeros(shapes, settings), **second}


def _mean(change: Wide, state: Tree, settings: ServerSettings) -> tuple[Wide, Tree]:
    return change, state


def _momentum(change: Wide, state: Tree, settings: ServerSettings) -> tuple[Wide, Tree]:
    after = {
        f"{_FIRST}{name}": (settings.momentum * state[f"{_FIRST}{name}"].astype(np.float64) + value).astype(np.float32)
        for name, value in change.items()
    }
    return {name: after[f"{_FIRST}{name}"].astype(np.float64) for name in change}, after


def _adam_second(before: Reals, square: Reals, settings: ServerSettings) -> Reals:
    grown: Reals = settings.second * before + (1.0 - settings.second) * square
    return grown


def _yogi_second(before: Reals, square: Reals, settings: ServerSettings) -> Reals:
    grown: Reals = before - (1.0 - settings.second) * square * np.sign(before - square)
    return grown


def _adaptive(second: Callable[[Reals, Reals, ServerSettings], Reals]) -> Step:
    def step(change: Wide, state: Tree, settings: ServerSettings) -> tuple[Wide, Tree]:
        after: Tree = {}
        moves: Wide = {}
        for name, value in change.items():
            first = state[f"{_FIRST}{name}"].astype(np.float64)
            size = state[f"{_SECOND}{name}"].astype(np.float64)
            first = settings.momentum * first + (1.0 - settings.momentum) * value
            after[f"{_FIRST}{name}"] = first.astype(np.float32)
            after[f"{_SECOND}{name}"] = second(size, np.square(value), settings).astype(np.float32)
            size = after[f"{_SECOND}{name}"].astype(np.float64)
            moves[name] = after[f"{_FIRST}{name}"].astype(np.float64) / (np.sqrt(np.maximum(size, 0.0)) + settings.tau)
        return moves, after

    return step


SERVER_OPTIMISERS: Mapping[str, ServerOptimiser] = {
    "mean": ServerOptimiser(_nothing, _mean, "the mean of changes itself (FedAvg)"),
    "momentum": ServerOptimiser(_zeros, _momentum, "heavy-ball momentum over rounds (FedAvgM)"),
    "adam": ServerOptimiser(_moments, _adaptive(_adam_second), "Adam over rounds (FedAdam)"),
    "yogi": ServerOptimiser(_moments, _adaptive(_yogi_second), "Yogi over rounds (FedYogi)"),
}
