"""What a board gets from pip: the base dependencies of ``pyproject.toml`` as aarch64 wheels, and our own wheel."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tomllib
from pathlib import Path

import arm_cache
from arm_debian import run
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# What Debian 12 with its glibc 2.36 takes, newest first; a Raspberry Pi with Raspberry Pi OS 12 is the same.
_GLIBC = ("manylinux_2_36", "manylinux_2_35", "manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_27")
_OLD = ("manylinux_2_24", "manylinux_2_17", "manylinux2014")
_PYTHON = "3.11"
_PACKAGES = ("protos", "edge_runtime", "coordinator", "firmware_tools")


def base_requirements(machine: str = "aarch64") -> list[str]:
    """The base dependencies that hold on such a machine, without their markers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = {"platform_machine": machine, "sys_platform": "linux", "python_version": _PYTHON}
    chosen = []
    for text in project["dependencies"]:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(environment):
            chosen.append(f"{one.name}{one.specifier}")
    return chosen


def dependencies(machine: str = "aarch64") -> Path:
    """A folder for ``PYTHONPATH`` with the base dependencies, all from wheels for that machine.

    Raises:
        Unavailable: no network, or there is no wheel.
    """
    wanted = base_requirements(machine)
    platforms = [f"{text}_{machine}" for text in (*_GLIBC, *_OLD)]

    def make(place: Path) -> None:
        tags = [part for platform in platforms for part in ("--platform", platform)]
        abis = [part for text in ("cp311", "abi3", "none") for part in ("--abi", text)]
        kind = ["--only-binary=:all:", "--implementation", "cp", "--python-version", _PYTHON, *tags, *abis]
        run([*_PIP, "install", "--target", place, *kind, *wanted], doing=f"fetching {machine} wheels")

    return arm_cache.kept(f"wheels-{machine}", [wanted, platforms, _PYTHON], make)


def armv7_dependencies() -> Path:
    """The same for armv7 without numpy, of which PyPI has no wheel there, and with the runtime of the extra.

    Raises:
        Unavailable: as :func:`dependencies`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = [Requirement(one) for one in project["optional-dependencies"]["tflite-runtime"]]
    wanted = [
        base_requirement for base_requirement in base_requirements("armv7l") if not base_requirement.startswith("numpy")
    ]
    wanted += [f"{one.name}{one.specifier}" for one in extra if one.name != "numpy"]
    # --no-deps keeps numpy out; this is all else that they need.
    wanted.append("typing-extensions")

    def make(place: Path) -> None:
        tags = [part for text in (*_GLIBC, *_OLD, "linux") for part in ("--platform", f"{text}_armv7l")]
        abis = [part for text in ("cp311", "abi3", "none") for part in ("--abi", text)]
        kind = ["--only-binary=:all:", "--implementation", "cp", "--python-version", _PYTHON, *tags, *abis]
        run([*_PIP, "install", "--no-deps", "--target", place, *kind, *wanted], doing="fetching armv7 wheels")

    return arm_cache.kept("wheels-armv7l", [wanted, _PYTHON], make)


def wheel_files(machine: str = "aarch64") -> Path:
    """A folder with the base dependencies as wheels, not unpacked.

    Raises:
        Unavailable: as :func:`dependencies`.
    """
    wanted = base_requirements(machine)
    platforms = [f"{text}_{machine}" for text in (*_GLIBC, *_OLD)]

    def make(place: Path) -> None:
        tags = [part for platform in platforms for part in ("--platform", platform)]
        kind = ["--only-binary=:all:", "--implementation", "cp", "--python-version", _PYTHON, *tags]
        run([*_PIP, "download", "--dest", place, *kind, *wanted], doing=f"fetching {machine} wheels")

    return arm_cache.kept(f"wheel-files-{machine}", [wanted, platforms, _PYTHON], make)


def digest_of(*others: str) -> str:
    """A hash of this checkout's packages, and of ``others``, files and folders of the checkout."""
    sources = [path for name in (*_PACKAGES, *others) for path in (ROOT / name, *(ROOT / name).rglob("*"))]
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", *sorted(path for path in sources if "__pycache__" not in path.parts)):
        if path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def our_own() -> Path:
    """A folder for ``PYTHONPATH`` with this checkout as a wheel leaves it, ``bin/edge-runtime`` included."""

    def make(place: Path) -> None:
        copy, wheels = place / ".source", place / ".wheels"
        ignored = shutil.ignore_patterns("__pycache__")
        for name in _PACKAGES:
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy / name)
        run([*_PIP, "wheel", "--no-deps", "--wheel-dir", wheels, copy], doing="building our wheel")
        (wheel,) = wheels.glob("edgejoule-*.whl")
        run([*_PIP, "install", "--no-deps", "--target", place, wheel], doing="unpacking our wheel")
        shutil.rmtree(copy)
        shutil.rmtree(wheels)

    forget_old("edgejoule-", keep=8)
    return arm_cache.kept("edgejoule", digest_of(), make, fetches=False)


def forget_old(start: str, *, keep: int) -> None:
    """Every change of the sources makes another folder; the oldest go."""
    found = sorted(arm_cache.folder().glob(f"{start}*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[keep:]:
        shutil.rmtree(path, ignore_errors=True)


_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
