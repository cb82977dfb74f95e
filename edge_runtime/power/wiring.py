"""Whether a sensor sees the board at all: what a wrong wire does to samples, told within a second.

===================  ==============================================================================================
word                 what the samples say
===================  ==============================================================================================
``bus-full``         the bus voltage sits at the end of its range: the real one is as large or larger
``bus-low``          the bus voltage is under what can power a board: an open IN-, a sensor in the ground line
``shunt-unknown``    the shunt is a default that nobody has confirmed
``reversed``         the mean power is negative by more than the zero may be wrong: VIN+ and VIN- are swapped
``no-current``       the mean power is no more than the zero may be wrong, while a board runs: the current flows past
                     the sensor
===================  ==============================================================================================

Such a sensor is no reason to stop, and none to believe it: joules are unknown, as without a sensor, until it is right.
"""

from __future__ import annotations

from protos.energy.attribution import MINIMUM_COVERAGE, REVERSED
from protos.energy.trace import UNUSABLE, PowerTrace, flag_words

__all__ = ["FIXES", "NO_CURRENT", "WiringWatch", "explained"]

LOOK_S = 1.0
NO_CURRENT = "no-current"
FIXES = {
    "bus-full": "the supply is beyond the sensor's range: 32 V, or 16 V with a bridge of protocol 1.0 (flash it)",
    "bus-low": "put the sensor in the plus line, connect IN- to the board, and the grounds to each other",
    "shunt-unknown": "say the shunt, ...?shunt=OHM, or calibrate: firmware-tools bridge calibrate",
    REVERSED: "swap VIN+ and VIN-",
    NO_CURRENT: "let the board's current flow through the shunt, from VIN+ to VIN-",
}
"""What to do about each word."""


def explained(word: str) -> str:
    """A word with its remedy."""
    return f"{word}: {FIXES[word]}" if word in FIXES else word


class WiringWatch:
    """Judges each second of samples; what is there so far, until the first second is over.

    Args:
        own_board: the sensor measures the board that this program runs on, which always draws power.
    """

    def __init__(self, *, own_board: bool = False) -> None:
        self._own_board = own_board
        self._seconds = self._usable_s = self._energy_j = 0.0
        self._bits, self._whole = 0, False
        self.fault: str | None = None

    def see(self, trace: PowerTrace, zero_w: float) -> None:
        """Look at new samples.

        Args:
            trace: in any order.
            zero_w: by how much the chain's zero may be wrong, W.
        """
        width_s = trace.stop_s - trace.start_s
        bad = (trace.flags & UNUSABLE) != 0
        self._seconds += float(width_s.sum())
        self._usable_s += float(width_s[~bad].sum())
        self._energy_j += float(width_s[~bad] @ trace.power_w[~bad])
        for bits in set(trace.flags[bad].tolist()):
            self._bits |= bits & UNUSABLE
        if self._seconds <= 0:
            return
        over = self._seconds >= LOOK_S
        if over or not self._whole:
            self.fault = self._judge(zero_w)
        if over:
            self._seconds = self._usable_s = self._energy_j = 0.0
            self._bits, self._whole = 0, True

    def _judge(self, zero_w: float) -> str | None:
        if self._usable_s < MINIMUM_COVERAGE * self._seconds:
            return flag_words(self._bits)[0]
        mean_w = self._energy_j / self._usable_s
        if mean_w < -zero_w:
            return REVERSED
        return NO_CURRENT if self._own_board and mean_w < zero_w else None
