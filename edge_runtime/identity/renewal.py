"""Renewal by itself: after two thirds of a certificate's life, in a child process, with a new key.

A child, because making keys takes a package of about 10 MB that the daemon does without. As a program:
``python3 -m edge_runtime.identity.renewal STATE ADDRESS`` renews once and says how it went.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_runtime.identity.identity import Identity, read_identity
from edge_runtime.systemd.logging_setup import log
from protos.errors import EdgejouleError

__all__ = ["Renewals", "main"]

LOOK_S = 60.0
AGAIN_S = 3600.0
_CHILD_S = 120.0


class Renewals:
    """A thread that renews the identity of a state folder when it is due.

    Args:
        state: the folder.
        address: of the coordinator, HOST:PORT.
        clock: wall time, unix seconds; the certificate's own.
        look_s: how often it is looked at.
    """

    def __init__(
        self, state: Path, address: str, *, clock: Callable[[], float] = time.time, look_s: float = LOOK_S
    ) -> None:
        self._state, self._address, self._clock, self._look_s = state, address, clock, look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewals", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking; a renewal that runs is left to end by itself."""
        self._stop.set()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            wait_s = self._look_s if self.look() else AGAIN_S

    def look(self) -> bool:
        """Renew if it is due; false when that was tried and did not work."""
        try:
            identity = read_identity(self._state)
        except EdgejouleError as error:
            log().warning("%s", error)
            return False
        if identity is None or self._clock() < identity.due_unix_s():
            return True
        return self._renew(identity)

    def _renew(self, identity: Identity) -> bool:
        command = [sys.executable, "-m", "edge_runtime.identity.renewal", str(self._state), self._address]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log().warning("the certificate could not be renewed (%s); again in an hour", error)
            return False
        if done.returncode:
            left_d = (identity.ends_unix_s - self._clock()) / 86400
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            log().warning("the certificate could not be renewed (%s); %.1f days are left", said, left_d)
            return False
        log().info("%s", done.stdout.strip())
        return True


def main(arguments: list[str]) -> int:
    """Renew once; the exit code."""
    from edge_runtime.identity.enrolment import readmit, renew

    state, address = Path(arguments[0]), arguments[1]
    try:
        identity = read_identity(state)
        if identity is None:
            print("there is no identity", file=sys.stderr)
            return 1
        ended = time.time() >= identity.ends_unix_s
        found = readmit(identity, state) if ended else renew(identity, state, address)
    except EdgejouleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(
        f"new certificate of {found.device_id}, until",
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.ends_unix_s)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
