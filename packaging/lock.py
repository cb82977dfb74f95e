"""Locks the newest versions of everything that `make demo` and `make test` install, for the Python that runs this.

    make lock PYTHON=python3.12

One file a Python, ``packaging/locked/python3.12.txt``, in pip's format of constraints. pip itself chooses the versions,
in a dry run that installs nothing, from the ranges of ``pyproject.toml`` and of ``packaging/locked/held.txt``. What is
locked is what was tested, on x86-64 Linux; the package's own ranges stay wide. Hashes are left out: pip wants one of
everything as soon as it has one of anything, and a clone installed in place has none; besides, which files there
are for a version differs between machines.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "packaging" / "locked"
HELD = FOLDER / "held.txt"
_PROJECT = "edgejoule"


def path_of(version: tuple[int, int]) -> Path:
    """The file of a Python's locked versions."""
    return FOLDER / f"python{version[0]}.{version[1]}.txt"


def normal(name: str) -> str:
    """A package's name as indexes compare it.

    >>> normal("SQLAlchemy"), normal("ml_dtypes")
    ('sqlalchemy', 'ml-dtypes')
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(project: Mapping[str, Any]) -> list[str]:
    """Requirements of the extra ``dev`` with all the extras that it draws in, and of the build, without the project."""
    extras: Mapping[str, list[str]] = project["project"]["optional-dependencies"]
    found, waiting, seen = set(project["project"]["dependencies"]), ["dev", "demo"], set[str]()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for one in extras[extra]:
            own = re.fullmatch(rf"{_PROJECT}\[([\w, -]+)\]", one)
            if own:
                waiting += [name.strip() for name in own[1].split(",")]
            else:
                found.add(one)
    return sorted(found | set(project["build-system"]["requires"]))


def constraints(report: Mapping[str, Any], python: str) -> str:
    """The text of a file of constraints, from pip's report of an installation."""
    pairs = {normal(one["metadata"]["name"]): one["metadata"]["version"] for one in report["install"]}
    pairs.pop(_PROJECT, None)
    head = f"# Tested versions for Python {python}. Made by: make lock PYTHON=python{python}\n"
    return head + "".join(f"{name}=={version}\n" for name, version in sorted(pairs.items()))


def main() -> int:
    """Resolve and write; the exit code of pip when it finds no versions that go together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), "--constraint", str(HELD), *wanted(project)]
        done = subprocess.run(command, check=False)
        if done.returncode:
            print("lock: pip found no versions that go together; see above", file=sys.stderr)
            return done.returncode
        version = (sys.version_info[0], sys.version_info[1])
        text = constraints(json.loads(report.read_text()), f"{version[0]}.{version[1]}")
    path_of(version).write_text(text)
    print(path_of(version).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
