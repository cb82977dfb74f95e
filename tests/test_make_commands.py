"""What the two commands install, in which versions, for which Python, and what they do to the machine."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lock_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "packaging" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = lock_program()


def locked(python: str) -> dict[str, str]:
    lines = (ROOT / "packaging" / "locked" / f"python{python}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def make(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words], cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True, check=False
    )


def program(folder: Path, name: str, text: str) -> Path:
    """A shell script in the place of a program."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_every_python_that_the_package_takes_has_locked_versions() -> None:
    told = [
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", classifier)
    ]
    assert tuple(told) == PYTHONS


@pytest.mark.parametrize("python", PYTHONS)
def test_locked_versions_lie_in_the_ranges_of_the_package_and_miss_none(python: str) -> None:
    versions = locked(python)
    held = [line for line in LOCK.HELD.read_text().splitlines() if line and not line.startswith("#")]
    here = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": "x86_64",
            "sys_platform": "linux", "extra": ""}  # fmt: skip
    for text in [*LOCK.wanted(PROJECT), *held]:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(here):
            assert one.specifier.contains(versions[canonicalize_name(one.name)]), text
    assert all(name == canonicalize_name(name) for name in versions)


def test_the_lock_program_reads_names_as_indexes_do() -> None:
    assert doctest.testmod(LOCK).failed == 0
    made = {"install": [{"metadata": {"name": "SQLAlchemy", "version": "2.1"}},
                        {"metadata": {"name": "edgejoule", "version": "0.1"}}]}  # fmt: skip
    assert LOCK.constraints(made, "3.12").splitlines()[1:] == ["sqlalchemy==2.1"]


@pytest.mark.parametrize(("target", "extra"), [("demo", "demo"), ("unit", "dev"), ("lint", "dev")])
def test_each_command_installs_its_extra_in_locked_versions(target: str, extra: str, tmp_path: Path) -> None:
    done = make("-n", target, f"PYTHON={sys.executable}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "--editable" in line]
    lock = f"packaging/locked/python{sys.version_info[0]}.{sys.version_info[1]}.txt"
    assert f"PIP_CONSTRAINT={lock} PIP_BUILD_CONSTRAINT={lock} " in line
    assert (ROOT / lock).exists()
    assert f".[{extra}]" in line


def test_the_newest_of_everything_goes_to_an_environment_of_its_own(tmp_path: Path) -> None:
    newest = tmp_path / "newest"
    done = make("-n", "test-newest", f"PYTHON={sys.executable}", f"NEWEST={newest}")
    assert done.returncode == 0, done.stderr
    (line,) = {line for line in done.stdout.splitlines() if "--editable" in line}
    assert line.startswith(f"PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager {newest}/bin/python")
    assert "PIP_CONSTRAINT" not in done.stdout


def test_a_python_that_is_too_old_is_named_at_once(tmp_path: Path) -> None:
    old = program(tmp_path, "python3.10", "echo 3.10")
    for target in ("demo", "test", "lock"):
        done = make("--silent", target, f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
        assert done.returncode == 2
        first, *rest = done.stderr.splitlines()
        assert first.endswith("is Python 3.10, and edgejoule needs 3.11 to 3.13; name one: make PYTHON=python3.12")
        assert all(line.startswith("make: ***") for line in rest)
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_told_at_once(tmp_path: Path) -> None:
    done = make("--silent", "demo", "PYTHON=python-of-nobody", f"VENV={tmp_path / 'venv'}")
    assert (done.returncode, done.stderr.splitlines()[0][:33]) == (2, "make: there is no python-of-nobod")


@pytest.mark.parametrize(
    ("user", "variables", "installs", "says"),
    [
        ("1000", {}, "", "APT=1 make packages"),  # a sudo without a password is no yes
        ("1000", {"APT": "1"}, "sudo -n apt-get update -qq", ""),
        ("0", {"container": "podman"}, "apt-get update -qq", ""),
        ("0", {"container": "podman", "APT": "0"}, "", "APT=1 make packages"),
        ("0", {"APT": "1"}, "apt-get update -qq", ""),
    ],
)
def test_packages_of_the_machine_are_installed_in_a_container_or_with_a_yes(
    user: str, variables: dict[str, str], installs: str, says: str, tmp_path: Path
) -> None:
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    log = tmp_path / "log"
    program(tmp_path, "dpkg-query", "exit 1")
    program(tmp_path, "id", f"echo {user}")
    program(tmp_path, "apt-get", f'echo apt-get "$@" >> {log}')
    program(tmp_path, "sudo", f'[ "$2" = true ] || echo sudo "$@" >> {log}')
    done = subprocess.run(
        ["sh", ROOT / "tests" / "checks" / "install_packages.sh", "tests", "postgresql"],
        env={"PATH": str(tmp_path), **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    ran = log.read_text().splitlines() if log.exists() else []
    assert ran[:1] == ([installs] if installs else [])
    assert says in done.stderr
    assert bool(says) == ("tests will skip without: postgresql" in done.stderr)


def test_continuous_integration_says_yes_to_packages() -> None:
    assert 'export APT="${APT:-1}"' in (ROOT / ".ci" / "run").read_text()
