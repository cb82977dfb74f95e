"""The basis that this device holds: coordinates to train in, sent once in a run and kept on disk.

A basis counts only when its version, a hash of its content, is the ordered one. Without it the coordinator is asked
again, and sends all of it.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.round.held_heads import CannotRebuildError
from edge_runtime.round.tree_file import SUFFIX, read_tree, write_tree
from edge_runtime.state import keep_newest, storing
from edge_runtime.systemd.logging_setup import log
from protos.errors import IntegrityError, StoreError
from protos.orders import BasisOrder
from protos.statistics.whitening import Basis, received

_KEEP = 2


class HeldBasis:
    """The newest basis, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._newest = self._on_disk()

    @property
    def version(self) -> str:
        """Of what is held, or ""."""
        return self._newest.version if self._newest is not None else ""

    def receive(self, order: BasisOrder, width: int) -> Basis:
        """The basis to train in; it is held afterwards.

        Raises:
            CannotRebuildError: only its name came, and it is not here.
            UpdateError: it is no basis of features of this width, or not the one that it is called.
        """
        if not order.tensors:
            if self._newest is not None and self._newest.version == order.version:
                return self._newest
            self._newest = None
            raise CannotRebuildError("the basis to train in is not here", where=f"basis {order.version}")
        basis = received(order.tensors, width)
        if basis.version != order.version:
            raise CannotRebuildError("the basis to train in is not the one it is called", where=order.version)
        self._newest = basis
        path = self._folder / f"{basis.version}{SUFFIX}"
        try:
            with storing(path):
                write_tree(path, basis.tree, {"version": basis.version})
            keep_newest(self._folder, _KEEP)
        except StoreError as error:
            log().warning("%s; after a restart the basis is fetched again", error)
        return basis

    def _on_disk(self) -> Basis | None:
        for path in sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                basis = Basis(read_tree(path))
                if basis.version != path.stem:
                    raise IntegrityError("its version is another", where=str(path))
            except IntegrityError as error:
                log().warning("%s; it is deleted", error)
                path.unlink(missing_ok=True)
                continue
            return basis
        return None
