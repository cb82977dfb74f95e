"""What devices would send if they were asked: a guess that is subtracted from what is sent, and added for everyone.

Any guess that does not depend on who is asked leaves the mean where it is; a good one takes away the variance of asking
few (as the stored updates of MIFA, Gu et al., NeurIPS 2021, and FedVARP, Jhunjhunwala et al., UAI 2022). A device's own
last change is a good guess as long as it is fresh, the head's last change afterwards: the first counts
:data:`FRESHNESS` to the power of its age in rounds. All changes are per unit of FedNova's normaliser, so that unlike
steps compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.aggregate.mean import Wide
from protos.update.trees import Tree

FRESHNESS = 0.9


@dataclass(frozen=True)
class Remembered:
    """A device's last change per unit of the normaliser, and the round of it."""

    change: Tree
    round: int


def of_device(own: Remembered | None, last: Tree | None, now: int) -> Tree | None:
    """The guess of one device in round ``now``; ``last`` is the head's own change in the round before, None before the
    first round, when nothing is guessed of anyone."""
    if last is None or own is None:
        return last
    fresh = np.float32(FRESHNESS ** max(0, now - 1 - own.round))
    return {name: fresh * own.change[name] + (1 - fresh) * value for name, value in last.items()}


def of_all(weights: Mapping[str, float], guess_of: Callable[[str], Tree | None]) -> Wide | None:
    """The sum of ``w h`` over all devices, or None when nothing is guessed; one guess in memory at a time."""
    total: Wide = {}
    for device_id in sorted(weights):
        guess = guess_of(device_id)
        if guess is None:
            continue
        for name, value in guess.items():
            part = weights[device_id] * value.astype(np.float64)
            total[name] = total[name] + part if name in total else part
    return total or None
