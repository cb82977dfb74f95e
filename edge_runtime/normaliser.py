"""FedNova's ||a||_1: how far the local optimiser carries a constant gradient, in units of the learning rate.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020,
section 3: a local change is ``-rate * sum_k a_k g_k``, and its size grows with ``||a||_1``, not with the steps alone.
"""

from __future__ import annotations


def local_normaliser(steps: int, *, rate: float, momentum: float = 0.0, proximal_mu: float = 0.0) -> float:
    """``||a||_1`` after ``steps`` steps of heavy-ball momentum with a proximal pull towards the start.

    Found by walking the recursion of the optimiser with a constant gradient of 1, which gives the closed forms of
    the paper for momentum alone, ``[t - m (1 - m^t) / (1 - m)] / (1 - m)``, and for the proximal term alone,
    ``[1 - (1 - p)^t] / p`` with ``p = rate * proximal_mu``, and also holds for both together.

    Args:
        steps: steps done, 0 or more.
        rate: learning rate, over 0.
        momentum: heavy-ball momentum in [0, 1).
        proximal_mu: FedProx's mu, 0 or more.

    >>> local_normaliser(3, rate=0.1)
    3.0
    >>> local_normaliser(2, rate=0.1, momentum=0.5)  # 1, then 1.5
    2.5
    """
    distance = velocity = 0.0
    pull = rate * proximal_mu
    for _ in range(steps):
        velocity = momentum * velocity + 1.0 - pull * distance
        distance += velocity
    # A pull beyond the stable limit swings around the start; a size is never negative.
    return abs(distance)
