"""When an INA219 converts: without pause, or as a bridge that dithers restarts it.

Dither keeps a periodic load from staying in step with the conversions. The rule is that of the firmware
(``firmware/core/dither.c``): samples longer than 3 ms are restarted one by one after a pause of up to a fifteenth of
their length; shorter ones by 16 to 47, at once. One restart of eight draws the resolution of the bus voltage anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.energy.ina219 import CONVERSION_S, Config

__all__ = ["Rhythm", "plan_conversions"]

LONG_SAMPLE_S = 3e-3
GROUP_LEAST, GROUP_MOST = 16, 47
KEPT = 8
"""Restarts for which a resolution of the bus voltage holds, on average."""
RESTART_S = 0.4e-3
"""What a restart costs after a group: the shunt is read, and the configuration written."""
BUS_CODES = {1: (1, 2, 2, 2), 2: (3, 2), 3: (3, 2)}
"""Codes of the bus resolution that stand for one, each as likely as the other."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Successive conversions on the sensor's nominal clock; arrays [n].

    Args:
        pause_s: between the end of the one before and the beginning of this.
        period_s: from the beginning to the end: shunt, then bus.
        coarse: step of the bus voltage in 4 mV, float64.
    """

    pause_s: Floats
    period_s: Floats
    coarse: Floats

    def head(self, count: int) -> Rhythm:
        return Rhythm(self.pause_s[:count], self.period_s[:count], self.coarse[:count])

    def tail(self, count: int) -> Rhythm:
        """What follows the first ``count``."""
        return Rhythm(self.pause_s[count:], self.period_s[count:], self.coarse[count:])

    def then(self, more: Rhythm) -> Rhythm:
        """These and then those."""
        return Rhythm(
            np.concatenate([self.pause_s, more.pause_s]),
            np.concatenate([self.period_s, more.period_s]),
            np.concatenate([self.coarse, more.coarse]),
        )


def plan_conversions(config: Config, rng: np.random.Generator, count: int, *, dither: bool) -> Rhythm:
    """The next ``count`` conversions; whole groups, so some more, when conversions are restarted by groups.

    Each plan begins with a resolution drawn anew.
    """
    if not dither:
        return _of(config, np.zeros(count), np.full(count, config.bus_adc))
    if config.period_s >= LONG_SAMPLE_S:
        lengths = np.ones(count, np.int64)
        pauses_s = rng.uniform(0, config.period_s / 15, count)
    else:
        lengths = rng.integers(GROUP_LEAST, GROUP_MOST + 1, -(-count // GROUP_LEAST))
        lengths = lengths[: 1 + int(np.searchsorted(np.cumsum(lengths), count))]
        pauses_s = np.full(len(lengths), RESTART_S)
    restarts = len(lengths)
    drawn = rng.choice(BUS_CODES.get(config.bus_adc, (config.bus_adc,)), max(1, restarts))
    fresh = rng.random(restarts) < 1 / KEPT
    codes = drawn[np.cumsum(fresh)[:restarts] % len(drawn)]
    pause_s = np.zeros(int(lengths.sum()))
    pause_s[np.cumsum(lengths) - lengths] = pauses_s
    return _of(config, pause_s, np.repeat(codes, lengths))


def _of(config: Config, pause_s: Floats, codes: npt.NDArray[np.int64]) -> Rhythm:
    kinds, which = np.unique(codes, return_inverse=True)
    bus_s = np.array([CONVERSION_S[int(code)] for code in kinds])[which]
    coarse = np.array([2.0 ** (3 - code) if code < 3 else 1.0 for code in kinds.tolist()])[which]
    return Rhythm(pause_s, config.shunt_s + bus_s, coarse)
