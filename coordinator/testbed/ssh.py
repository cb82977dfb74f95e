"""One SSH connection to a board: scripts run there, files brought and fetched. Whatever goes wrong has a cause.

Scripts are POSIX sh, and files travel through `cat`, so that a board needs nothing but an SSH server and a shell.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from coordinator.testbed.host_keys import HostKeys
from coordinator.testbed.inventory import Board
from protos.errors import CheckFailed, EdgejouleError, IntegrityError, RefusedError, UnreachableError, WaitExpired

__all__ = ["CONNECT_S", "Ran", "Session", "connect", "digest_of", "quoted"]

CONNECT_S = 10.0
SCRIPT_S = 60.0
_PIECE = 64 << 10
# A board whose power went is noticed after so long.
_KEEPALIVE_S, _KEEPALIVES = 5, 3


@dataclass(frozen=True)
class Ran:
    """What a script came to."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line that it wrote, to stderr if it did."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else "it wrote nothing"


def quoted(*words: str) -> str:
    """Words as a shell takes them."""
    return shlex.join(words)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _causes(board: Board, timeout_s: float, doing: str) -> Iterator[None]:
    """Whatever SSH or the network raises, as an error of ours with board and cause."""
    where = board.host if board.port == 22 else f"{board.host}:{board.port}"
    try:
        yield
    except EdgejouleError:
        raise
    except asyncssh.HostKeyNotVerifiable as error:
        what = "shows another host key than the one that is written down"
        raise IntegrityError(
            what, where=where, fix="see why; if the board was set up anew: coordinator testbed trust --replace"
        ) from error
    except asyncssh.PermissionDenied as error:
        who = board.user or "this user"
        fix = f"put the public key there: ssh-copy-id {board.user + '@' if board.user else ''}{board.host}"
        raise RefusedError(f"does not let {who} in", where=where, fix=fix) from error
    except asyncssh.KeyImportError as error:
        raise RefusedError(f"the key cannot be read ({error})", where=where, fix="correct `key`") from error
    except TimeoutError as error:
        what = f"said nothing for {timeout_s:g} s while {doing}"
        raise WaitExpired(what, where=where, fix="is it busy, or hung? try again, or give --timeout") from error
    except (asyncssh.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error) or "closed"
        fix = "is it on, and is sshd there?" if doing == "connecting" else "run the command again: it goes on from here"
        raise UnreachableError(f"does not answer while {doing} ({reason})", where=where, fix=fix) from error


class Session:
    """A board that is connected. Made by `connect`."""

    def __init__(self, board: Board, connection: asyncssh.SSHClientConnection, timeout_s: float) -> None:
        self.board, self._connection, self._timeout_s = board, connection, timeout_s

    @property
    def host_key(self) -> str:
        """Kind and fingerprint of the key that the board proved to have."""
        key = self._connection.get_server_host_key()
        return f"{key.get_algorithm()} {key.get_fingerprint()}" if key else "?"

    def command(self, script: str, *arguments: str) -> str:
        """The line that runs a script with arguments on the board, as root where the inventory says so."""
        words = ["sh", "-c", script, "sh", *arguments]
        return quoted(*(["sudo", "-n", "--"] if self.board.sudo else []), *words)

    async def run(
        self,
        script: str,
        *arguments: str,
        stdin: str = "",
        timeout_s: float | None = None,
        doing: str = "working",
        tied: bool = False,
    ) -> Ran:
        """Run a script to its end.

        Args:
            tied: it ends, with all that it began, when this connection does: when somebody presses Ctrl-C here, or
                the line breaks. It has no stdin. Without this, sshd lets it go on where nobody sees it.

        Raises:
            UnreachableError: the connection broke. WaitExpired: it took too long; it is ended.
        """
        limit_s = timeout_s or max(self._timeout_s, SCRIPT_S)
        with _causes(self.board, limit_s, doing):
            async with asyncio.timeout(limit_s):
                if tied:
                    line = self.command(_TIED + script, *arguments)
                    async with self._connection.create_process(line, errors="replace") as process:
                        # Its stdin stays open for as long as this end is there.
                        done = await process.wait()
                else:
                    done = await self._connection.run(self.command(script, *arguments), input=stdin, errors="replace")
            if done.exit_status is None:
                raise asyncssh.ConnectionLost("the connection broke")
            return Ran(done.exit_status, _text(done.stdout), _text(done.stderr))

    async def must(
        self,
        script: str,
        *arguments: str,
        stdin: str = "",
        timeout_s: float | None = None,
        doing: str = "working",
        tied: bool = False,
    ) -> str:
        """What a script wrote to stdout.

        Raises:
            CheckFailed: it left with another code than 0; with its last line. And as `run`.
        """
        done = await self.run(script, *arguments, stdin=stdin, timeout_s=timeout_s, doing=doing, tied=tied)
        if done.code:
            what = f"{doing} ended with {done.code}: {done.last_words}"
            raise CheckFailed(what, where=self.board.name, fix="correct it on the board, and run the command again")
        return done.out

    async def follow(self, script: str, *arguments: str, on_line: Callable[[str], None]) -> int:
        """Run a script and hand on each line that it writes, for as long as it goes on; its exit code."""
        with _causes(self.board, self._timeout_s, "following"):
            async with self._connection.create_process(
                self.command(script, *arguments), stdin=asyncssh.DEVNULL, stderr=asyncssh.STDOUT, errors="replace"
            ) as process:
                async for line in process.stdout:
                    on_line(line.rstrip("\n"))
                done = await process.wait()
            return done.exit_status if done.exit_status is not None else 255

    async def put(
        self, source: Path, target: str, *, mode: str = "644", on_part: Callable[[int, int], None] = lambda a, b: None
    ) -> bool:
        """Bring a file to the board: whole or not at all, from where an earlier attempt was cut. Whether it had to.

        Raises:
            IntegrityError: what arrived is not what was sent, twice. And as `run`.
        """
        size, digest = source.stat().st_size, digest_of(source)
        for _ in range(2):
            said = await self.must(_BEGIN_PUT, target, digest, doing=f"looking at {target}")
            if said.strip() == "same":
                return False
            there = int(said.split()[-1])
            if there < size:
                await self._append(source, f"{target}.{digest[:16]}.part", there, size, on_part)
            done = await self.run(_END_PUT, target, digest, mode, doing=f"checking {target}")
            if not done.code:
                on_part(size, size)
                return True
        raise IntegrityError(f"{target} did not arrive as it was sent", where=self.board.name, fix="check its disk")

    async def _append(
        self, source: Path, part: str, there: int, size: int, on_part: Callable[[int, int], None]
    ) -> None:
        with _causes(self.board, self._timeout_s, f"sending {source.name}"), source.open("rb") as file:
            file.seek(there)
            async with self._connection.create_process(
                self.command('cat >> "$1"', part), encoding=None, stdout=asyncssh.DEVNULL
            ) as process:
                # What writes there may end before all is sent, as it does on a full disk: then it says why.
                with suppress(asyncssh.ChannelOpenError, BrokenPipeError):
                    while (piece := file.read(_PIECE)) and not process.is_closing():
                        process.stdin.write(piece)
                        async with asyncio.timeout(self._timeout_s):
                            await process.stdin.drain()
                        there += len(piece)
                        on_part(there, size)
                    process.stdin.write_eof()
                async with asyncio.timeout(self._timeout_s):
                    done = await process.wait()
            if done.exit_status is None:
                raise asyncssh.ConnectionLost("the connection broke")
            if done.exit_status:
                said = Ran(done.exit_status, "", _text(done.stderr)).last_words
                raise CheckFailed(
                    f"sending {source.name} ended: {said}", where=self.board.name,
                    fix="correct it on the board, and run the command again: it goes on from here",
                )  # fmt: skip

    async def write(self, text: str, target: str, *, mode: str = "644") -> None:
        """Put a small text file there, whole or not at all."""
        await self.must(_WRITE, target, mode, stdin=text, doing=f"writing {target}")

    async def get(self, source: str, size: int, digest: str, target: Path) -> bool:
        """Fetch the first ``size`` bytes of a file, whose SHA-256 is known, from where an earlier attempt was cut.
        Whether it had to. A file that grows meanwhile, as a log does, is fetched as it was.

        Raises:
            IntegrityError: what arrived is not that. And as `run`.
        """
        if target.exists() and digest_of(target) == digest:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{digest[:16]}.part")
        there = part.stat().st_size if part.exists() else 0
        with _causes(self.board, self._timeout_s, f"fetching {source}"), part.open("ab") as file:
            script = 'tail -c "+$2" < "$1" | head -c "$3"'
            words = (source, str(there + 1), str(max(0, size - there)))
            async with self._connection.create_process(
                self.command(script, *words), encoding=None, stdin=asyncssh.DEVNULL
            ) as process:
                while True:
                    async with asyncio.timeout(self._timeout_s):
                        piece = await process.stdout.read(_PIECE)
                    if not piece:
                        break
                    file.write(piece)
                done = await process.wait()
            if done.exit_status is None:
                raise asyncssh.ConnectionLost("the connection broke")
        if digest_of(part) != digest:
            part.unlink()
            raise IntegrityError(f"{source} did not arrive as it is there", where=self.board.name, fix="collect again")
        os.replace(part, target)
        return True


def _text(value: object) -> str:
    return value if isinstance(value, str) else bytes(value).decode(errors="replace") if value else ""  # type: ignore[call-overload]


# Before a script: whoever closes its stdin ends it, and all that it began.
_TIED = """
exec 3<&0 < /dev/null
(trap - EXIT; cat <&3; kill -TERM 0) > /dev/null 2>&1 &
watch=$!
exec 3<&-
trap 'kill $watch 2> /dev/null' EXIT
"""
# $1 target, $2 digest: "same", or how many bytes of it are there.
_BEGIN_PUT = """
set -e
mkdir -p "$(dirname "$1")"
if [ -f "$1" ] && [ "$(sha256sum < "$1" | cut -d' ' -f1)" = "$2" ]; then echo same; exit 0; fi
part="$1.$(printf %.16s "$2").part"
[ -f "$part" ] || : > "$part"
wc -c < "$part"
"""
# $1 target, $2 digest, $3 mode: the part becomes the file, if it is what was sent.
_END_PUT = """
part="$1.$(printf %.16s "$2").part"
if [ "$(sha256sum < "$part" | cut -d' ' -f1)" != "$2" ]; then rm -f "$part"; exit 9; fi
chmod "$3" "$part" && sync "$part" 2>/dev/null; mv -f "$part" "$1"
"""
_WRITE = """
set -e
mkdir -p "$(dirname "$1")"
umask 077
cat > "$1.$$.new"
chmod "$2" "$1.$$.new"
mv -f "$1.$$.new" "$1"
"""


@asynccontextmanager
async def connect(
    board: Board, keys: HostKeys, *, key_file: str | None, timeout_s: float = CONNECT_S
) -> AsyncIterator[Session]:
    """A connection to a board whose host key is the one that is written down.

    Raises:
        RefusedError: no key is written down for it, or it does not let the user in.
        IntegrityError: it has another one. UnreachableError, WaitExpired: it does not answer, or hangs.
    """
    if not keys.of(board):
        fix = "look at it and keep it with: coordinator testbed trust, or give --learn-host-keys"
        raise RefusedError(f"its host key is not in {keys.path.name}", where=board.host, fix=fix)
    options: dict[str, object] = {}
    if board.user:
        options["username"] = board.user
    if key_file:
        options["client_keys"] = [key_file]
    with _causes(board, timeout_s, "connecting"):
        async with asyncio.timeout(timeout_s):
            connection = await asyncssh.connect(
                board.host, board.port, known_hosts=keys.known, keepalive_interval=_KEEPALIVE_S,
                keepalive_count_max=_KEEPALIVES, connect_timeout=timeout_s, login_timeout=timeout_s,
                password_auth=False, kbdint_auth=False, **options,
            )  # fmt: skip
    try:
        yield Session(board, connection, max(timeout_s, CONNECT_S))
    except BaseException:
        connection.abort()
        raise
    else:
        connection.close()
    finally:
        with _causes(board, timeout_s, "leaving"):
            try:
                async with asyncio.timeout(5):
                    await connection.wait_closed()
            except TimeoutError:
                connection.abort()
