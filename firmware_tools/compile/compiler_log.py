"""What ``edgetpu_compiler -s`` prints, as values.

The form is that of versions 14.1 to 16.0, as on https://coral.ai/docs/edgetpu/compiler/ and in the logs of the tracker
of google-coral/edgetpu (for instance 211, 342, 356, 358): one banner, ``key: value`` lines, and a table of operators.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAPPED = "Mapped to Edge TPU"
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_VERSION = re.compile(r"^Edge TPU Compiler version (\S+)", re.MULTILINE)
_SUCCESS = re.compile(r"^Model compiled successfully", re.MULTILINE)
_HEADER = re.compile(r"^Operator\s+Count\s+Status\s*$", re.MULTILINE)
_ROW = re.compile(r"^([A-Z][A-Z0-9_]*)[ \t]+(\d{1,9})[ \t]+(\S.*?)\s*$", re.MULTILINE)
_COMPLAINT = re.compile(
    r"^(?:ERROR: |Internal compiler error|Invalid model|Model could not|Compilation failed).*", re.M
)


@dataclass(frozen=True, slots=True)
class OperatorStatus:
    """How many operators of one name share one fate."""

    name: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        """True when they run on the Edge TPU."""
        return self.status == MAPPED


@dataclass(frozen=True, slots=True)
class CompilerLog:
    """One run of the compiler; a figure that it does not print is None.

    Attributes:
        version: such as "16.0.384591198".
        succeeded: it says that it compiled the model.
        complaints: its error lines.
        on_chip_bytes, remaining_bytes, streamed_bytes: parameters kept on the chip, room left there, parameters sent
            for each inference; rounded as printed.
        subgraphs: parts that run on the Edge TPU.
        operators: rows of its table.
    """

    version: str | None
    succeeded: bool
    complaints: tuple[str, ...]
    on_chip_bytes: int | None
    remaining_bytes: int | None
    streamed_bytes: int | None
    subgraphs: int | None
    operators: tuple[OperatorStatus, ...]

    def mapped_by_name(self) -> dict[str, int]:
        """How many operators of each name run on the Edge TPU; 0 for a name of which none does."""
        counts: dict[str, int] = {}
        for row in self.operators:
            counts[row.name] = counts.get(row.name, 0) + (row.count if row.mapped else 0)
        return dict(sorted(counts.items()))


def parse_log(text: str) -> CompilerLog:
    """Read a log. Lines of another form are passed over, so any text gives a log."""
    version = _VERSION.search(text)
    header = _HEADER.search(text)
    rows = _ROW.findall(text, header.end()) if header else []
    return CompilerLog(
        version.group(1) if version else None,
        _SUCCESS.search(text) is not None,
        tuple(" ".join(line.split()) for line in _COMPLAINT.findall(text)),
        _size(text, "On-chip memory used for caching model parameters"),
        _size(text, "On-chip memory remaining for caching model parameters"),
        _size(text, "Off-chip memory used for streaming uncached model parameters"),
        _number(text, "Number of Edge TPU subgraphs"),
        tuple(OperatorStatus(name, int(count), status) for name, count, status in rows),
    )


def _size(text: str, key: str) -> int | None:
    found = re.search(rf"^{re.escape(key)}: *(\d{{1,9}}(?:\.\d{{1,9}})?) *([KMG]i)?B\b", text, re.MULTILINE)
    return round(float(found.group(1)) * _UNITS[f"{found.group(2) or ''}B"]) if found else None


def _number(text: str, key: str) -> int | None:
    found = re.search(rf"^{re.escape(key)}: *(\d{{1,9}})", text, re.MULTILINE)
    return int(found.group(1)) if found else None
