"""ARM programs on this machine: a Debian 12 root, qemu-user, and one command that stands for the board's Python.

Rules kept here:

* qemu-user is that of bookworm-backports: Debian 12's own 7.2 crashes ai-edge-litert in the interpreter's constructor.
* The command is a shell script that calls qemu with itself as argument zero. So ``sys.executable`` in the emulated
  process is that script, and what the daemon starts (a model's trial, the doctor's rehearsal) is emulated too, on any
  kernel and without binfmt_misc.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import arm_cache
import arm_wheels
from arm_debian import Archive, Unavailable, run, unpack

CPU = "cortex-a53"
# zlib1g comes with Python; libstdc++ and libgcc are what compiled wheels want.
_PYTHON = ["python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgcc-s1", "netbase"]
# PyPI has no numpy for armv7, Debian has 1.24. Its BLAS is found by links that only installing would make.
_ARMV7_CPU, _ARMV7_PACKAGES = "cortex-a7", [*_PYTHON, "python3-numpy"]
_ARMV7_LIBRARIES = ("usr/lib/arm-linux-gnueabihf/blas", "usr/lib/arm-linux-gnueabihf/lapack")


@dataclass(frozen=True)
class Userland:
    """An emulated Python with a device's packages.

    Attributes:
        python: takes the arguments of ``python3.11``.
        root: of Debian.
        site: folders of ``PYTHONPATH``.
        qemu: version of the emulator.
    """

    python: Path
    root: Path
    site: tuple[Path, ...]
    qemu: str

    @property
    def program(self) -> Path:
        """The script ``edge-runtime`` that pip made; start it with :attr:`python`."""
        return self.site[0] / "bin" / "edge-runtime"

    def environ(self) -> dict[str, str]:
        """What emulated programs run with: nothing of this shell's settings."""
        given = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEJOULE_", "PYTHON"))}
        # No bytecode below the cache: two runs may share it.
        return {**given, "PYTHONPATH": ":".join(map(str, self.site)), "PYTHONDONTWRITEBYTECODE": "1"}


def _root(architecture: str, packages: list[str], *, security: bool) -> Path:
    """A Debian 12 of that architecture with Python, unpacked only."""

    def make(place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            unpack(Archive(Path(folder), architecture, security=security).fetch(packages), place)

    return arm_cache.kept(f"root-{architecture}", packages, make)


def _qemu(name: str) -> Path:
    """The emulator, 10.0 or later.

    Raises:
        Unavailable: this is not an x86-64 machine; and see :mod:`arm_debian`.
    """
    if os.uname().machine != "x86_64":
        raise Unavailable("is set up for x86-64 machines; on a board, run the tests themselves")

    def make(place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            package = Archive(Path(folder), "amd64", backports=True).fetch_alone("qemu-user")
            unpack([package], Path(folder) / "files")
            shutil.copy2(Path(folder) / "files/usr/bin" / name, place)

    return arm_cache.kept(name, ["bookworm-backports", "amd64"], make) / name


def userland(scratch: Path) -> Userland:
    """The aarch64 Python, its command in ``scratch``.

    Raises:
        Unavailable: a part cannot be had; the text says which and why.
    """
    site = (arm_wheels.our_own(), arm_wheels.dependencies())
    place = _root("arm64", _PYTHON, security=True)
    return _assembled(scratch / "python3.11-aarch64", _qemu("qemu-aarch64"), ["-cpu", CPU], place, site)


def armv7_userland(scratch: Path) -> Userland:
    """The same for armv7, with tflite-runtime, and numpy from Debian.

    Raises:
        Unavailable: as :func:`userland`.
    """
    place = _root("armhf", _ARMV7_PACKAGES, security=False)
    site = (arm_wheels.our_own(), arm_wheels.armv7_dependencies(), place / "usr/lib/python3/dist-packages")
    libraries = ":".join(str(place / armv7_library) for armv7_library in _ARMV7_LIBRARIES)
    options = ["-cpu", _ARMV7_CPU, "-E", f"LD_LIBRARY_PATH={libraries}"]
    return _assembled(scratch / "python3.11-armv7", _qemu("qemu-arm"), options, place, site)


def _assembled(script: Path, emulator: Path, options: list[str], place: Path, site: tuple[Path, ...]) -> Userland:
    python = place / "usr/bin/python3.11"
    script.write_text(
        f'#!/bin/sh\nPYTHONHOME={place}/usr exec {emulator} {" ".join(options)} -L {place} -0 {script} {python} "$@"\n'
    )
    script.chmod(0o755)
    version = run([emulator, "--version"], doing="asking qemu").split()[2]
    return Userland(script, place, site, version)
