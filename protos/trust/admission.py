"""Whether content with good signatures may still be let in, by what was let in before: a memory and its rules.

The rules, after The Update Framework (theupdateframework.github.io/specification, section 5):

* **rollback**: no version of a line below the newest that was seen; nor two contents of one version;
* **freeze**: nothing past its end, by this clock or by the newest time that a signature told, whichever is later;
* **mix and match**: a signature names a whole by one hash; a bundle's is made of every file in it;
* **fast-forward**: versions that were signed by keys which the root has withdrawn since do not count any more;
* signers never go back to an older version of themselves.

No input or output: who remembers where is for the caller.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from protos.errors import IntegrityError
from protos.trust.signed import Signers, Statement

__all__ = ["COUNTERS", "Conflict", "Memory", "admitted", "conflict", "memory_from", "memory_text", "remembered"]

_KIND = "edgejoule signed 1"
_KEEP = 256
COUNTERS = "head/"
"""How the lines of heads begin, which online keys count along: one for each bundle."""


@dataclass(frozen=True)
class Memory:
    """What was signed before.

    Attributes:
        required: whether anything unsigned is refused.
        newest_unix_s: when the newest signature that was seen was made.
        signers_version: of the newest signers that were seen; 0 before any.
        heads_required: whether a head that a run ended with must be signed; see :mod:`protos.trust.delegated`.
        lines: "what/line" to {"version", "sha256", "keys"} of the newest in it.
        held: digest of a content to when its signature ends.
    """

    required: bool = False
    newest_unix_s: int = 0
    signers_version: int = 0
    lines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    heads_required: bool = False


@dataclass(frozen=True)
class Conflict:
    """Why content cannot follow what was let in before.

    Attributes:
        kind: "signers" are older, the content is "older", or it is "another" of the same version.
        version: that was seen before, of the signers or of the line.
    """

    kind: Literal["signers", "older", "another"]
    version: int


def _binding(memory: Memory, signers: Signers) -> dict[str, Mapping[str, Any]]:
    """The lines that still bind under these signers."""
    if signers.version <= memory.signers_version:
        return dict(memory.lines)
    # What withdrawn keys have signed binds nobody: else who once stole a key could shut a line for ever.
    # Counters of heads are by keys that were delegated to: the delegation says whether those still count.
    return {
        name: line
        for name, line in memory.lines.items()
        if name.startswith(COUNTERS) or len(set(line["keys"]) & set(signers.keys)) >= signers.threshold
    }


def conflict(memory: Memory, statement: Statement, signers: Signers) -> Conflict | None:
    """What of the memory content with these good signatures cannot follow, or None; ends are not looked at."""
    if signers.version < memory.signers_version:
        return Conflict("signers", memory.signers_version)
    before = _binding(memory, signers).get(f"{statement.what}/{statement.line}")
    if before is None or statement.version > before["version"]:
        return None
    if statement.version < before["version"]:
        return Conflict("older", before["version"])
    return Conflict("another", before["version"]) if statement.sha256 != before["sha256"] else None


def remembered(memory: Memory, statement: Statement, signers: Signers, keys: tuple[str, ...]) -> Memory:
    """What is remembered after content that was let in; nothing is judged."""
    lines = _binding(memory, signers)
    lines[f"{statement.what}/{statement.line}"] = {
        "version": statement.version,
        "sha256": statement.sha256,
        "keys": list(keys),
    }
    held = {**memory.held, statement.sha256: statement.ends_unix_s}
    return Memory(
        True,
        max(memory.newest_unix_s, statement.issued_unix_s, signers.issued_unix_s),
        max(memory.signers_version, signers.version),
        lines,
        dict(list(held.items())[-_KEEP:]),
        memory.heads_required,
    )


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
    found = conflict(memory, statement, signers)
    if found is not None and found.kind == "signers":
        raise IntegrityError(
            f"its signers are version {signers.version}, and {found.version} was seen here", where=where, fix=anew
        )
    if signers.ends_unix_s <= now:
        raise IntegrityError("the say of its signers has ended", where=where, fix="renew it: `coordinator signers`")
    if statement.ends_unix_s <= now:
        ended = time.strftime("%Y-%m-%d", time.gmtime(statement.ends_unix_s))
        raise IntegrityError(f"its signature ended on {ended}", where=where, fix=anew)
    name = f"{statement.what}/{statement.line}"
    if found is not None and found.kind == "older":
        raise IntegrityError(
            f"is version {statement.version} of {name}, and {found.version} was seen here", where=where, fix=anew
        )
    if found is not None:
        raise IntegrityError(f"is another version {statement.version} of {name}", where=where, fix="raise its version")
    return remembered(memory, statement, signers, keys)


def memory_from(data: bytes) -> Memory:
    """A memory from its bytes.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    fields = json.loads(data)
    if fields.pop("kind") != _KIND:
        raise ValueError("of another kind")
    return Memory(**fields)


def memory_text(memory: Memory) -> bytes:
    """The bytes that :func:`memory_from` reads."""
    fields = asdict(memory)
    if not memory.heads_required:
        # As long as nobody signs heads, a version of the service that knows nothing of it can read what this one wrote.
        del fields["heads_required"]
    return json.dumps({"kind": _KIND, **fields}, indent=1).encode() + b"\n"
