"""A four-stamp exchange between host and bridge, from which both clocks are compared (RFC 5905, section 8)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TICK_S", "Exchange"]

TICK_S = 1e-6


@dataclass(frozen=True, slots=True)
class Exchange:
    """The host sends at t1, the bridge receives at T2 and answers at T3, the host hears it at t4.

    Args:
        sent_s: t1, host seconds.
        received_tick: T2, ticks of the bridge (microseconds).
        answered_tick: T3.
        back_s: t4, host seconds.
    """

    sent_s: float
    received_tick: int
    answered_tick: int
    back_s: float

    @property
    def rtt_s(self) -> float:
        """Time on the way, both ways."""
        return (self.back_s - self.sent_s) - (self.answered_tick - self.received_tick) * TICK_S
