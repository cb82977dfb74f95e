"""What this device may run: signatures, and a memory of what was signed before.

The rules, after The Update Framework (theupdateframework.github.io/specification, section 5):

* **rollback**: no version of a line below the newest that was seen; nor two contents of one version;
* **freeze**: nothing past its end, by this clock or by the newest time that a signature told, whichever is later;
* **mix and match**: a signature names a whole bundle by its id, which is made of every file in it;
* **fast-forward**: versions that were signed by keys which the root has withdrawn since do not count any more;
* signers never go back to an older version of themselves.

An enrolled device that has seen one signature takes nothing unsigned from then on; one that never saw any takes what
its coordinator sends, by its hash. ``edge-runtime identity --require-signatures`` says so from the start.

Signatures are checked in a child process, because that takes a package of about 10 MB that the daemon does without:
``python3 -m edge_runtime.identity.signatures STATE CONTENT WHAT SHA256 SIZE``. Nothing of the content is opened before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_runtime.identity.identity import FOLDER, read_identity
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import ConfigError, EdgejouleError, IntegrityError
from protos.trust.signed import MAX_BYTES, SignatureFile, Signers, Statement, signature_of, verify

__all__ = ["Memory", "Signatures", "admitted", "main", "read_memory", "write_memory"]

_FILE = "signed.json"
_KIND = "edgejoule signed 1"
_CHILD_S = 120.0
_KEEP = 256


@dataclass(frozen=True)
class Memory:
    """What was signed before.

    Attributes:
        required: whether anything unsigned is refused.
        newest_unix_s: when the newest signature that was seen was made.
        signers_version: of the newest signers that were seen; 0 before any.
        lines: "what/line" to {"version", "sha256", "keys"} of the newest in it.
        held: digest of a content to when its signature ends.
    """

    required: bool = False
    newest_unix_s: int = 0
    signers_version: int = 0
    lines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)


def admitted(
    memory: Memory, statement: Statement, signers: Signers, keys: tuple[str, ...], now_unix_s: float, where: str
) -> Memory:
    """What is remembered after content with these good signatures was let in.

    Args:
        keys: that signed.
        where: the content, for the message.

    Raises:
        IntegrityError: it is older than what was seen, has ended, or its signers are older.
    """
    now = max(now_unix_s, memory.newest_unix_s)
    anew = "sign it anew with `coordinator sign`"
    if signers.version < memory.signers_version:
        raise IntegrityError(
            f"its signers are version {signers.version}, and {memory.signers_version} was seen here",
            where=where,
            fix=anew,
        )
    if signers.ends_unix_s <= now:
        raise IntegrityError("the say of its signers has ended", where=where, fix="renew it: `coordinator signers`")
    if statement.ends_unix_s <= now:
        ended = time.strftime("%Y-%m-%d", time.gmtime(statement.ends_unix_s))
        raise IntegrityError(f"its signature ended on {ended}", where=where, fix=anew)
    lines = dict(memory.lines)
    if signers.version > memory.signers_version:
        # What withdrawn keys have signed binds nobody: else who once stole a key could shut a line for ever.
        lines = {
            name: one for name, one in lines.items() if len(set(one["keys"]) & set(signers.keys)) >= signers.threshold
        }
    name = f"{statement.what}/{statement.line}"
    before = lines.get(name)
    if before is not None and statement.version < before["version"]:
        raise IntegrityError(
            f"is version {statement.version} of {name}, and {before['version']} was seen here", where=where, fix=anew
        )
    if before is not None and statement.version == before["version"] and statement.sha256 != before["sha256"]:
        raise IntegrityError(f"is another version {statement.version} of {name}", where=where, fix="raise its version")
    lines[name] = {"version": statement.version, "sha256": statement.sha256, "keys": list(keys)}
    held = {**memory.held, statement.sha256: statement.ends_unix_s}
    return Memory(
        True,
        max(memory.newest_unix_s, statement.issued_unix_s, signers.issued_unix_s),
        signers.version,
        lines,
        dict(list(held.items())[-_KEEP:]),
    )


def read_memory(state: Path) -> Memory:
    """The memory in a state folder; an empty one before anything was seen.

    Raises:
        ConfigError: it cannot be read: a device that forgot what it saw must not take something old.
    """
    path = state / FOLDER / _FILE
    try:
        fields = json.loads(path.read_bytes())
        if fields.pop("kind") != _KIND:
            raise ValueError
        return Memory(**fields)
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "enrol this board again, which begins it anew"
        raise ConfigError("what was signed before cannot be read", where=str(path), fix=fix) from error


def write_memory(state: Path, memory: Memory) -> None:
    """Keep it, whole or not at all. Raises StoreError: it cannot be written."""
    path = state / FOLDER / _FILE
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with write_whole(path) as file:
            file.write(json.dumps({"kind": _KIND, **asdict(memory)}, indent=1).encode() + b"\n")


def forget_unless_same(state: Path, root_pem: str) -> None:
    """Begin anew with a new root, or where what was remembered cannot be read."""
    try:
        before = read_identity(state)
        read_memory(state)
        if before is None or before.root_pem == root_pem:
            return
    except EdgejouleError:
        pass
    with storing(state / FOLDER / _FILE):
        (state / FOLDER / _FILE).unlink(missing_ok=True)


class Signatures:
    """The checks of one device.

    Args:
        state: its state folder.
        clock: wall time, unix seconds.
    """

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self._state, self._clock = state, clock

    @property
    def can_check(self) -> bool:
        """Whether there is a root to check by: only an enrolled device has one."""
        return read_identity(self._state) is not None

    def check(self, content: Path, what: str, sha256: str, size_bytes: int) -> None:
        """Let content in by its signature, which lies beside it; content without one only where none was seen before.

        Args:
            content: file, or a bundle's folder.
            what, sha256, size_bytes: what its signature must say.

        Raises:
            IntegrityError: it may not be run, and why. ConfigError: what was signed before cannot be read.
        """
        signed = signature_of(content).exists()
        if not self.can_check:
            return
        if not signed:
            if read_memory(self._state).required:
                fix = "sign it with `coordinator sign`"
                raise IntegrityError("is not signed, and this device runs what is signed", where=what, fix=fix)
            return
        arguments = [str(self._state), str(content), what, sha256, str(size_bytes), repr(self._clock())]
        command = [sys.executable, "-m", "edge_runtime.identity.signatures", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise IntegrityError(f"its signature could not be checked ({error})", where=what) from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise IntegrityError(said, where=what)

    def holds(self, sha256: str) -> bool:
        """Whether content that is held here may still be run: its signature was seen and has not ended, or none is
        required."""
        if not self.can_check:
            return True
        memory = read_memory(self._state)
        if not memory.required:
            return True
        ends = memory.held.get(sha256)
        return ends is not None and ends > max(self._clock(), memory.newest_unix_s)

    def require(self) -> None:
        """From now on nothing unsigned is taken."""
        write_memory(self._state, replace(read_memory(self._state), required=True))


def main(arguments: list[str]) -> int:
    """Check one signature and remember it; the exit code."""
    state, content, what, sha256 = Path(arguments[0]), Path(arguments[1]), arguments[2], arguments[3]
    size_bytes, now = int(arguments[4]), float(arguments[5])
    try:
        identity = read_identity(state)
        if identity is None:
            raise ConfigError("this device is not enrolled", where=str(state))
        with signature_of(content).open("rb") as file:
            found = SignatureFile.parse(file.read(MAX_BYTES + 1), what)
        statement, signers, keys = verify(found, identity.root_pem.encode(), what)
        if (statement.what, statement.sha256, statement.size_bytes) != (what, sha256, size_bytes):
            raise IntegrityError("its signature is of other content", where=what, fix="sign it anew")
        write_memory(state, admitted(read_memory(state), statement, signers, keys, now, what))
    except (EdgejouleError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
