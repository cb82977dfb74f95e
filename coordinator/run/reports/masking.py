"""The coordinator's part in masked sums: hands keys and sealed shares around, and asks for what unmasks a sum.

One group for each attempt at a round: who was ordered in it agrees on masks before training, and the sum over those of
the group who sent is unmasked when the round closes. All of it is in memory: after a restart, what was sent before
cannot be unmasked any more, is left out, and it is said. Nothing here sees a change, or can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from protos.errors import RefusedError
from protos.orders import RevealOrder
from protos.secure_sum.party import LEAST_DEVICES, Keys, Revealed, threshold_of

__all__ = ["Group", "Masking", "context_of"]

# From the first keys until all that are missing are left out; from the roster until all shares are there; from the end
# of a round until it is unmasked.
KEYS_S, SHARES_S, REVEAL_S = 60.0, 60.0, 60.0


def context_of(run_id: str, number: int, attempt: int) -> str:
    """What keys and masks of one attempt are bound to."""
    return f"{run_id}/{number}/{attempt}"


@dataclass
class Group:
    """Devices that mask their changes together.

    Attributes:
        expected: who was ordered.
        roster: keys of those who offered some in time.
        sealed: by sender, then holder; who is a sender in time takes part.
        revealed: what each said after the round.
        asked: who is to be asked to reveal, and for which devices; None before the round has closed.
    """

    context: str
    expected: frozenset[str]
    roster: dict[str, Keys] = field(default_factory=dict)
    sealed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revealed: dict[str, Revealed] = field(default_factory=dict)
    asked: RevealOrder | None = None
    keys_closed: asyncio.Event = field(default_factory=asyncio.Event)
    shares_closed: asyncio.Event = field(default_factory=asyncio.Event)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def threshold(self) -> int:
        """How many must reveal."""
        return threshold_of(len(self.roster))

    @property
    def present(self) -> tuple[str, ...]:
        """Who takes part in the masks."""
        return tuple(sorted(self.sealed)) if self.shares_closed.is_set() else ()

    async def offer(self, device_id: str, keys: Keys) -> tuple[dict[str, Keys], int]:
        """Take a device's keys; those of all, once nobody is waited for, and the threshold.

        Raises:
            RefusedError: too late, not ordered, other keys than before, or too few devices.
        """
        if device_id not in self.expected:
            raise RefusedError("has no order in this attempt", where=device_id)
        if self.roster.get(device_id, keys) != keys:
            raise RefusedError("has offered other keys before", where=device_id, fix="wait for the next attempt")
        if device_id not in self.roster:
            if self.keys_closed.is_set():
                raise RefusedError("the others have agreed on masks already", where=device_id)
            if not self.roster:
                self._later(KEYS_S, self.keys_closed)
            self.roster[device_id] = keys
            if self.roster.keys() == self.expected:
                self.keys_closed.set()
        await self.keys_closed.wait()
        if len(self.roster) < LEAST_DEVICES:
            raise RefusedError(
                f"{len(self.roster)} devices would mask their changes, and it takes {LEAST_DEVICES}", where=device_id
            )
        return dict(self.roster), self.threshold

    async def share(self, device_id: str, shares: Mapping[str, bytes]) -> dict[str, bytes]:
        """Take a device's sealed shares; those for it, of everyone who takes part.

        Raises:
            RefusedError: not in the roster, not for all of it, too late, or too few devices.
        """
        if not self.keys_closed.is_set() or device_id not in self.roster:
            raise RefusedError("is not in the roster", where=device_id)
        if set(shares) != set(self.roster) - {device_id}:
            raise RefusedError("has no share for each device of the roster", where=device_id)
        if device_id not in self.sealed:
            if self.shares_closed.is_set():
                raise RefusedError("the others have agreed on masks already", where=device_id)
            if not self.sealed:
                self._later(SHARES_S, self.shares_closed)
            self.sealed[device_id] = dict(shares)
            if len(self.sealed) == len(self.roster):
                self.shares_closed.set()
        await self.shares_closed.wait()
        if len(self.sealed) < max(LEAST_DEVICES, self.threshold):
            raise RefusedError(
                f"{len(self.sealed)} of {len(self.roster)} devices are left, and it takes {self.threshold}",
                where=device_id,
            )
        return {sender: given[device_id] for sender, given in self.sealed.items() if sender != device_id}

    def reveal(self, device_id: str, revealed: Revealed) -> None:
        """Take what a device reveals, once. Raises RefusedError: nobody asked it, or for something else."""
        asked = self.asked
        if asked is None or device_id not in asked.sent:
            raise RefusedError("was not asked to reveal anything", where=device_id)
        if set(revealed.seeds) != set(asked.sent) or set(revealed.keys) != set(asked.missing):
            raise RefusedError("reveals other shares than was asked for", where=device_id)
        self.revealed.setdefault(device_id, revealed)
        if len(self.revealed) >= self.threshold:
            self.enough.set()

    def close(self) -> None:
        """Nobody is waited for any more."""
        for timer in self._timers:
            timer.cancel()
        for event in (self.keys_closed, self.shares_closed):
            event.set()

    def _later(self, seconds: float, event: asyncio.Event) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, event.set))


class Masking:
    """All groups of one run's open round."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._groups: dict[tuple[int, int], Group] = {}

    def open(self, number: int, attempt: int, devices: Iterable[str]) -> None:
        """A new attempt with these devices; groups of other rounds are let go."""
        for key in [group for group in self._groups if group[0] != number]:
            self._groups.pop(key).close()
        if (number, attempt) not in self._groups:
            context = context_of(self._run_id, number, attempt)
            self._groups[number, attempt] = Group(context, frozenset(devices))

    def group(self, number: int, attempt: int) -> Group | None:
        """The group of an attempt; None before it, and after a restart."""
        return self._groups.get((number, attempt))

    def order_for(self, device_id: str) -> RevealOrder | None:
        """What this device is to reveal and has not."""
        for group in self._groups.values():
            if group.asked is not None and device_id in group.asked.sent and device_id not in group.revealed:
                return None if group.enough.is_set() else group.asked
        return None

    async def unmask(self, number: int, sent: Mapping[int, Iterable[str]], publish: Callable[[], None]) -> None:
        """Ask those who sent, by attempt, for what unmasks their sums; return when it is there, or is not to be had."""
        waiting = []
        for attempt, devices in sent.items():
            group = self.group(number, attempt)
            if group is None or group.asked is not None:
                continue
            names = tuple(sorted(set(devices) & set(group.present)))
            missing = tuple(sorted(set(group.present) - set(names)))
            if len(names) >= max(LEAST_DEVICES, group.threshold):
                group.asked = RevealOrder(self._run_id, number, attempt, names, missing)
                waiting.append(asyncio.create_task(group.enough.wait()))
        if not waiting:
            return
        publish()
        _, late = await asyncio.wait(waiting, timeout=REVEAL_S)
        for task in late:
            task.cancel()
