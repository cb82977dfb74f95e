"""Who has a board, and until when: one line in a folder on the board, changed under its lock alone.

Everyone who drives the board asks there, whichever inventory and account they use. A reservation that has ended counts
as none. Times are those of the machine that asks; what matters is that people's machines agree to the second or so.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import time
from dataclasses import dataclass

from coordinator.testbed.ssh import Session
from protos.errors import CheckFailed, RefusedError, UsageError

__all__ = ["Holder", "allowed", "holder", "me", "release", "reserve"]

_WHO = re.compile(r"[A-Za-z0-9@._+-]{1,80}")


@dataclass(frozen=True)
class Holder:
    """Who has a board, and until when."""

    who: str
    until_unix_s: float

    def __str__(self) -> str:
        return f"{self.who} until {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.until_unix_s))}"


def me(given: str | None = None) -> str:
    """Who asks: ``given``, EDGEJOULE_WHO, or USER@HOST.

    Raises:
        UsageError: it is no word.
    """
    try:
        who = given or os.environ.get("EDGEJOULE_WHO") or f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError) as error:
        raise UsageError("who asks is not known", where="--as", fix="give a name") from error
    if not _WHO.fullmatch(who):
        raise UsageError(f"{who!r} is no name", where="--as", fix="letters, digits, @ . _ + and -")
    return who


# $1 folder, $2 who, $3 until, $4 now, $5 verb. The kernel frees the lock whatever becomes of the shell.
_SCRIPT = """
set -e
umask 000
[ -d "$1" ] || mkdir -m 777 "$1" 2>/dev/null || [ -d "$1" ]
(
  flock -w 10 9
  holder= until=0
  if [ -f "$1/held" ]; then read -r holder until < "$1/held" || true; fi
  case "$until" in ''|*[!0-9]*) holder= until=0;; esac
  if [ "$until" -le "$4" ]; then holder=; fi
  case "$5" in
    take)
      if [ -n "$holder" ] && [ "$holder" != "$2" ]; then echo "held $holder $until"; exit 0; fi
      printf '%s %s\\n' "$2" "$3" > "$1/new.$$"
      mv -f "$1/new.$$" "$1/held"
      if [ "$holder" = "$2" ]; then echo again; else echo taken; fi ;;
    give)
      if [ -n "$holder" ] && [ "$holder" != "$2" ]; then echo "held $holder $until"; exit 0; fi
      rm -f "$1/held"
      if [ -n "$holder" ]; then echo given; else echo free; fi ;;
    ask)
      if [ -n "$holder" ]; then echo "held $holder $until"; else echo free; fi ;;
  esac
) 9< "$1"
"""


async def _said(session: Session, who: str, until_unix_s: float, verb: str) -> tuple[str, Holder | None]:
    words = (session.board.lock, who, str(int(until_unix_s)), str(int(time.time())), verb)
    said = (await session.must(_SCRIPT, *words, doing="asking who has the board")).split()
    if not said:
        raise CheckFailed("says nothing of who has it", where=session.board.name, fix=f"look at {session.board.lock}")
    if said[0] == "held" and len(said) == 3:
        return "held", Holder(said[1], float(said[2]))
    return said[0], None


async def reserve(session: Session, who: str, until_unix_s: float) -> bool:
    """Take a board. Whether it was free before; one's own is kept for the new time.

    Raises:
        RefusedError: somebody else has it.
    """
    said, other = await _said(session, who, until_unix_s, "take")
    if other is not None:
        raise _refused(session, other)
    return said == "taken"


async def release(session: Session, who: str, *, force: bool = False) -> bool:
    """Give a board back. Whether it was taken.

    Raises:
        RefusedError: somebody else has it, and ``force`` is not given.
    """
    said, other = await _said(session, who, 0, "give")
    if other is not None:
        if not force:
            raise _refused(session, other)
        said, other = await _said(session, other.who, 0, "give")
    return said == "given"


async def holder(session: Session) -> Holder | None:
    """Who has a board, or None."""
    return (await _said(session, "nobody", 0, "ask"))[1]


async def allowed(session: Session, who: str) -> None:
    """Return where nobody else has the board.

    Raises:
        RefusedError: somebody else has it.
    """
    other = await holder(session)
    if other is not None and other.who != who:
        raise _refused(session, other)


def _refused(session: Session, other: Holder) -> RefusedError:
    fix = "wait, or ask them; when they are gone: coordinator testbed release --force"
    return RefusedError(f"is reserved by {other}", where=session.board.name, fix=fix)
