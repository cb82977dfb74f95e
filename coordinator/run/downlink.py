"""What devices hold of the head, and the cheapest way from there to the newest.

The coordinator keeps two heads: H, made by aggregation, and D, which devices hold to the bit and train from. After a
round D moves towards H by one coded difference that is the same for every device (:mod:`protos.update.downlink`). A
device says which head it holds, and is sent the differences that lead from there to D, one after the other; where they
would weigh more than D itself, or lead from nowhere, it is sent D whole, as float32.

With codec "float32" D is H, and always travels whole; a device that holds it already is sent only its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from protos.convert.head_transfers import MAX_DIFFERENCES, head_to, serialise_difference
from protos.orders import Holding
from protos.plan.plan import RunPlan
from protos.update import codecs, trees
from protos.update.downlink import Difference, step_towards
from protos.update.tensors import EncodedTensor, as_float32
from protos.update.trees import Tree

WHOLE = "float32"
# Around a difference in its message: a tag and a length.
_FRAME_BYTES = 5


@dataclass(frozen=True)
class Link:
    """One step of D: from version ``before`` to version ``after``, in so many serialised bytes."""

    before: str
    after: str
    difference: Difference
    size_bytes: int


@dataclass(frozen=True)
class SentHead:
    """A head as an order carries it: whole, or ``base`` and the differences that lead from it to ``version``."""

    version: str
    whole: tuple[EncodedTensor, ...] = ()
    base: str = ""
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Downlink:
    """D, and how devices that missed rounds get there. A value: a round that closes makes a new one.

    Attributes:
        shown: D.
        start: version of the bundle's starting head, which every device with the bundle holds.
        links: the newest steps of D, each beginning where the one before ended; the last ends at ``shown``.
    """

    shown: Tree
    start: str
    links: tuple[Link, ...] = ()

    @cached_property
    def version(self) -> str:
        """The name of D."""
        return trees.version(self.shown)

    @cached_property
    def whole(self) -> SentHead:
        """D as float32, for those to whom no differences lead."""
        return SentHead(self.version, whole=as_float32(self.shown))

    @cached_property
    def room_bytes(self) -> int:
        """What differences may weigh to save anything: D whole, less the name of the head that they start from."""
        whole = head_to(self.version, self.whole.whole, "", ()).ByteSize()
        return int(whole - head_to(self.version, (), self.version, ()).ByteSize())

    def after(self, head: Tree, number: int, plan: RunPlan) -> Downlink:
        """What devices will hold after round ``number``, which made ``head``. The same each time it is asked."""
        if trees.version(head) == self.version:
            return self
        section = plan.downlink
        found = None
        if section.codec != WHOLE:
            codec = codecs.build(section.codec, section.parameters, where="downlink")
            found = step_towards(head, self.shown, codec, codecs.generator(plan.run.seed, "downlink", number))
        if found is not None:
            difference, reached = found
            size_bytes = len(serialise_difference(difference))
            link = Link(self.version, trees.version(reached), difference, size_bytes)
            links = self._window((*self.links, link))
            if links:
                return Downlink(reached, self.start, links)
        # Nothing to gain from coding: devices get H itself, and nothing of it is owed any more.
        return replace(self, shown=head, links=())

    def _window(self, links: Sequence[Link]) -> tuple[Link, ...]:
        """The newest links that together weigh less than D whole."""
        kept, left_bytes = 0, self.room_bytes
        for link in reversed(links):
            left_bytes -= link.size_bytes + _FRAME_BYTES
            if left_bytes <= 0 or kept == MAX_DIFFERENCES:
                break
            kept += 1
        return tuple(links[len(links) - kept :])

    def head_for(self, holding: Holding) -> SentHead:
        """D for a device that holds this, in as few bytes as can be."""
        if not holding.rebuilds:
            return self.whole
        if self.version in (holding.head_version, self.start):
            return SentHead(self.version, base=self.version)
        # From behind: the chain from the newest head that the device holds is the shortest.
        for at in range(len(self.links) - 1, -1, -1):
            if self.links[at].before in (holding.head_version, self.start):
                steps = self.links[at:]
                return SentHead(
                    self.version, base=steps[0].before, differences=tuple(step.difference for step in steps)
                )
        return self.whole
