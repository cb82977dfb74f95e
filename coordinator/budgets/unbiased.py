"""Weights that make the mean of those who were asked, in expectation, the mean of all.

Horvitz and Thompson ("A generalization of sampling without replacement from a finite universe", JASA 1952): each
report counts ``w / p``, and the sum is divided by the weight of **all** devices, asked or not; divided by the weight of
those who came (Hajek's ratio) it would be biased. FedNova's ``tau_eff`` is, for the same reason, that of all devices.

What each device would send is guessed before anyone is asked (:mod:`coordinator.budgets.guesses`), and only what its
report adds to that is weighed by ``1 / p``: ``change = (sum over all of w h + sum over those asked of (w / p) (D - h))
/ W``. The guess moves no mean, since it does not depend on who was asked, and takes away most of the variance.

Where rounds wait for no report (FedBuff, Nguyen et al., AISTATS 2022), a report that comes s rounds late counts in the
round that is open then, and each in the measure of the round whose order it answers: ``discount(s) (w / p) D / W`` with
p and W of that round. A draw depends on nothing that comes after it, so that the expected sum of all that the orders of
a round ever add to the head is the mean of ``discount D`` over all whom that round could have asked. Nothing is guessed
there: a guess would be of another round than the report.

When p is not known, FedAU's estimate stands for 1 / p: the mean of a device's observed intervals between
participations, each cut off at K (Wang and Ji, "A lightweight method for tackling unknown participation statistics in
federated averaging", ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CUT_OFF = 50


@dataclass(frozen=True)
class Whole:
    """All devices that the round speaks for.

    Attributes:
        weight: sum of their weights w.
        work: sum of w times the normaliser of the steps planned.
    """

    weight: float
    work: float


@dataclass
class Totals:
    """Those whose reports came: sums of ``w / p``, and of that times the normaliser of the steps done."""

    weight: float = 0.0
    work: float = 0.0


def rescaled(normalise: str, seen: Totals, whole: Whole) -> tuple[float, float]:
    """How a ratio estimate becomes an unbiased one.

    Returns:
        The factor on the rule's result, and the factor on sums of ``w h``.
    """
    share = seen.weight / whole.weight
    if normalise == "fednova":
        # The rule gives (A / T) (S / T); wanted is (work / weight) (S / weight).
        return share * share * whole.work / seen.work, whole.work / whole.weight**2
    return share, 1.0 / whole.weight


def of_another_round(normalise: str, own: Whole, now: Whole) -> float:
    """The factor on the weight of a report of a round that spoke for ``own``, so that :func:`rescaled` with ``now``
    counts it as its own round would have: by 1 / W, and with FedNova by work / W^2.

    >>> of_another_round("none", Whole(2.0, 20.0), Whole(4.0, 10.0))
    2.0
    >>> of_another_round("fednova", Whole(2.0, 20.0), Whole(4.0, 10.0))
    8.0
    """
    return rescaled(normalise, Totals(1.0, 1.0), own)[1] / rescaled(normalise, Totals(1.0, 1.0), now)[1]


def interval_weight(rounds: Iterable[int], now: int, cut_off: int = CUT_OFF) -> float:
    """FedAU's estimate of 1 / p before round ``now``, from the rounds >= 1 in which a device took part.

    >>> interval_weight([2, 4, 6], 7), interval_weight([], 3), interval_weight([], 120)
    (2.0, 1.0, 50.0)
    """
    intervals: list[int] = []
    last = 0
    for this_round in [*sorted(rounds), None]:
        gap = (now - 1 if this_round is None else this_round) - last
        intervals += [cut_off] * (gap // cut_off)
        gap %= cut_off
        if this_round is not None:
            if gap:
                intervals.append(gap)
            last = this_round
    return sum(intervals) / len(intervals) if intervals else 1.0


@dataclass(frozen=True)
class Distance:
    """How far the say that devices have, in expectation, is from the say that they should have.

    Attributes:
        total_variation: half the sum of absolute differences of the shares, 0 to 1.
        largest_ratio: of a share to the one it should be, or the other way round; None when somebody has no say.
    """

    total_variation: float
    largest_ratio: float | None


def distance(chosen: Mapping[str, float], wanted: Mapping[str, float]) -> Distance:
    """The distance of two tables of weights, each normalised to 1; devices without a wanted weight do not count.

    >>> distance({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0})
    Distance(total_variation=0.25, largest_ratio=2.0)
    """
    names = [name for name, weight in wanted.items() if weight > 0]
    all_chosen, all_wanted = sum(chosen.get(name, 0.0) for name in names), sum(wanted[name] for name in names)
    if not names:
        return Distance(0.0, 1.0)
    if not all_chosen > 0:
        return Distance(1.0, None)
    pairs = [(chosen.get(name, 0.0) / all_chosen, wanted[name] / all_wanted) for name in names]
    ratios = [max(value / two, two / value) for value, two in pairs if value > 0]
    return Distance(
        sum(abs(value - two) for value, two in pairs) / 2, max(ratios) if len(ratios) == len(pairs) else None
    )
