"""This device's part in masked sums: it agrees on masks before it trains, and reveals what unmasks the sum afterwards.

Keys are made here for each attempt and kept in memory alone: a device that begins anew takes part in the next one. The
package for them is loaded when the first masked order comes; other devices do without its memory.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from edge_runtime.daemon.link import Link
from edge_runtime.systemd.logging_setup import log
from protos.errors import RefusedError
from protos.orders import MaskedChange, MaskOrder, RevealOrder, TrainOrder
from protos.secure_sum.grid import quantised, to_bytes, width_of
from protos.update.codecs import generator
from protos.update.trees import Tree

if TYPE_CHECKING:
    from protos.secure_sum.party import Party

__all__ = ["Masks"]

_KEPT = 4
# So long a device that would go stays for the end of a round whose sum it is a part of.
_OWES_S = 120.0


class Masks:
    """The masks of the newest attempts of one device.

    Args:
        link: to the coordinator, which hands keys and sealed shares around.
    """

    def __init__(self, device_id: str, session: str, link: Link) -> None:
        self._device_id, self._session, self._link = device_id, session, link
        self._parties: OrderedDict[tuple[str, int, int], tuple[Party, int]] = OrderedDict()
        # SHA-256 of what went out under the masks of each attempt: the numbers are as large as a change.
        self._used: dict[tuple[str, int, int], bytes] = {}
        self._hidden: tuple[tuple[str, int, int], float] | None = None

    @property
    def owes(self) -> bool:
        """Whether a change was hidden lately whose masks nobody has asked to reveal yet."""
        return self._hidden is not None and time.monotonic() < self._hidden[1] + _OWES_S

    def forget(self) -> None:
        """Nobody will ask any more."""
        self._hidden = None

    def agree(self, order: TrainOrder) -> None:
        """Agree with the other devices of this order; returns when all have, or are left out.

        Raises:
            RefusedError: it came to nothing, or a change would not stay hidden. UpdateError: what came is no share.
            Away, Interrupted: the coordinator cannot be reached.
        """
        from protos.secure_sum.party import Keys, Party

        assert order.mask is not None
        key = _key(order.run_id, order.round, order.attempt)
        if key in self._parties:
            return
        party = Party(self._device_id, "/".join(map(str, key)))
        mine = party.keys()
        roster, threshold = self._link.mask_keys(self._device_id, self._session, key, (mine.seal, mine.mask, mine.seed))
        sealed = party.sealed_shares({name: Keys(*entry) for name, entry in roster.items()}, threshold)
        party.opened(self._link.mask_shares(self._device_id, self._session, key, sealed))
        self._parties[key] = (party, width_of(order.mask.bits, len(roster)))
        while len(self._parties) > _KEPT:
            gone, _ = self._parties.popitem(last=False)
            self._used.pop(gone, None)

    def hide(self, order: TrainOrder, change: Tree) -> MaskedChange:
        """A change on the grid of the order, under masks.

        Raises:
            RefusedError: no masks were agreed on, or another change went out under them: who has both could subtract
                one from the other, and would see what this device alone has learnt in between.
        """
        mask: MaskOrder | None = order.mask
        key = _key(order.run_id, order.round, order.attempt)
        there = self._parties.get(key)
        if mask is None or there is None:
            raise RefusedError("no masks were agreed on", where=f"round {order.round}")
        party, width = there
        random = generator(order.seed, "mask", self._device_id, order.round)
        numbers = quantised(change, mask.clip, mask.bits, random)
        made = MaskedChange(width, to_bytes(party.masked(numbers, width), width))
        # Masks are good once; the same change may be sent again.
        digest = hashlib.sha256(made.numbers).digest()
        if self._used.setdefault(key, digest) != digest:
            raise RefusedError(
                "another change went out under the masks of this attempt",
                where=f"round {order.round} of {order.run_id}",
            )
        self._hidden = (key, time.monotonic())
        return made

    def reveal(self, order: RevealOrder) -> None:
        """Answer a coordinator that asks for what unmasks a sum.

        Raises:
            RefusedError: it would unmask a single device. Away, Interrupted: the coordinator cannot be reached.
        """
        key = _key(order.run_id, order.round, order.attempt)
        if self._hidden is not None and self._hidden[0] == key:
            self._hidden = None
        there = self._parties.get(key)
        if there is None:
            raise RefusedError("the keys of that attempt are gone", where=f"round {order.round}")
        found = there[0].reveal(order.sent, order.missing)
        self._link.mask_reveal(self._device_id, self._session, key, dict(found.seeds), dict(found.keys))
        log().debug("round %d: revealed what unmasks the sum of %d devices", order.round, len(order.sent))


def _key(run_id: str, number: int, attempt: int | None) -> tuple[str, int, int]:
    return run_id, number, attempt or 1
