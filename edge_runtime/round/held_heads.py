"""The heads that this device holds, and making the next one from them.

Rules kept here:

* What was received is on disk before it is trained, so that a restart needs only what changed since.
* A head that was made from differences counts only when its version, a hash of its content, is the ordered one. Else
  this device asks for whole heads: for one, when the head to start from was not here; for as long as it runs, when it
  computed other bits than were meant.
* A full disk costs bytes, not work: the newest head is then in memory only.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.round.tree_file import SUFFIX, read_tree, write_tree
from edge_runtime.state import by_use, keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.errors import IntegrityError, StoreError, UpdateError
from protos.orders import Holding, TrainOrder
from protos.update import trees
from protos.update.downlink import rebuild
from protos.update.tensors import decode
from protos.update.trees import Tree

_KEEP = 4


class CannotRebuildError(UpdateError):
    """A head that cannot be made from what is here. Asking again brings a whole one."""


class HeldHeads:
    """Heads by version, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._newest: tuple[str, Tree] | None = self._newest_on_disk()
        self._whole_next = self._whole_always = False

    def holding(self) -> Holding:
        """What to tell the coordinator."""
        if self._whole_next or self._whole_always:
            return Holding()
        return Holding(self._newest[0] if self._newest else "", rebuilds=True)

    def receive(self, order: TrainOrder, start: Tree) -> Tree:
        """The head to train from; it is held afterwards.

        Args:
            start: the bundle's own starting head, held by everyone who has the bundle.

        Raises:
            CannotRebuildError: see the rules above.
            UpdateError: the head is not of the bundle's shapes, or not as it declares itself.
        """
        shapes = trees.shapes(start)
        if not order.base:
            head = decode(order.head, shapes)
            self._whole_next = False
            self._hold(trees.version(head), head, start)
            return head
        if self._whole_next or self._whole_always:
            raise UpdateError("differences, though a whole head was asked for", where=f"order of round {order.round}")
        head = self._rebuilt(order, start, shapes)
        self._hold(order.head_version, head, start)
        return head

    def _rebuilt(self, order: TrainOrder, start: Tree, shapes: trees.Shapes) -> Tree:
        where = f"head of round {order.round}"
        base = self.find(order.base, start)
        if base is None or trees.shapes(base) != shapes:
            self._whole_next = True
            raise CannotRebuildError("the head that it is made from is not here", where=where)
        try:
            head = rebuild(base, order.differences, shapes)
        except UpdateError as error:
            self._whole_next = True
            raise CannotRebuildError(error.what, where=where) from error
        if trees.version(head) != order.head_version:
            self._whole_always = True
            raise CannotRebuildError("this machine computes other bits than were meant", where=where)
        return head

    def want_whole(self) -> None:
        """What this end said that it holds is not here: the next head is asked for whole."""
        self._whole_next = True

    def find(self, version: str, start: Tree) -> Tree | None:
        """The head of this version, or None when it is not held; ``start`` is that of the bundle."""
        if self._newest is not None and self._newest[0] == version:
            return self._newest[1]
        if trees.version(start) == version:
            return start
        # A version comes from the network: only names that are there are looked at.
        for path in self._folder.glob(f"*{SUFFIX}"):
            if path.stem == version:
                return self._read(path)
        return None

    def _hold(self, version: str, head: Tree, start: Tree) -> None:
        if (self._newest is not None and self._newest[0] == version) or trees.version(start) == version:
            return
        self._newest = (version, head)
        path = self._folder / f"{version}{SUFFIX}"
        try:
            with storing(path):
                write_tree(path, head, {"version": version})
            used(path)
            keep_newest(self._folder, _KEEP, in_use=[path])
        except StoreError as error:
            log().warning("%s; after a restart a whole head is fetched", error)

    def _newest_on_disk(self) -> tuple[str, Tree] | None:
        for path in reversed([path for path in by_use(self._folder) if path.suffix == SUFFIX]):
            head = self._read(path)
            if head is not None:
                return path.stem, head
        return None

    def _read(self, path: Path) -> Tree | None:
        try:
            head = read_tree(path)
            if trees.version(head) != path.stem:
                raise IntegrityError("its version is another", where=str(path))
        except IntegrityError as error:
            log().warning("%s; it is deleted", error)
            path.unlink(missing_ok=True)
            return None
        return head
