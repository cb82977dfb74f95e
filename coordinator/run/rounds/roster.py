"""Who may take part in a run, and why others may not.

* A device has examples to train on.
* A run is tied to one class of engine (name and delegate, and the Edge TPU when the bundle has a twin for it): engines
  differ in the last bit of int8 results, so their devices would train one head on slightly different embeddings. The
  class is the most common one among the devices present, and is fixed when the first round opens.
* A device that declined this run is asked nothing more of it, until it says that it can.
* A budget that cannot be measured cannot be kept: a device without a meter gets no order that carries one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from coordinator.run.planning import budget_for
from protos.orders import DeviceCard, Engine
from protos.plan.plan import RunPlan


def engine_class(engine: Engine, *, has_twin: bool = False) -> str:
    """What devices of one run have in common.

    Args:
        has_twin: the run's bundle has a twin, which a device with an Edge TPU runs in place of the CPU model.

    >>> engine_class(Engine("ai-edge-litert", "2.3.0", "xnnpack"))
    'ai-edge-litert/xnnpack'
    >>> engine_class(Engine("ai-edge-litert", "2.3.0", "xnnpack", "edgetpu"), has_twin=True)
    'ai-edge-litert/xnnpack+edgetpu'
    """
    kernels = f"{engine.name}/{engine.delegate}"
    return f"{kernels}+{engine.accelerator}" if has_twin and engine.accelerator else kernels


@dataclass
class Roster:
    """The devices present, and which of them may take part. O(1) per device that comes or goes, but for a change of
    the engine class.

    Attributes:
        plan: whose budgets count.
        engine: the class that the run is tied to, or None as long as the most common one counts.
        has_twin: the run's bundle has a twin for the Edge TPU.
        run_id: of the run.
    """

    plan: RunPlan
    engine: str | None = None
    has_twin: bool = False
    run_id: str = ""
    _cards: dict[str, DeviceCard] = field(default_factory=dict)
    _classes: Counter[str] = field(default_factory=Counter)

    def add(self, card: DeviceCard) -> bool:
        """Take a device in; returns whether who may take part may have changed for others too."""
        before = self.chosen
        self.remove(card.device_id)
        self._cards[card.device_id] = card
        self._classes[self._class(card)] += 1
        return self.chosen != before

    def remove(self, device_id: str) -> bool:
        """Take a device out; returns the same as :meth:`add`."""
        before = self.chosen
        card = self._cards.pop(device_id, None)
        if card is not None:
            self._classes[self._class(card)] -= 1
        return self.chosen != before

    def _class(self, card: DeviceCard) -> str:
        return engine_class(card.engine, has_twin=self.has_twin)

    @property
    def chosen(self) -> str | None:
        """The engine class that counts now. Ties go to the first in the alphabet, so that they are settled."""
        if self.engine is not None:
            return self.engine
        counts = +self._classes
        return min(counts, key=lambda name: (-counts[name], name), default=None)

    def why_not(self, card: DeviceCard) -> str | None:
        """Why this device may not take part, or None when it may."""
        if self.run_id and card.declined_run == self.run_id:
            return f"declines: {card.reason or 'no reason given'}"
        if card.train_examples < 1:
            return f"has no training examples{f': {card.reason}' if card.reason else ''}"
        if self._class(card) != self.chosen:
            return f"runs {self._class(card)}, this run uses {self.chosen}"
        has_budget = budget_for(self.plan, card.device_id, card.budget_j) is not None
        planned = self.plan.budget.has_accounts or self.plan.planner.policy != "none"
        if card.meter.method == "unknown" and (has_budget or planned):
            return "has a budget and no meter to keep it"
        return None

    def eligible(self) -> list[str]:
        """Everyone who may take part, in the order of arrival."""
        return [device_id for device_id, card in self._cards.items() if self.why_not(card) is None]

    def warnings(self) -> list[str]:
        """One line for each device that is left out, and one for unlike versions of one engine."""
        lines = [
            f"left out: {device_id} {why}" for device_id, card in self._cards.items() if (why := self.why_not(card))
        ]
        versions = {card.engine.version for card in self._cards.values() if self.why_not(card) is None}
        if len(versions) > 1:
            lines.append(f"engine versions differ: {', '.join(sorted(versions))}")
        return lines


def in_short(lines: Iterable[str], limit: int = 3) -> str:
    """The first few lines in one, and how many more there are."""
    lines = list(lines)
    more = f" and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + more
