"""What can become of a report, in one table: each reason has a verdict or a status, a counter of its name, and a line.

A device is told a verdict where its report was read as one; a call that brings no report ends with a gRPC status. The
line goes to the log once for each report; it holds names and figures, never what a report contains.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from protos.orders import Receipt, Verdict

__all__ = ["REASONS", "Reason", "ReportCounts", "reason_of"]

log = logging.getLogger("edgejoule.coordinator")


@dataclass(frozen=True)
class Reason:
    """A row of the table.

    Attributes:
        answer: what the device is told: a verdict, or the name of a gRPC status.
        meaning: for people.
    """

    answer: Verdict | str
    meaning: str


_REJECTED: Mapping[str, str] = {
    "unreadable": "no report, a field that means nothing, is not finite or too large, or another than was announced",
    "not_ordered": "a round, an attempt or a device that has no order",
    "other_report": "another report of this device and round is held",
    "wrong_plan": "trained by another plan",
    "wrong_bundle": "trained on another bundle",
    "wrong_head": "trained from another head: one of another round",
    "wrong_steps": "more steps than were ordered, or another order's",
    "too_many_examples": "more examples than were declared at join",
    "wrong_normaliser": "a normaliser that its steps do not have",
    "bad_energy": "joules or seconds that its board cannot have spent, or two of one phase",
    "bad_update": "not the tensors of the head, not finite, or coded wrongly",
    "bad_statistics": "sums that no examples have, or of another number of them",
    "wrong_basis": "an update in other coordinates than were ordered",
    "wrong_control": "steps that were corrected by another control than was ordered",
}
REASONS: Mapping[str, Reason] = {
    "accepted": Reason(Verdict.ACCEPTED, "it is on disk"),
    "duplicate": Reason(Verdict.DUPLICATE, "the same bytes are held already: a retry, or a replay; nothing changed"),
    "late": Reason(Verdict.LATE, "its round is closed; its joules are in the books"),
    **{code: Reason(Verdict.REJECTED, meaning) for code, meaning in _REJECTED.items()},
    "oversized": Reason("RESOURCE_EXHAUSTED", "declares, or sends, more bytes than an honest report has"),
    "out_of_step": Reason("ABORTED", "goes on from another byte than the last that is held; the device asks again"),
    "damaged": Reason("DATA_LOSS", "other bytes than its header declares"),
    "malformed": Reason("INVALID_ARGUMENT", "parts that are no header and data, or a name that is none"),
    "unknown_run": Reason("NOT_FOUND", "no such run"),
    "too_slow": Reason("DEADLINE_EXCEEDED", "it was still coming after ten minutes"),
    "not_written": Reason("UNAVAILABLE", "the store could not take it now; the device sends it again"),
}
_OF_VERDICT = {Verdict.ACCEPTED: "accepted", Verdict.DUPLICATE: "duplicate", Verdict.LATE: "late"}
# Taken, or a retry as any network makes them: nothing that an operator must read.
_QUIET = frozenset({"accepted", "duplicate"})


def reason_of(receipt: Receipt) -> str:
    """The row of an answer; what is rejected begins with its reason.

    >>> reason_of(Receipt(Verdict.REJECTED, "bad_energy: train: -1 J"))
    'bad_energy'
    """
    return _OF_VERDICT.get(receipt.verdict) or receipt.reason.partition(":")[0]


class ReportCounts:
    """One counter for each reason, since the coordinator started."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def answered(self, receipt: Receipt, where: str) -> None:
        """Count a report that was answered, and log it unless it was taken.

        Args:
            where: whose it is, and of what.
        """
        code = reason_of(receipt)
        self.failed(code)
        if code not in _QUIET:
            line = receipt.reason if receipt.verdict is Verdict.REJECTED else f"{code}: {receipt.reason}"
            log.warning("report of %s: %s", where, line)

    def failed(self, code: str) -> None:
        """Count a report that ended with a status; whoever ends the call logs it.

        Args:
            code: a key of :data:`REASONS`.
        """
        assert code in REASONS, code
        self._counts[code] += 1

    def all(self) -> dict[str, int]:
        """Reason to count, of those that came up, in the order of the table."""
        return {code: self._counts[code] for code in REASONS if self._counts[code]}
