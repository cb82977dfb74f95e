"""The changes of one round under masks, added as they come: what is unmasked is their sum, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coordinator.aggregate.mean import Wide
from coordinator.aggregate.robust import Remark
from coordinator.budgets.order_line import OrderLine
from coordinator.run.reports.aggregation import Fold, Late
from coordinator.run.reports.masking import Masking
from protos.errors import UpdateError
from protos.orders import DeviceReport
from protos.plan.plan import RunPlan
from protos.secure_sum.grid import Words, values_of
from protos.secure_sum.party import unmasked
from protos.update.trees import Shapes, Tree

__all__ = ["MaskedFold"]


class MaskedFold(Fold):
    """The same face as :class:`coordinator.run.reports.aggregation.Fold`; an update is masked words, with their width.

    Attributes:
        sent: by attempt, whose changes are in its sum.
    """

    def __init__(
        self,
        plan: RunPlan,
        shapes: Shapes,
        lines: Mapping[str, OrderLine],
        number: int,
        masking: Masking,
        server: Tree | None,
    ) -> None:
        super().__init__(plan.aggregate, shapes, lines, None, server, privacy=plan.privacy)
        self._number, self._masking = number, masking
        self._sums: dict[int, tuple[int, Words]] = {}
        self.sent: dict[int, list[str]] = {}
        self._notes: tuple[Remark, ...] = ()

    def add(self, report: DeviceReport, update: Any, late: Late | None = None) -> None:
        """Add a checked report, also one without a step: its masks are needed. None is late: masks are of one round."""
        assert late is None
        width, words = update
        attempt = report.attempt or 1
        before = self._sums.get(attempt)
        if before is not None and before[0] != width:
            raise UpdateError(f"numbers of {width} bits, and others of {before[0]}", where=report.device_id)
        self._sums[attempt] = (width, words if before is None else before[1] + words)
        self.sent.setdefault(attempt, []).append(report.device_id)
        self.folded.append(report.device_id)

    def sizes_of(self, report: DeviceReport, update: Any) -> tuple[float, float] | None:
        """Nobody knows."""
        return None

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """Whose changes could not be unmasked, after :meth:`head_after`."""
        return self._notes

    def _finished(self) -> Wide | None:
        clip, bits = self._privacy.clip, self._privacy.bits
        assert clip is not None
        total: Wide = {name: np.zeros(tuple(shape)) for name, shape in self._shapes.items()}
        count, notes = 0, []
        for attempt, devices in sorted(self.sent.items()):
            width, masked = self._sums[attempt]
            group = self._masking.group(self._number, attempt)
            try:
                if group is None:
                    raise UpdateError("the coordinator began anew since, and keeps no keys")
                if group.asked is None or set(group.asked.sent) != set(devices):
                    raise UpdateError(f"{len(devices)} of {len(group.present)} sent, and it takes {group.threshold}")
                plain = unmasked(
                    masked, width, group.context, group.roster, group.present, devices, group.revealed, group.threshold
                )
            except UpdateError as error:
                text = f"its change of attempt {attempt} cannot be unmasked, and is left out: {error}"
                notes += [Remark(device_id, text) for device_id in devices]
                continue
            for name, value in values_of(plain, width, clip, bits, self._shapes).items():
                total[name] += value
            count += len(devices)
        self._notes = tuple(notes)
        self._totals.weight = float(count)
        return {name: value / count for name, value in total.items()} if count else None
