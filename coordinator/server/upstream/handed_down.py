"""Heads that a site was given from above, kept and given to its own devices as they came.

What vouches for a head is of the coordinator that made it, and of nobody else: run, round, bundle, bytes and signature
stay as they are, and the site adds none. So a device of a site is told by the same signature what a device above is
told by. One head of a bundle is kept, the last that came, and it counts before what runs of the site itself end with.
"""

from __future__ import annotations

import logging
from pathlib import Path

from google.protobuf.message import DecodeError

from protos.atomic import write_whole
from protos.convert.publications import publication_from, publication_to
from protos.errors import EdgejouleError, StoreError, UpdateError
from protos.model.bundle import Bundle
from protos.orders import Holding, Publication
from protos.update import trees
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb

__all__ = ["HandedDown"]

log = logging.getLogger("edgejoule.coordinator")

_KEEP = 16
_SUFFIX = ".head"


class HandedDown:
    """The heads in a folder, each in a file of its own, named as its bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By bundle, the one that came last at the end.
        self._held: dict[str, Publication] = {}
        for path in sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns):
            try:
                found = publication_from(pb.Publication.FromString(path.read_bytes()))
            except (OSError, DecodeError, EdgejouleError) as error:
                log.warning("%s cannot be read (%s); it comes again from above", path, error)
                continue
            self._held[found.bundle_id] = found

    def take(self, publication: Publication, bundle: Bundle) -> None:
        """Keep a head from above in the place of the one of its bundle before.

        Raises:
            UpdateError: it is not of the bundle's shapes, or not as it is called.
            StoreError: it cannot be written.
        """
        head = decode(publication.head, bundle.manifest.head.shapes())
        if trees.version(head) != publication.head_version:
            raise UpdateError("its version is another than it is called", where=f"head of {publication.run_id}")
        message = publication_to(publication)
        assert message is not None
        path = self._folder / f"{bundle.bundle_id.removeprefix('sha256:')}{_SUFFIX}"
        held = {name: one for name, one in self._held.items() if name != publication.bundle_id}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with write_whole(path) as file:
                file.write(message.SerializeToString())
            for name in list(held)[: -_KEEP + 1]:
                (self._folder / f"{name.removeprefix('sha256:')}{_SUFFIX}").unlink(missing_ok=True)
                del held[name]
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
        self._held = {**held, publication.bundle_id: publication}

    def wanted(self, holding: Holding) -> tuple[bool, Publication | None]:
        """Whether heads of this device's bundle come from above, and what it is to be sent now."""
        newest = next(reversed(self._held.values()), None)
        found = self._held.get(holding.bundle_id) if holding.bundle_id else newest
        if found is None or holding.published is None:
            return False, None
        return True, None if found.id == holding.published else found
