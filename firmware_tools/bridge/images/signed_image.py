"""An image that keys of a fleet must have signed before it is written to a board.

The board itself checks nothing: its flash has no room for it. So the machine that writes does, by the root certificate
of the fleet and a memory of what was written here before, by the rules of :mod:`protos.trust.admission`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protos.atomic import write_whole
from protos.errors import ConfigError, IntegrityError, StoreError, UsageError
from protos.extras import advice
from protos.file_lock import lock
from protos.trust.admission import Memory, admitted, memory_from, memory_text
from protos.trust.signed import MAX_BYTES, SignatureFile, Statement, signature_of, verify

__all__ = ["check_signed", "memory_path"]

# Checking takes milliseconds.
_PATIENCE_S = 10.0


def memory_path(root_pem: bytes) -> Path:
    """Where this machine remembers what was signed under that root: ``$XDG_STATE_HOME/edgejoule/flashed-ID.json``."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "edgejoule" / f"flashed-{hashlib.sha256(root_pem).hexdigest()[:16]}.json"


def check_signed(
    image: Path, data: bytes, root: Path, *, dry_run: bool = False, clock: Callable[[], float] = time.time
) -> Statement:
    """Let an image in by the signature beside it, and remember it unless nothing is to be written.

    Args:
        data: the image's content, which is what will be written.
        root: certificate of the fleet's root, PEM.
        clock: wall time, unix seconds.

    Raises:
        IntegrityError: unsigned, signed by others, of other content, ended, or older than what was written before.
        ConfigError: the root or the memory cannot be read. StoreError: the memory cannot be written.
        UsageError: the package cryptography is not installed.
    """
    try:
        root_pem = root.read_bytes()
    except OSError as error:
        fix = "give the fleet's root.pem"
        raise ConfigError(f"cannot be read ({error.strerror})", where=f"--root {root}", fix=fix) from error
    path = memory_path(root_pem)
    with _alone(path, wanted=not dry_run):
        return _checked(image, data, root, root_pem, path, dry_run=dry_run, clock=clock)


@contextmanager
def _alone(path: Path, *, wanted: bool) -> Iterator[None]:
    """While nobody else reads the memory to write it: of two images that are let in at once, both are remembered."""
    if not wanted:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
    try:
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                lock(handle)
                break
            except OSError as error:
                if time.monotonic() > until_s:
                    fix = "wait for the other `firmware-tools bridge flash`"
                    raise StoreError("another process is letting an image in", where=str(path), fix=fix) from error
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _checked(
    image: Path, data: bytes, root: Path, root_pem: bytes, path: Path, *, dry_run: bool, clock: Callable[[], float]
) -> Statement:
    where = image.name
    try:
        memory = memory_from(path.read_bytes()) if path.exists() else Memory()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "remove it: what was written before is then forgotten, and something older may come"
        raise ConfigError("what was signed before cannot be read", where=str(path), fix=fix) from error
    try:
        with signature_of(image).open("rb") as file:
            found = SignatureFile.parse(file.read(MAX_BYTES + 1), where)
    except OSError as error:
        raise IntegrityError("is not signed", where=where, fix=f"coordinator sign {where}") from error
    try:
        statement, signers, keys = verify(found, root_pem, where)
    except ModuleNotFoundError as error:
        raise UsageError(
            "the package cryptography is not installed", where="--root", fix=advice("coordinator")
        ) from error
    except ValueError as error:
        if isinstance(error, IntegrityError):
            raise
        raise ConfigError("is no certificate", where=f"--root {root}", fix="give the fleet's root.pem") from error
    if (statement.what, statement.sha256, statement.size_bytes) != (
        "firmware",
        hashlib.sha256(data).hexdigest(),
        len(data),
    ):
        raise IntegrityError("its signature is of other content", where=where, fix="sign it anew: `coordinator sign`")
    after = admitted(memory, statement, signers, keys, clock(), where)
    if not dry_run:
        try:
            with write_whole(path) as out:
                out.write(memory_text(after))
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
    return statement
