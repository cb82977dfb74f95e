"""Bundles on this device: fetched whole or not at all, hashed, and tried in a throw-away child before use.

A verdict of the trial is kept by (bundle, engine): what is good need not be tried again after a restart, what is bad
is neither fetched nor tried again. Signatures come first: :mod:`edge_runtime.identity.signatures`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from edge_runtime.daemon.stopping import Interrupted
from edge_runtime.identity.signatures import Signatures
from edge_runtime.state import by_use, keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.atomic import force_to_disk, write_whole
from protos.errors import EdgejouleError, IntegrityError, ModelError, StoreError, UnreachableError
from protos.model.bundle import Bundle, open_bundle, read_manifest
from protos.model.engine import EngineIdentity, try_in_subprocess
from protos.model.manifest import MANIFEST_FILE, brief

_TRIED = "tried.json"
_REFUSED = "refused.json"
# What may go well the next time: a busy board, one that was out of memory.
_PASSING = ("did not load within", "SIGKILL", "SIGTERM")
_KEEP_VERDICTS = 64
# Of a bundle that is on its way; one at most, and over a restart.
_COMES = ".comes-"


class BundleCache:
    """The bundles that this device holds.

    Args:
        state: the state folder; bundles are under ``bundles/``.
        engine: what will run them.
        signatures: what may be run; see :mod:`edge_runtime.identity.signatures`.
    """

    def __init__(self, state: Path, engine: EngineIdentity, signatures: Signatures | None = None) -> None:
        self._signatures = Signatures(state) if signatures is None else signatures
        self._folder, self._tried, self._engine = state / "bundles", state / _TRIED, str(engine)
        self._refused = state / _REFUSED
        self._ready: dict[str, Bundle] = {}

    @property
    def asks_signatures(self) -> bool:
        """Whether signatures can be checked here, so that they are worth fetching."""
        return self._signatures.can_check

    def may_run(self, bundle_id: str) -> bool:
        """Whether a bundle that is here may still be run: its signature has not ended, or none is required."""
        return self._signatures.holds(bundle_id.removeprefix("sha256:"))

    def adopt(self, path: Path) -> Bundle:
        """Open a bundle that is on this machine already.

        Raises:
            ModelError, IntegrityError, ShapeError, NonFiniteError: it is not usable, and why.
        """
        bundle = open_bundle(path)
        self._try(bundle)
        self._ready[bundle.bundle_id] = bundle
        return bundle

    def find(self, bundle_id: str, *, twin: bool = False) -> Bundle | None:
        """The bundle of this identity, if it is here and sound; a damaged one is deleted.

        Args:
            twin: it counts only with its Edge TPU twin, if it has one.
        """
        if not self.may_run(bundle_id):
            # Fetched again, with the signature of today if there is one.
            self._ready.pop(bundle_id, None)
            return None
        bundle = self._ready.get(bundle_id) or self._open(bundle_id)
        if bundle is None:
            return None
        self._ready[bundle_id] = bundle
        return None if twin and bundle.manifest.edge_tpu is not None and bundle.twin_path is None else bundle

    def _open(self, bundle_id: str) -> Bundle | None:
        path = self._place(bundle_id)
        if not path.is_dir():
            return None
        try:
            bundle = open_bundle(path, twin_may_lack=True)
            if bundle.bundle_id != bundle_id:
                raise IntegrityError("has another identity than its name", where=str(path))
        except EdgejouleError as error:
            log().warning("%s; it is deleted and fetched again", error)
            shutil.rmtree(path, ignore_errors=True)
            return None
        self._try(bundle)
        used(path)
        return bundle

    def newest(self) -> Bundle | None:
        """The bundle that was used last, if any is here."""
        for path in reversed([path for path in by_use(self._folder) if path.is_dir()]):
            with contextlib.suppress(EdgejouleError):
                bundle = self.find(f"sha256:{path.name}")
                if bundle is not None:
                    return bundle
        return None

    def fetch(self, bundle_id: str, write_files: Callable[[Path], None]) -> Bundle:
        """Get a bundle through ``write_files``, which fills a folder, and keep it. What came before nobody answered any
        more stays in that folder, for the next call to go on with.

        Raises:
            IntegrityError: the files are not those of ``bundle_id``; ModelError and others as :meth:`adopt`;
            StoreError: no space; whatever ``write_files`` raises.
        """
        place = self._place(bundle_id)
        self._refuse_bad(bundle_id)
        folder = self._folder / f"{_COMES}{place.name}"
        with storing(self._folder):
            for other in self._folder.glob(f"{_COMES}*"):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        try:
            with storing(folder):
                write_files(folder)
            manifest = read_manifest(folder)
            if manifest.bundle_id != bundle_id:
                raise IntegrityError(
                    f"is bundle {brief(manifest.bundle_id)}..., ordered was {brief(bundle_id)}...",
                    where="fetched bundle",
                )
            # Before any of the other files is opened: the manifest has the hash of each, and its own is the id.
            size_bytes = (folder / MANIFEST_FILE).stat().st_size
            self._signatures.check(folder, "bundle", bundle_id.removeprefix("sha256:"), size_bytes)
            bundle = open_bundle(folder, twin_may_lack=True)
            self._try(bundle)
            with storing(place):
                # What is there already lacks the twin, and a folder that is not empty cannot be replaced.
                shutil.rmtree(place, ignore_errors=True)
                os.replace(folder, place)
                force_to_disk(self._folder)
        except (UnreachableError, Interrupted):
            raise
        except BaseException:
            # Damaged, not wanted, or no room for it.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._ready[bundle_id] = kept = Bundle(place, bundle.manifest, bundle_id)
        used(place)
        keep_newest(self._folder, in_use=[place])
        self._ready = {key: held for key, held in self._ready.items() if held.path.exists()}
        return kept

    def _place(self, bundle_id: str) -> Path:
        digest = bundle_id.removeprefix("sha256:")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise IntegrityError(f"{bundle_id[:80]!r} is no identity of a bundle", where="order")
        return self._folder / digest

    def _try(self, bundle: Bundle) -> None:
        key = f"{bundle.bundle_id} {self._engine}"
        verdicts = self._verdicts()
        if key in verdicts:
            return
        self._refuse_bad(bundle.bundle_id)
        try:
            try_in_subprocess(bundle.backbone_path, bundle.head_path)
        except ModelError as error:
            if not any(word in error.what for word in _PASSING):
                marked = {**self._marked(), key: str(error)}
                self._keep(self._refused, dict(list(marked.items())[-_KEEP_VERDICTS:]))
            raise
        self._keep(self._tried, [*verdicts, key][-_KEEP_VERDICTS:])

    def _refuse_bad(self, bundle_id: str) -> None:
        """Nothing that failed its trial in this engine is fetched or tried again. Raises ModelError."""
        if (why := self._marked().get(f"{bundle_id} {self._engine}")) is not None:
            fix = "give the run another bundle; another engine tries it anew"
            raise ModelError(f"{why} (it was tried here before)", where=brief(bundle_id), fix=fix)

    def _keep(self, path: Path, verdicts: list[str] | dict[str, str]) -> None:
        try:
            with storing(path), write_whole(path) as file:
                file.write(json.dumps(verdicts).encode())
        except StoreError as error:
            log().warning("%s; the next start tries the model again", error)

    def _marked(self) -> dict[str, str]:
        try:
            found = json.loads(self._refused.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(key): str(why) for key, why in found.items()} if isinstance(found, dict) else {}

    def _verdicts(self) -> list[str]:
        try:
            found = json.loads(self._tried.read_bytes())
        except (OSError, ValueError):
            return []
        return [str(one) for one in found] if isinstance(found, list) else []
