"""When a run is over before its last round: its goal is reached, its joules are spent, or accuracy stays down."""

from __future__ import annotations

import math
from collections.abc import Sequence


def why_stop(accuracies: Sequence[tuple[int, float | None]], examples: int, patience: int) -> str:
    """Why further rounds are not worth their joules, or "".

    The last ``patience`` rounds all lie below the best one before them, by more than the standard error that the best
    one has on so many examples: ``sqrt(a (1 - a) / n)``. One alone may do so by chance; several in a row do not.

    Args:
        accuracies: closed rounds in their order, 0 first; None where nobody looked.
        examples: held out.
        patience: rounds; 0: never.

    >>> why_stop([(0, 0.5), (1, 0.9), (2, 0.8), (3, 0.8)], 100, 2)
    'held-out accuracy fell from 90.00 % in round 1, and stayed below it in rounds 2 to 3'
    >>> why_stop([(0, 0.5), (1, 0.9), (2, 0.8), (3, 0.88)], 100, 2)
    ''
    """
    known = [(number, value) for number, value in accuracies if value is not None]
    if patience < 1 or not examples or len(known) <= patience:
        return ""
    before, last = known[:-patience], known[-patience:]
    number, best = max(before, key=lambda pair: (pair[1], pair[0]))
    # A share has this error. What an R2 below 0 has is not known: chance is given no room then.
    error = math.sqrt(max(0.0, best * (1.0 - best)) / examples)
    if any(value >= best - error for _, value in last):
        return ""
    rounds = f"round {last[0][0]}" if patience == 1 else f"rounds {last[0][0]} to {last[-1][0]}"
    return f"held-out accuracy fell from {100 * best:.2f} % in round {number}, and stayed below it in {rounds}"


def why_reached(accuracies: Sequence[tuple[int, float | None]], until: float | None) -> str:
    """That the goal is reached, or "".

    Args:
        accuracies: closed rounds in their order, 0 first; None where nobody looked.
        until: of accuracy, R2 or AUC; None: there is none.

    >>> why_reached([(0, 0.5), (1, 0.91), (2, 0.89)], 0.9)
    'the goal of 0.9 was reached in round 1 with 0.9100'
    >>> why_reached([(0, 0.5), (1, None)], 0.9)
    ''
    """
    if until is None:
        return ""
    found = next(((number, value) for number, value in accuracies if value is not None and value >= until), None)
    if found is None:
        return ""
    return f"the goal of {until:g} was reached in round {found[0]} with {found[1]:.4f}"


def why_spent(spent_j: float, until_j: float | None) -> str:
    """That the joules are spent, or "".

    >>> why_spent(10.25, 10.0)
    'the devices have spent 10.2 J, and the run was to end at 10 J'
    >>> why_spent(9.0, 10.0), why_spent(9.0, None)
    ('', '')
    """
    if until_j is None or spent_j < until_j:
        return ""
    return f"the devices have spent {spent_j:.3g} J, and the run was to end at {until_j:g} J"
