"""What came of a simulated run: rows as of a real one, and the same as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.api import Outcome
from coordinator.operator.status import RunStatus
from protos.energy.trace import Phase
from protos.orders import StopReason
from protos.update.trees import Tree

PHASES = (Phase.IDLE, Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND, Phase.RECEIVE)
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Simulated:
    """What came of a simulated run.

    Attributes:
        outcome: rows as of a real run.
        head: after the last round that closed, float32 arrays by name.
        arrays: with R rounds, N devices in the order of ``device_ids``, and phases idle, embed, train, encode, send:
            ``accuracy`` and ``loss`` float64 [R + 1], round 0 first, NaN where nobody looked;
            ``energy_j`` float64 [R, N, 5], J, NaN where it was not told; ``seconds`` float64 [R, N, 5];
            ``ordered``, ``accepted``, ``cut`` (short by a budget) bool [R, N];
            ``steps`` int64 [R, N]; ``weight`` float64 [R, N];
            ``bytes_up``, ``bytes_down`` int64 [R, N]; ``examples`` int64 [N];
            ``true_j`` float64 [N]: all that each spent but idling, also what no report told.
        device_ids: of the arrays.
        kinds: the board of each.
        engine: "exact", "vectorised" or "ray".
        virtual_s: how long the run would have taken.
        wall_s: how long the simulation took.
        plan: the plan that ran, as TOML.
        notes: what is to be known of it, in words: devices that declined, what was left out of the rows.
        status: the run as an operator would see it; without rows of devices where there are very many.
    """

    outcome: Outcome
    head: Tree
    arrays: Arrays
    device_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    engine: str
    virtual_s: float
    wall_s: float
    plan: str
    notes: tuple[str, ...] = ()
    status: RunStatus | None = field(default=None, repr=False)

    @property
    def device_rounds(self) -> int:
        """Orders that were given."""
        return int(self.arrays["ordered"].sum())


def empty_arrays(rounds: int, devices: int) -> Arrays:
    """Arrays of a run in which nothing happened."""
    unknown = np.full((rounds, devices, len(PHASES)), np.nan)
    counts = {name: np.zeros((rounds, devices), np.int64) for name in ("steps", "bytes_up", "bytes_down")}
    flags = {name: np.zeros((rounds, devices), np.bool_) for name in ("ordered", "accepted", "cut")}
    return {
        "accuracy": np.full(rounds + 1, np.nan),
        "loss": np.full(rounds + 1, np.nan),
        "energy_j": unknown,
        "seconds": unknown.copy(),
        **flags,
        **counts,
        "weight": np.zeros((rounds, devices)),
        "examples": np.zeros(devices, np.int64),
        "true_j": np.zeros(devices),
    }


def arrays_of(run: RunStatus, device_ids: Sequence[str]) -> Arrays:
    """A run's rounds as arrays; rounds that did not close are left out."""
    closed = [this_round for this_round in run.rounds if this_round.state == "closed"]
    made = empty_arrays(max(0, len(closed) - 1), len(device_ids))
    place = {name: at for at, name in enumerate(device_ids)}
    for at, this_round in enumerate(closed):
        made["accuracy"][at] = np.nan if this_round.accuracy is None else this_round.accuracy
        made["loss"][at] = np.nan if this_round.loss is None else this_round.loss
        for device in this_round.devices:
            if this_round.round == 0:
                continue
            where = at - 1, place[device.device_id]
            made["ordered"][where] = True
            made["accepted"][where] = device.outcome == "accepted"
            made["cut"][where] = device.stop_reason == StopReason.BUDGET
            made["steps"][where] = device.steps_done
            made["weight"][where] = device.weight
            made["bytes_up"][where] = device.bytes_up
            made["bytes_down"][where] = device.bytes_down
            made["examples"][where[1]] = max(device.examples, made["examples"][where[1]])
            for record in device.energy:
                if record.phase in PHASES and record.energy_j is not None:
                    cell = (*where, PHASES.index(record.phase))
                    made["energy_j"][cell] = record.energy_j
                    made["seconds"][cell] = record.covered_s + record.uncovered_s
    return made
