"""Who is here: devices by id, in the order in which they were last heard of.

A device says hello with Join and goodbye with Leave. One that stays silent for `away_after_s` counts as away until
it is heard again; one that works on an order is not silent but busy, and one whose call is not answered yet waits for
us, not we for it. Every operation is O(1), sweeping included: the
quietest device is always the first.

Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from protos.orders import DeviceCard

AWAY_AFTER_S = 15.0
# What one coordinator answers without effort; check-ins are spread so that no more come.
CHECK_INS_PER_S = 100.0
BUSY_PACE_S = 0.2
IDLE_PACE_S = 1.0


@dataclass
class Member:
    """A device that joined this coordinator since its start, or before and not yet again.

    Attributes:
        reason: why it cannot train, or left, in its own words; empty when it said nothing.
        rival: another live device that calls itself the same and was refused, in words; empty when there was none.
    """

    card: DeviceCard
    state: str  # present, away, left
    seen_s: float
    seen_unix_s: float
    reason: str = ""
    rival: str = ""

    @property
    def trouble(self) -> str:
        """What is wrong with it, in one line; empty when nothing is."""
        return "; ".join(text for text in (self.rival, self.reason) if text)


class Fleet:
    """The devices of a coordinator."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._by_silence: OrderedDict[str, None] = OrderedDict()
        self._calls: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def remember(self, card: DeviceCard, *, left: bool, seen_unix_s: float, reason: str = "") -> None:
        """A device known from before a restart: away until it is heard."""
        self._members[card.device_id] = Member(card, "left" if left else "away", 0.0, seen_unix_s, reason)

    def rivals(self, card: DeviceCard, now_s: float) -> Member | None:
        """The live device that this one calls itself like, or None when the name is free or its own.

        One that starts again has the state that it had, and takes its own place at once. Devices that do not say which
        state they keep replace each other, as they did before they could say it.
        """
        member = self._members.get(card.device_id)
        if member is None or member.card.session == card.session or member.state != "present":
            return None
        if not card.instance or not member.card.instance or card.instance == member.card.instance:
            return None
        silent = now_s - member.seen_s >= self.away_after_s and card.device_id not in self._calls
        return None if silent else member

    def join(self, card: DeviceCard, now_s: float, now_unix_s: float) -> None:
        """A device introduced itself, for the first time or again."""
        before = self._members.get(card.device_id)
        rival = before.rival if before is not None and before.card.instance == card.instance else ""
        self._members[card.device_id] = Member(card, "present", now_s, now_unix_s, card.reason, rival)
        self._touch(card.device_id)

    def heard(self, device_id: str, session: str, now_s: float, now_unix_s: float) -> Member | None:
        """A device called. None when it must join first: unknown, gone, another session, or known only from before
        a restart."""
        member = self._members.get(device_id)
        if member is None or member.card.session != session or member.seen_s == 0.0 or member.state == "left":
            return None
        member.seen_s, member.seen_unix_s = now_s, now_unix_s
        self._touch(device_id)
        return member

    def touch(self, device_id: str, now_s: float, now_unix_s: float) -> None:
        """A report arrived: the device is alive."""
        member = self._members.get(device_id)
        if member is not None and member.seen_s:
            member.seen_s, member.seen_unix_s = now_s, now_unix_s
            if member.state == "present":
                self._touch(device_id)

    def call_begins(self, device_id: str) -> None:
        """A call of this device came in; it is not answered yet."""
        self._calls[device_id] += 1

    def call_ends(self, device_id: str, now_s: float, now_unix_s: float) -> None:
        """The call was answered; silence begins now."""
        self._calls[device_id] -= 1
        if self._calls[device_id] <= 0:
            del self._calls[device_id]
        self.touch(device_id, now_s, now_unix_s)

    def get(self, device_id: str) -> Member | None:
        """The device called so, or None."""
        return self._members.get(device_id)

    def leave(self, device_id: str, session: str, now_unix_s: float, reason: str = "") -> bool:
        """A device said goodbye; False when it is not known under this session."""
        member = self._members.get(device_id)
        if member is None or member.card.session != session:
            return False
        member.state, member.seen_unix_s, member.reason = "left", now_unix_s, reason
        self._by_silence.pop(device_id, None)
        return True

    def forget(self, device_id: str) -> None:
        """Take a device that is not present off the list. Should it call again, it is asked to join."""
        self._members.pop(device_id, None)
        self._by_silence.pop(device_id, None)

    def sweep(self, now_s: float, busy: Callable[[str], bool]) -> list[str]:
        """Find who fell silent, and mark them away. A busy device is looked at again later."""
        silent: list[str] = []
        for _ in range(len(self._by_silence)):
            device_id = next(iter(self._by_silence))
            member = self._members[device_id]
            if now_s - member.seen_s < self.away_after_s:
                break
            if device_id in self._calls or busy(device_id):
                # Not silent but waiting or at work: counts as heard, so that the next sweep does not look at it first.
                member.seen_s = now_s
                self._by_silence.move_to_end(device_id)
                continue
            del self._by_silence[device_id]
            member.state = "away"
            silent.append(device_id)
        return silent

    @property
    def present(self) -> int:
        """How many devices are present."""
        return len(self._by_silence)

    def pace_s(self, *, busy: bool) -> float:
        """How long a device is asked to wait before it calls again: longer for larger fleets."""
        return max(BUSY_PACE_S if busy else IDLE_PACE_S, self.present / CHECK_INS_PER_S)

    @property
    def away_after_s(self) -> float:
        """Silence after which a device counts as away."""
        return max(AWAY_AFTER_S, 5 * self.pace_s(busy=False))

    def _touch(self, device_id: str) -> None:
        self._members[device_id].state = "present"
        self._by_silence[device_id] = None
        self._by_silence.move_to_end(device_id)
