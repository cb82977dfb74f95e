"""Hosts for the tests of the testbed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ssh_hosts import SshHost, inventory_text, ssh_hosts, why_not

import coordinator.cli


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[SshHost], Path]]:
    """Sixteen real SSH servers."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with ssh_hosts(tmp_path_factory.mktemp("hosts"), 16) as made:
        yield made


@pytest.fixture
def lab(tmp_path: Path, many: tuple[list[SshHost], Path]) -> Any:
    """`lab(count, **more)`: an inventory of so many of them, in a fresh folder; trusted unless told otherwise."""
    hosts, key = many

    def make(count: int, *, trusted: bool = True, **more: Any) -> Path:
        path = tmp_path / "lab.toml"
        path.write_text(inventory_text(hosts[:count], key, **more))
        if trusted:
            keys = [
                f"[{host.address}]:{host.port} {_public(host)}" for host in hosts[:count]
            ]  # fmt: skip
            (tmp_path / "known_hosts").write_text("\n".join(keys) + "\n")
        return path

    return make


def _public(host: SshHost) -> str:
    import asyncssh

    return asyncssh.read_private_key(host.folder / "host_key").export_public_key().decode().strip()


@pytest.fixture
def testbed(capsys: pytest.CaptureFixture[str]) -> Any:
    """`testbed("check", ...)`: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        code = coordinator.cli.main(["testbed", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this very tree."""
    root = Path(__file__).resolve().parents[3]
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    copy = folder / "tree"
    copy.mkdir()
    for name in ("protos", "edge_runtime", "coordinator", "firmware_tools", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).symlink_to(root / name)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=copy, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr.strip().splitlines()[-1]}")
    return next(folder.glob("*.whl"))
