"""What this device may run: signatures, and a memory of what was signed before.

The rules against rollback, freeze, mix and match and fast-forward are those of :mod:`protos.trust.admission`.

An enrolled device that has seen one signature takes nothing unsigned from then on; one that never saw any takes what
its coordinator sends, by its hash. ``edge-runtime identity --require-signatures`` says so from the start.

Signatures are checked in a child process, because that takes a package of about 10 MB that the daemon does without:
``python3 -m edge_runtime.identity.signatures STATE CONTENT WHAT SHA256 SIZE``. Nothing of the content is opened before.

A head that a run ended with is signed by its coordinator, which the offline keys have let
(:mod:`protos.trust.delegated`); who has seen one of those takes no other head to work. What came with it is given to
the child: ``... STATE heads NOW``, and JSON on stdin.

A device of a site knows two roots: the site's, and the one of the fleet above (``above_root_pem`` of its identity).
Each has a memory of its own. Bundles may be signed under either, wheels under the site's, whose owner looks after the
board. Heads of runs must come from above: a site passes them on as they are, and has no key that a board would take.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edge_runtime.identity.identity import FOLDER, Identity, read_identity
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import ConfigError, EdgejouleError, IntegrityError
from protos.trust.admission import Memory, admitted, memory_from, memory_text
from protos.trust.delegated import HeadStatement, SignedHead, admitted_head
from protos.trust.signed import MAX_BYTES, SignatureFile, signature_of, signed_text, verify

__all__ = ["Memory", "Signatures", "admitted", "main", "read_memory", "write_memory"]

_FILE, _ABOVE = "signed.json", "signed-above.json"
_CHILD_S = 120.0


def read_memory(state: Path, *, above: bool = False) -> Memory:
    """The memory in a state folder; an empty one before anything was seen.

    Args:
        above: of what was signed under the root above.

    Raises:
        ConfigError: it cannot be read: a device that forgot what it saw must not take something old.
    """
    path = state / FOLDER / (_ABOVE if above else _FILE)
    try:
        return memory_from(path.read_bytes())
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "enrol this board again, which begins it anew"
        raise ConfigError("what was signed before cannot be read", where=str(path), fix=fix) from error


def write_memory(state: Path, memory: Memory, *, above: bool = False) -> None:
    """Keep it, whole or not at all. Raises StoreError: it cannot be written."""
    path = state / FOLDER / (_ABOVE if above else _FILE)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with write_whole(path) as file:
            file.write(memory_text(memory))


def forget_unless_same(state: Path, root_pem: str, above_root_pem: str = "") -> None:
    """Begin anew what was signed under a root that is another now, or where it cannot be read."""
    for name, above, now in ((_FILE, False, root_pem), (_ABOVE, True, above_root_pem)):
        try:
            before = read_identity(state)
            read_memory(state, above=above)
            if before is None or _root(before, above=above) == now:
                continue
        except EdgejouleError:
            pass
        with storing(state / FOLDER / name):
            (state / FOLDER / name).unlink(missing_ok=True)


def _root(identity: Identity, *, above: bool) -> str:
    return identity.above_root_pem if above else identity.root_pem


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
            if any(memory.required for memory in self._memories()):
                fix = "sign it with `coordinator sign`"
                raise IntegrityError("is not signed, and this device runs what is signed", where=what, fix=fix)
            return
        arguments = [str(self._state), str(content), what, sha256, str(size_bytes), repr(self._clock())]
        self._in_child(arguments, what)

    def check_head(self, signed: bytes, said: HeadStatement, where: str) -> None:
        """Let a head of a run come to work; one that is not signed only where no signed one was seen before.

        Args:
            signed: what came with it, or nothing.
            said: what its statement must say, but for counter and time.
            where: the head, for messages.

        Raises:
            IntegrityError: it may not, and why. ConfigError: what was signed before cannot be read.
        """
        if not self.can_check:
            return
        if not signed:
            if self.head_memory().heads_required:
                fix = "let the coordinator sign heads with `coordinator delegate`"
                raise IntegrityError("is not signed, and this device works with signed heads", where=where, fix=fix)
            return
        asked = {"signed": base64.b64encode(signed).decode(), "said": said.text().decode(), "where": where}
        self._in_child([str(self._state), "heads", repr(self._clock())], where, json.dumps(asked))

    def _in_child(self, arguments: Sequence[str], where: str, given: str = "") -> None:
        command = [sys.executable, "-m", "edge_runtime.identity.signatures", *arguments]
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=_CHILD_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise IntegrityError(f"its signature could not be checked ({error})", where=where) from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix(f"{where}: ")
            raise IntegrityError(said, where=where)

    def holds(self, sha256: str) -> bool:
        """Whether content that is held here may still be run: its signature was seen and has not ended, or none is
        required."""
        if not self.can_check:
            return True
        memories = self._memories()
        if not any(memory.required for memory in memories):
            return True
        now = self._clock()
        return any(memory.held.get(sha256, 0) > max(now, memory.newest_unix_s) for memory in memories)

    def require(self) -> None:
        """From now on nothing unsigned is taken."""
        write_memory(self._state, replace(read_memory(self._state), required=True))

    def require_heads(self) -> None:
        """From now on no head that is not signed comes to work."""
        above = self._has_above()
        write_memory(self._state, replace(read_memory(self._state, above=above), heads_required=True), above=above)

    def head_memory(self) -> Memory:
        """The memory by which heads of runs are judged. Raises ConfigError: it cannot be read."""
        return read_memory(self._state, above=self._has_above())

    def _has_above(self) -> bool:
        found = read_identity(self._state)
        return found is not None and bool(found.above_root_pem)

    def _memories(self) -> list[Memory]:
        return [read_memory(self._state), *([read_memory(self._state, above=True)] if self._has_above() else [])]


def main(arguments: list[str]) -> int:
    """Check one signature and remember it; the exit code."""
    if arguments[1] == "heads":
        return _check_head(Path(arguments[0]), float(arguments[2]))
    state, content, what, sha256 = Path(arguments[0]), Path(arguments[1]), arguments[2], arguments[3]
    size_bytes, now = int(arguments[4]), float(arguments[5])
    try:
        identity = read_identity(state)
        if identity is None:
            raise ConfigError("this device is not enrolled", where=str(state))
        with signature_of(content).open("rb") as file:
            found = SignatureFile.parse(file.read(MAX_BYTES + 1), what)
        above = what == "bundle" and _is_of(found, identity.above_root_pem)
        statement, signers, keys = verify(found, _root(identity, above=above).encode(), what)
        if (statement.what, statement.sha256, statement.size_bytes) != (what, sha256, size_bytes):
            raise IntegrityError("its signature is of other content", where=what, fix="sign it anew")
        memory = admitted(read_memory(state, above=above), statement, signers, keys, now, what)
        write_memory(state, memory, above=above)
    except (EdgejouleError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _is_of(file: SignatureFile, root_pem: str) -> bool:
    """Whether this root named the signers of a signature file."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if not root_pem:
        return False
    root = x509.load_pem_x509_certificate(root_pem.encode()).public_key()
    assert isinstance(root, ec.EllipticCurvePublicKey)
    try:
        root.verify(file.root_signature, signed_text("signers", file.signers), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _check_head(state: Path, now_unix_s: float) -> int:
    """Check the head that stdin tells of."""
    try:
        asked = json.load(sys.stdin)
        where = str(asked["where"])
        identity = read_identity(state)
        if identity is None:
            raise ConfigError("this device is not enrolled", where=str(state))
        signed = SignedHead.parse(base64.b64decode(asked["signed"]), where)
        above = bool(identity.above_root_pem)
        root = _root(identity, above=above).encode()
        head = HeadStatement.parse(asked["said"].encode(), where)
        if not _is_of(SignatureFile.parse(signed.delegation_signature, where), root.decode()):
            named = "the root above this board's site" if above else "the root of this board's fleet"
            fix = "give the board the root of who signed it with `edge-runtime identity --above-root FILE`"
            raise IntegrityError(f"{named} did not name its signers", where=where, fix=fix)
        memory, refusal = admitted_head(read_memory(state, above=above), signed, head, root, now_unix_s, where)
        write_memory(state, memory, above=above)
        if refusal is not None:
            raise refusal
    except (EdgejouleError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
