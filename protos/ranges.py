"""A number within limits, or what is wrong with it in words: one reader for settings, plans, codecs, sensors, benches,
commands and messages. Whoever asks knows where the number stood, and makes an error of its own kind of the words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``least`` to ``most``.

    Args:
        least: belongs to them, unless ``above``.
        most: belongs to them; infinite: finite numbers without an end.
        whole: whole numbers alone.

    >>> str(Range(1, 8, whole=True)), str(Range(-1e9, 1e12)), str(Range(0, above=True))
    ('a whole number from 1 to 8', 'a number from -1e9 to 1e12', 'a number over 0')
    """

    least: float
    most: float = math.inf
    whole: bool = False
    above: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        least, most = (_written(limit) for limit in (self.least, self.most))
        if self.above:
            return f"{kind} over {least}" + ("" if math.isinf(self.most) else f" and up to {most}")
        return f"{kind} of {least} or more" if math.isinf(self.most) else f"{kind} from {least} to {most}"

    def __contains__(self, value: float) -> bool:
        inside = self.least < value if self.above else self.least <= value
        # As it is, not as a float: a whole number may have 400 digits, and 2^63 - 1 is no float.
        return inside and value <= self.most and value < math.inf and (not self.whole or value == int(value))

    def number(self, value: Any) -> float:
        """The value as a float. Neither text nor true is a number.

        Raises:
            ValueError: it is none of these; the words begin with "not".
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"not {self}")
        if value not in self:
            raise ValueError(f"not {self}")
        return float(value)

    def integer(self, value: Any) -> int:
        """The value as an int, of a range of whole numbers.

        Raises:
            ValueError: as :meth:`number`.
        """
        self.number(value)
        return int(value)

    def read(self, text: str) -> float:
        """The number that a text says; whole ones also as 0x4F.

        >>> Range(0, 255, whole=True).read("0x4F"), Range(0, 1).read("0.5")
        (79.0, 0.5)

        Raises:
            ValueError: none of these.
        """
        try:
            return self.number(int(text, 0) if self.whole else float(text))
        except ValueError:
            raise ValueError(f"not {self}") from None


def _written(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}".replace("e+0", "e").replace("e+", "e")
