"""New versions of the service that the coordinator offers: fetched and checked here, installed by root.

The daemon is a user of its own and may install nothing. It fetches a wheel over the channel that it works on, checks
name, size, hash and signature, and leaves it with a request in its state folder. Where root has allowed it
(``edge-runtime service upgrades on``), systemd then starts ``edge-runtime service take-upgrade``, which trusts nothing
of that: see :mod:`edge_runtime.service.upgrade.ordered`. What became of it stands in :data:`ORDERED`, which only root
writes.

A device that installs has left its coordinator, so that no round waits for it. It waits here until the new version
takes its place, or until root says that it does not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity.signatures import Signatures
from edge_runtime.state import storing
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.errors import EdgejouleError, IntegrityError
from protos.orders import UPGRADE_STATES, UpgradeOffer, UpgradeState
from protos.trust.signed import WHEEL, signature_of

__all__ = ["FOLDER", "ORDERED", "REQUEST", "WHEEL", "Upgrades"]

ORDERED = Path("usr/local/lib/edgejoule/ordered.json")
"""Root's word, under a machine's root; while it is there, upgrades are taken."""
FOLDER, REQUEST = "upgrade", "request.json"
"""In the state folder: the wheel, its signature, and what is asked of root; the last one is written last."""
_TOLD = "told.json"
_TURN_S = 1.0
_TAKEN_UP_S = 120.0
# Installing takes minutes on the slowest board, and the self check up to a quarter of an hour.
_BEYOND_S = 7200.0
_MOST_BYTES = 64 << 10


class Upgrades:
    """Upgrades of one device.

    Args:
        state: its state folder.
        root: of the machine.
        signatures: what may be run here.
        now_s: seconds that only grow.
    """

    def __init__(
        self, state: Path, root: Path, signatures: Signatures, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._ordered, self._signatures = state / FOLDER, root / ORDERED, signatures
        self._now_s = now_s

    def stamp(self) -> object:
        """Changes when root has said something; cheap."""
        try:
            found = self._ordered.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def said(self) -> UpgradeState | None:
        """What became of the last upgrade; None where root allows none."""
        theirs = _read(self._ordered)
        if theirs is None:
            return None
        mine = _read(self._folder / _TOLD) or UpgradeState()
        if mine.upgrade_id in ("", theirs.upgrade_id):
            # Root had begun, and is not heard of any more.
            return mine if mine.state == "failed" and theirs.state == "checked" else theirs
        if mine.state == "checked" and not (self._folder / REQUEST).exists():
            # It ended between the two: the wheel is fetched again.
            return UpgradeState()
        return mine

    def take(self, offer: UpgradeOffer, fetch: Callable[[Path], None]) -> bool:
        """Fetch a wheel through ``fetch``, which fills an empty folder with it and its signature, check both, and leave
        them to root. False when it may not be run here, which :meth:`said` then says.

        Raises:
            StoreError: it cannot be written. Whatever ``fetch`` raises, but IntegrityError.
        """
        part = self._folder / "part"
        try:
            with storing(part):
                shutil.rmtree(self._folder, ignore_errors=True)
                part.mkdir(parents=True, mode=0o700)
            if WHEEL.fullmatch(offer.wheel) is None:
                raise IntegrityError(f"{offer.wheel[:80]!r} is no wheel of edgejoule", where="upgrade")
            with storing(part):
                fetch(part)
            wheel = part / offer.wheel
            self._check(offer, wheel)
        except IntegrityError as error:
            log().error("%s is not installed: %s", offer.wheel[:80], error)
            shutil.rmtree(part, ignore_errors=True)
            self._tell(UpgradeState(offer.upgrade_id, "failed", str(error)))
            return False
        asked = {"upgrade_id": offer.upgrade_id, "wheel": offer.wheel, "trial_s": offer.trial_s}
        with storing(self._folder):
            for path in (signature_of(wheel), wheel):
                path.replace(self._folder / path.name)
            part.rmdir()
            self._tell(UpgradeState(offer.upgrade_id, "checked"))
            with write_whole(self._folder / REQUEST) as file:
                file.write(json.dumps(asked).encode())
        return True

    def _check(self, offer: UpgradeOffer, wheel: Path) -> None:
        if not wheel.is_file() or not signature_of(wheel).is_file():
            raise IntegrityError("came without its signature", where=offer.wheel)
        data = wheel.read_bytes()
        if len(data) != offer.size_bytes or hashlib.sha256(data).digest() != offer.sha256:
            raise IntegrityError("is not the wheel that was offered", where=offer.wheel)
        if not self._signatures.can_check:
            raise IntegrityError("cannot be checked: this device was never enrolled", where=offer.wheel)
        try:
            self._signatures.check(wheel, "wheel", offer.sha256.hex(), offer.size_bytes)
        except IntegrityError:
            raise
        except EdgejouleError as error:
            raise IntegrityError(str(error), where=offer.wheel) from error

    def wait(self, offer: UpgradeOffer, stopping: Stopping, tell: Callable[[str], None]) -> None:
        """Until root says how it ended, or a stop is requested: the new version takes the place of this process."""
        begun_s = self._now_s()
        while not stopping.requested:
            found, waited_s = self.said() or UpgradeState(offer.upgrade_id, "failed"), self._now_s() - begun_s
            if found.upgrade_id != offer.upgrade_id or found.state in ("kept", "failed"):
                return
            late = None
            if (self._folder / REQUEST).exists() and waited_s > _TAKEN_UP_S:
                late = "nobody has taken it up: systemctl status edge-runtime-upgrade.path"
            elif waited_s > _BEYOND_S + 2 * offer.trial_s:
                late = "it was not installed in good time: journalctl -u edge-runtime-upgrade"
            if late is not None:
                with storing(self._folder):
                    (self._folder / REQUEST).unlink(missing_ok=True)
                # Root may say otherwise later, and then does.
                self._tell(UpgradeState(offer.upgrade_id, "failed", late))
                log().error("%s: %s", offer.wheel, late)
                return
            tell(f"{offer.wheel} is being installed")
            stopping.wait(_TURN_S)

    def _tell(self, said: UpgradeState) -> None:
        with storing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with write_whole(self._folder / _TOLD) as file:
                file.write(json.dumps(vars(said)).encode())


def _read(path: Path) -> UpgradeState | None:
    """A state that was written down; None where none was, or none that can be read."""
    try:
        with path.open("rb") as file:
            found: dict[str, Any] = json.loads(file.read(_MOST_BYTES))
        made = UpgradeState(str(found["upgrade_id"]), str(found["state"]), str(found["reason"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return made if made.state in UPGRADE_STATES else None
