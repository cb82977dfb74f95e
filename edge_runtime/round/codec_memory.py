"""What a device remembers between rounds, on disk: what its codec still owes, and its own control variate of SCAFFOLD
(:mod:`protos.update.controls`).

Rules kept here:

* A memory belongs to one run and one bundle.
* What it will be after a round is written down before the report is sent, and counts from the moment when the
  coordinator has accepted that report; once, however often the answer comes. A report that is refused, late or lost
  leaves the memory as it was, since nothing of it has reached the head.
* Without a disk there is no memory, and then no order that needs one: a codec that is made for error feedback and runs
  without it is mere bias, and a control that is lost after each round makes the coordinator's one wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from edge_runtime.round.tree_file import SUFFIX, about, read_tree, write_tree
from edge_runtime.state import keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.errors import IntegrityError, RefusedError, StoreError
from protos.orders import ControlOrder, TrainOrder
from protos.update import controls, trees
from protos.update.contract import Codec, State

_NEXT = ".next"
# Of each run the memories, and what they may become.
_KEEP = 16
_CONTROL = "-control"


class CodecMemory:
    """The memories of this device's codecs, and its controls, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, order: TrainOrder, codec: Codec, shapes: trees.Shapes) -> State:
        """What the codec remembers of this run; its first state in the first round. Empty for codecs without one.

        Raises:
            RefusedError: the codec needs a memory, and there is no room on disk for what it will be.
        """
        first = codec.init(shapes)
        if not first:
            return first
        self._make_sure_of_room(order, first, f"codec {order.codec.name!r}")
        path = self._place(order, SUFFIX)
        if not path.exists():
            return first
        try:
            state = read_tree(path)
            if trees.shapes(state) != trees.shapes(first):
                raise IntegrityError("is the memory of another codec", where=str(path))
        except IntegrityError as error:
            log().warning("%s; the codec begins anew", error)
            return first
        return state

    def control(self, order: TrainOrder, control: ControlOrder, shapes: trees.Shapes) -> tuple[trees.Tree, bool]:
        """This device's own control of the ordered epoch, and whether it has one; else zero.

        Raises:
            RefusedError: there is no room on disk for what it will be.
        """
        first = controls.zero(shapes)
        self._make_sure_of_room(order, first, "train.correction = 'scaffold'")
        path = self._place(order, _CONTROL + SUFFIX)
        if not path.exists() or about(path).get("epoch") != control.epoch:
            return first, False
        try:
            own = read_tree(path)
            if trees.shapes(own) != trees.shapes(first):
                raise IntegrityError("is the control of another head", where=str(path))
        except IntegrityError as error:
            log().warning("%s; the control begins anew", error)
            return first, False
        return own, True

    def propose_control(self, order: TrainOrder, control: ControlOrder, own: trees.Tree) -> None:
        """Write down what the control will be if the report of this order is accepted.

        Raises:
            StoreError: it cannot be written.
        """
        self._write_next(order, _CONTROL, own, {"epoch": control.epoch})

    def propose(self, order: TrainOrder, state: State) -> None:
        """Write down what the memory will be if the report of this order is accepted.

        Raises:
            StoreError: it cannot be written.
        """
        if state:
            self._write_next(order, "", state, {})

    def _write_next(self, order: TrainOrder, kind: str, state: State, more: dict[str, int]) -> None:
        path = self._place(order, kind + _NEXT)
        with storing(path):
            write_tree(path, state, {"run_id": order.run_id, "round": order.round, **more})
        held = path.with_suffix(SUFFIX)
        used(held)
        used(path)
        keep_newest(self._folder, _KEEP, in_use=[path, held])

    def settle(self, run_id: str, round: int, *, accepted: bool) -> None:
        """Take up what was proposed for a round, or drop it. Harmless when repeated.

        Raises:
            StoreError: it cannot be written.
        """
        for path in self._folder.glob(f"*{_NEXT}"):
            said = about(path)
            if (said.get("run_id"), said.get("round")) != (run_id, round):
                continue
            with storing(path):
                if accepted:
                    os.replace(path, path.with_suffix(SUFFIX))
                    used(path.with_suffix(SUFFIX))
                else:
                    path.unlink(missing_ok=True)

    def _make_sure_of_room(self, order: TrainOrder, state: State, what: str) -> None:
        """Before anything is spent on training: afterwards it would be too late."""
        path = self._place(order, ".room")
        try:
            with storing(path):
                write_tree(path, state, {})
        except StoreError as error:
            raise RefusedError(
                f"{what} needs a memory between rounds, and it cannot be kept: {error.what}",
                where=str(self._folder),
                fix=error.fix,
            ) from error
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _place(self, order: TrainOrder, suffix: str) -> Path:
        key = hashlib.sha256(f"{order.run_id}\n{order.bundle_id}".encode()).hexdigest()[:24]
        return self._folder / f"{key}{suffix}"
