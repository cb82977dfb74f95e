"""Compiles the host program of the machine on demand, into a cache.

The program links libsimavr (GPL-3), so only its source is shipped. The name of the binary has the hash of everything
it depends on: a changed source or library is compiled anew, and two builds at once do not hurt each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from protos.errors import EdgejouleError

__all__ = ["APT", "SOURCES", "build_host", "cache_folder", "missing"]

SOURCES = Path(__file__).parent / "host"
APT = "apt-get install gcc libc6-dev libsimavr-dev libelf-dev"
_HEADER = Path("/usr/include/simavr/sim_avr.h")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{_HEADER.parent}")
# The archive rather than the shared library: 15 % faster, and what was compiled is what runs.
_LIBRARIES = ("-l:libsimavr.a", "-lelf", "-lutil", "-lm")


def missing() -> str | None:
    """What this system lacks to build the machine; None when it lacks nothing that can be told beforehand."""
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    if not _HEADER.exists():
        return "libsimavr is not installed"
    return None


def cache_folder() -> Path:
    """``edgejoule`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgejoule"


def build_host(cache: Path | None = None) -> Path:
    """The compiled host program; built when the cache has none of these sources.

    Args:
        cache: folder for binaries; :func:`cache_folder` by default.

    Raises:
        EdgejouleError: no compiler, no library, or the compiler says no.
    """
    if what := missing():
        raise EdgejouleError(what, where="the simulated machine", fix=APT)
    folder = cache or cache_folder()
    sources = sorted(SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(repr((_FLAGS, _LIBRARIES, _version())).encode())
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    binary = folder / f"machine-{digest.hexdigest()[:16]}"
    if binary.exists():
        return binary
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        fresh = Path(temporary) / "machine"
        command = ["gcc", *_FLAGS, "-o", str(fresh), *(str(s) for s in sources if s.suffix == ".c"), *_LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
            raise EdgejouleError(f"gcc failed: {first}", where=str(SOURCES), fix=APT)
        fresh.replace(binary)
    return binary


def _version() -> tuple[str, int, int]:
    """What stands for compiler and library: the compiler's version, the header's size and age."""
    told = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    stat = _HEADER.stat()
    return told, stat.st_size, stat.st_mtime_ns
