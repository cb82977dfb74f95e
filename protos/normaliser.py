"""FedNova's ||a||_1: how far the local optimiser carries a constant gradient, in units of the learning rate.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020,
section 3: a local change is ``-rate * sum_k a_k g_k``, and its size grows with ``||a||_1``, not with the steps alone.
A device says it in its report, and the coordinator computes it again from the order and the steps done.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def of_optimiser(optimiser: str, steps: int, inputs: Mapping[str, float]) -> float:
    """``||a||_1`` after ``steps`` steps of a bundle's optimiser.

    Args:
        optimiser: as the bundle names it. "sgd" takes rate, momentum, proximal_mu and weight_decay; of any other, steps
            are counted: an adaptive one has no ``a_k`` that is known beforehand. Decay forgets a gradient just as
            the proximal pull does, so the two add up; biases, which do not decay, are counted as if they did.
        steps: steps done, 0 or more.
        inputs: all inputs of the train signature, defaults included.

    >>> of_optimiser("sgd", 2, {"rate": 0.1, "momentum": 0.5}), of_optimiser("adam", 2, {"rate": 0.1})
    (2.5, 2.0)
    """
    if optimiser != "sgd":
        return float(steps)
    return local_normaliser(
        steps,
        rate=inputs.get("rate", 0.0),
        momentum=inputs.get("momentum", 0.0),
        proximal_mu=inputs.get("proximal_mu", 0.0) + inputs.get("weight_decay", 0.0),
    )


def local_normaliser(steps: int, *, rate: float, momentum: float = 0.0, proximal_mu: float = 0.0) -> float:
    """``||a||_1`` after ``steps`` steps of heavy-ball momentum with a proximal pull towards the start.

    It is the recursion of the optimiser with a constant gradient of 1,

        velocity = momentum * velocity + 1 - rate * proximal_mu * distance
        distance = distance + velocity

    raised to the power of ``steps`` as a matrix, so that a million steps cost no more than twenty. It gives the closed
    forms of the paper for momentum alone, ``[t - m (1 - m^t) / (1 - m)] / (1 - m)``, and for the proximal term alone,
    ``[1 - (1 - p)^t] / p`` with ``p = rate * proximal_mu``, and also holds for both together.

    Args:
        steps: steps done, 0 or more.
        rate: learning rate, 0 or more.
        momentum: heavy-ball momentum in [0, 1).
        proximal_mu: FedProx's mu, 0 or more.

    Returns:
        0 or more; infinity or NaN when the pull is so strong that the recursion diverges.

    >>> local_normaliser(3, rate=0.1)
    3.0
    >>> local_normaliser(2, rate=0.1, momentum=0.5)  # 1, then 1.5
    2.5
    """
    pull = rate * proximal_mu
    # On (distance, velocity, 1).
    step = np.array([[1.0 - pull, momentum, 1.0], [-pull, momentum, 1.0], [0.0, 0.0, 1.0]])
    with np.errstate(all="ignore"):
        distance = float(np.linalg.matrix_power(step, steps)[0, 2])
    # A pull beyond the stable limit swings around the start; a size is never negative.
    return abs(distance)
