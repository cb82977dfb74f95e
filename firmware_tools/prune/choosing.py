"""Which channels to remove, of scores and what is asked: ratios, a limit of accuracy, or a target of the whole.

Each family keeps a whole multiple of some channels (kernels work on several at a time), and a tenth of its own at
least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from firmware_tools.prune.channels import Channels, Family

Scores = Mapping[int, float]
# Of a family that stays, whatever is asked.
LEAST = 0.1
SENSITIVITY_RATIOS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


def weakest(family: Family, scores: Scores, ratio: float, multiple: int) -> list[int]:
    """The channels of a family that go when this share of them may."""
    count = len(family.channels)
    keep = max(round((1.0 - ratio) * count), math.ceil(LEAST * count))
    keep = min(count, -(-keep // multiple) * multiple)
    ordered = sorted(family.channels, key=lambda channel: (scores[channel], channel))
    return ordered[: count - keep]


def by_ratios(families: Iterable[Family], scores: Scores, ratios: Mapping[str, float], multiple: int) -> set[int]:
    """Of each family its own share; the share of "*" where no layer of it is named."""
    gone: set[int] = set()
    for family in families:
        own = [ratios[layer] for layer in family.layers if layer in ratios]
        gone |= set(weakest(family, scores, min(own) if own else ratios.get("*", 0.0), multiple))
    return gone


def by_sensitivity(
    families: Sequence[Family], scores: Scores, accuracy: Callable[[set[int]], float], drop: float, multiple: int
) -> tuple[set[int], dict[str, float]]:
    """Of each family as much as costs no more than ``drop`` of accuracy when it alone is pruned, and these shares."""
    whole, gone, shares = accuracy(set()), set(), {}
    for family in families:
        best: list[int] = []
        for ratio in SENSITIVITY_RATIOS[1:]:
            tried = weakest(family, scores, ratio, multiple)
            if not tried or whole - accuracy(set(tried)) > drop:
                break
            best, shares[family.layers[0]] = tried, ratio
        gone |= set(best)
    return gone, shares


def to_target(
    channels: Channels, families: Sequence[Family], scores: Scores, measure: Callable[[set[int]], float],
    target: float, multiple: int, *, across: bool, steps: int = 12,
) -> set[int]:  # fmt: skip
    """The least removal whose measure is at most the target, by bisection.

    Args:
        measure: of the model without some channels, such as its multiply-accumulates; it must fall as more goes.
        across: scores compare across families: what goes first is what costs least for what it saves. Else the same
            share of each family goes.
    """
    order = _order(channels, families, scores) if across else []

    def chosen(share: float) -> set[int]:
        if not across:
            return by_ratios(families, scores, {"*": share}, multiple)
        gone = set(order[: round(share * len(order))])
        kept: set[int] = set()
        for family in families:
            mine = sum(channel in gone for channel in family.channels)
            kept |= set(weakest(family, scores, mine / len(family.channels), multiple))
        return kept

    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if measure(chosen(middle)) <= target:
            high = middle
        else:
            low = middle
    return chosen(high)


def _order(channels: Channels, families: Sequence[Family], scores: Scores) -> list[int]:
    """All channels, first what loses least for each multiply-accumulate that it saves."""
    whole = channels.cost()[0]
    saved = {family.layers: max(1, whole - channels.cost({family.channels[0]})[0]) for family in families}
    worth = {channel: scores[channel] / saved[family.layers] for family in families for channel in family.channels}
    return sorted(worth, key=lambda index: (worth[index], index))
