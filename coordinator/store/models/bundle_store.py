"""The coordinator's own copies of bundles, by id: a run goes on whatever happens to the folder it was started from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from protos.atomic import force_to_disk, write_whole
from protos.errors import IntegrityError, StoreError, UnknownRunError
from protos.model.bundle import Bundle, open_bundle
from protos.model.manifest import MANIFEST_FILE
from protos.trust.signed import BUNDLE_SIGNATURE

_FREE = "free space in the state directory"


class NotHereError(StoreError):
    """A file that a run needs is not in this state folder. It may be in another one, and can be brought here."""


def _bring_signature(source: Path, target: Path) -> None:
    """The signature of the bundle that was named last is the one that devices are sent: it may be a newer one."""
    signature = source / BUNDLE_SIGNATURE
    if source == target or not signature.is_file():
        return
    try:
        data = signature.read_bytes()
        with write_whole(target / BUNDLE_SIGNATURE) as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"cannot be copied ({error.strerror})", where=str(signature)) from error


class BundleStore:
    """Bundles under one folder, each under the hexadecimal part of its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _place(self, bundle_id: str) -> Path:
        name = bundle_id.removeprefix("sha256:")
        if not name.isalnum() or len(name) > 128:
            raise UnknownRunError(f"{bundle_id[:80]!r} is no bundle id")
        return self.folder / name

    def keep(self, bundle: Bundle) -> Bundle:
        """Copy a bundle here, whole or not at all, unless it is here already; returns the checked copy.

        Raises:
            StoreError: it cannot be written.
            ModelError, IntegrityError: it changed while it was copied.
        """
        place = self._place(bundle.bundle_id)
        if place.exists():
            _bring_signature(bundle.path, place)
            return open_bundle(place)
        part = self._part()
        try:
            for name in [*bundle.manifest.files, MANIFEST_FILE]:
                with (bundle.path / name).open("rb") as source, write_whole(part / name) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            _bring_signature(bundle.path, part)
            open_bundle(part)
            os.replace(part, place)
            force_to_disk(self.folder)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot be copied ({error.strerror})", where=str(bundle.path), fix=_FREE) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return open_bundle(place)

    def take_in(self, bundle_id: str, files: Mapping[str, bytes]) -> Bundle:
        """Keep a bundle whose files came from elsewhere; returns the checked copy.

        Raises:
            StoreError: it cannot be written.
            ModelError, IntegrityError: these are not its files.
        """
        part = self._part()
        try:
            for name, data in files.items():
                (part / name).write_bytes(data)
            found = open_bundle(part)
            if found.bundle_id != bundle_id:
                raise IntegrityError(f"is {found.bundle_id}", where=f"bundle {bundle_id}", fix="copy it again")
            return self.keep(found)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(self.folder), fix=_FREE) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _part(self) -> Path:
        """A new folder for what is not whole yet, on the disk of the state: another may be full, or of another user."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self.folder, prefix=".part-"))
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(self.folder), fix=_FREE) from error

    def sign(self, bundle_id: str, signature: bytes) -> None:
        """Keep another signature of a bundle that is here. Raises StoreError: it cannot be written."""
        path = self._place(bundle_id) / BUNDLE_SIGNATURE
        try:
            if path.is_file() and path.read_bytes() == signature:
                return
            with write_whole(path) as file:
                file.write(signature)
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error

    def open(self, bundle_id: str) -> Bundle:
        """The copy of a bundle.

        Raises:
            UnknownRunError: it is not here.
            ModelError, IntegrityError: the copy is damaged.
        """
        place = self._place(bundle_id)
        if not place.is_dir():
            raise UnknownRunError(f"no bundle {bundle_id} is held here")
        return open_bundle(place)

    def sweep(self) -> None:
        """Remove what an interrupted copy left behind."""
        for part in self.folder.glob(".part-*"):
            shutil.rmtree(part, ignore_errors=True)
