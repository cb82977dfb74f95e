"""Wheels for a board: what the base install needs, once; and the tree, as it is or with a defect."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hw_tests.boards.board import NoBoard
from hw_tests.boards.root_folder import cache

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("protos", "edge_runtime", "coordinator", "firmware_tools")
_PYTHON = "3.11"
# Wheels that glibc 2.36 of Debian 12 can load.
_GLIBC = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_17")


def pip(*words: str, timeout_s: float = 900.0) -> None:
    """``pip`` of the environment that runs the tests.

    Raises:
        NoBoard: it failed; without an index there are no wheels.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check", "--no-input"],
        capture_output=True, text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason is told"]
        raise NoBoard(f"pip {words[0]}: {said[-1]}")


def platforms(machine: str) -> list[str]:
    """Words for pip that name the platforms of a Debian 12 board, such as ``aarch64``."""
    names = [*(f"manylinux_{text}_{machine}" for text in _GLIBC), f"manylinux2014_{machine}"]
    return [word for name in names for word in ("--platform", name)]


Defects = Mapping[str, tuple[str, str]]
"""For a file, a text that stands in it once, and what stands there instead."""


def with_defect(text: str, path: str, old: str, new: str) -> str:
    """The text of a file with a defect, which compiles: else it would be found by the first self check, and not by what
    it is for."""
    assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
    changed = text.replace(old, new)
    if path.endswith(".py"):
        ast.parse(changed, path)
    return changed


def copy_tree(folder: Path) -> Path:
    """What a wheel is built from, as it is now, in a folder of its own."""
    folder.mkdir(parents=True)
    for text in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / text, folder)
    for package in _PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def tree_wheel(folder: Path, source: Path, *, version: str | None = None, defects: Defects | None = None) -> Path:
    """The wheel of a tree.

    Args:
        folder: gets the wheel.
        source: from :func:`copy_tree`; it is not changed.
        version: instead of the one in pyproject.toml.
        defects: of this wheel.
    """
    with tempfile.TemporaryDirectory(prefix="edgejoule-tree-") as name:
        # setuptools writes where the sources are.
        copy = shutil.copytree(source, Path(name) / "tree")
        changes = dict(defects or {})
        if version is not None:
            line = next(
                text for text in (copy / "pyproject.toml").read_text().splitlines() if text.startswith("version")
            )
            changes["pyproject.toml"] = (line, f'version = "{version}"')
        for path, (old, new) in changes.items():
            (copy / path).write_text(with_defect((copy / path).read_text(), path, old, new))
        made = Path(name) / "made"
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(copy))
        (wheel,) = made.glob("edgejoule-*.whl")
        target = folder / wheel.name
        shutil.copy(wheel, target)
        return target


def needed_wheels(machine: str) -> Path:
    """A folder with every wheel that the base install needs on such a machine, without edgejoule itself.

    Raises:
        NoBoard: they cannot be fetched.
    """
    text = (ROOT / "pyproject.toml").read_text()
    needs = text.partition("dependencies = [")[2].partition("]")[0]
    key = hashlib.sha256(f"{needs}{machine}{_PYTHON}{_GLIBC}".encode()).hexdigest()[:16]
    folder = cache() / f"wheels-{machine}-{key}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            wheel = tree_wheel(part, copy_tree(part / "tree"))
            pip("download", "--only-binary=:all:", "--python-version", _PYTHON, "--implementation", "cp",
                *platforms(machine), "--dest", str(part), str(wheel))  # fmt: skip
            wheel.unlink()
            shutil.rmtree(part / "tree")
            part.rename(folder)
    return folder
