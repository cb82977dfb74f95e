"""A PostgreSQL server that lives as long as the process that asked for it, however that ends.

Run as a program it makes a server, says its port, and keeps it until its stdin is closed, which the kernel does for
whoever was killed; each line before that starts the server anew, in the mode that it names. It is in a session of its
own, so that what ends a group of processes does not end it first.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from free_ports import free_port


def binaries() -> Path | None:
    """The folder of the newest server that is installed, as Debian has them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


def missing() -> str | None:
    """Why there can be no server here."""
    if binaries() is None:
        return "needs PostgreSQL: apt install postgresql"
    if os.getuid() == 0 and shutil.which("runuser") is None:
        return "needs runuser: PostgreSQL does not run as root"
    return None


@contextmanager
def throwaway_postgres() -> Iterator[str]:
    """The URL of an empty server on loopback, without its driver."""
    with restartable_postgres() as (url, _):
        yield url


@contextmanager
def restartable_postgres() -> Iterator[tuple[str, Callable[[str], None]]]:
    """The same, with a function that starts it anew: "fast", which ends its connections, or "immediate", which is a
    crash. It returns when the server answers again."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline().strip()
        assert said.isdigit(), f"no PostgreSQL: {said}"

        def restart(mode: str) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{mode}\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == said

        yield f"postgresql://edgejoule@127.0.0.1:{said}/postgres", restart
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def main() -> int:
    """Make a server, say where it is, and end it when nobody wants it any more."""
    # Whoever asks for an end gets it in order.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    programs = binaries()
    assert programs is not None
    owner, user = pwd.getpwuid(os.getuid()).pw_name, []
    if os.getuid() == 0:
        owner = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
        user = ["runuser", "-u", owner, "--"]
    port = free_port()
    # Sockets have short paths, and the folder must be open to the other user.
    folder = Path(tempfile.mkdtemp(prefix="ejpg-", dir="/tmp"))
    data = str(folder / "data")

    def run(*command: str) -> None:
        done = subprocess.run(
            [*user, *command], stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/", text=True
        )
        if done.returncode:
            raise RuntimeError((done.stderr + done.stdout).strip().replace("\n", " "))

    try:
        shutil.chown(folder, owner)
        run(f"{programs}/initdb", "-D", data, "-U", "edgejoule", "-A", "trust", "-E", "UTF8", "--no-locale")
        options = f"-h 127.0.0.1 -p {port} -k {folder}"
        run(f"{programs}/pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        print(port, flush=True)
        while mode := sys.stdin.readline():
            run(f"{programs}/pg_ctl", "-D", data, "-l", str(folder / "log"), "-m", mode.strip(), "-w", "restart")
            print(port, flush=True)
    except RuntimeError as error:
        print(error, flush=True)
        return 1
    finally:
        with contextlib.suppress(RuntimeError):
            run(f"{programs}/pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
