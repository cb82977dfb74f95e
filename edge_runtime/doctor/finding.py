"""One line of the doctor's examination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Verdict"]

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``fix`` is empty when nothing is wrong."""

    check: str
    verdict: Verdict
    what: str
    fix: str = ""
