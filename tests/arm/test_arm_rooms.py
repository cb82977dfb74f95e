"""What the emulated boards are made with and judged by, tried without any of them."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

import arm_cache
import arm_dpkg
import numpy as np
import pytest
from arm_debian import Unavailable
from arm_figures import Figures
from arm_kernel import Newc
from arm_round import compare
from arm_wheels import base_requirements


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEJOULE_ARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEJOULE_ARM_FETCH", "1")
    return tmp_path / "cache"


def test_what_was_made_is_found_again_and_another_recipe_makes_another(cache: Path) -> None:
    calls: list[Path] = []

    def make(place: Path) -> None:
        calls.append(place)
        (place / "file").write_text("made")

    first = arm_cache.kept("thing", [1], make)
    assert arm_cache.kept("thing", [1], make) == first
    assert (first / "file").read_text() == "made"
    assert len(calls) == 1
    assert arm_cache.kept("thing", [2], make) != first
    assert len(calls) == 2


def test_what_was_not_finished_does_not_count(cache: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").touch()
        raise Unavailable("no network")

    with pytest.raises(Unavailable, match="no network"):
        arm_cache.kept("thing", [1], fail)
    again = arm_cache.kept("thing", [1], lambda place: (place / "whole").touch())
    assert [path.name for path in again.iterdir()] == ["whole"]


def test_nothing_is_fetched_unless_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEJOULE_ARM_FETCH")
    with pytest.raises(Unavailable, match="make arm-user"):
        arm_cache.kept("thing", [1], lambda place: None)
    assert not cache.exists()
    assert arm_cache.kept("ours", [1], lambda place: None, fetches=False).is_dir()


def test_heads_are_compared_in_representable_numbers() -> None:
    one = {"a": np.array([1.0, -1.0, 0.0], np.float32), "b": np.array([[2.0]], np.float32)}
    assert compare(one, one).as_row() == "bit-equal (4 numbers)"
    next_up = {"a": np.nextafter(one["a"], np.float32(9), dtype=np.float32), "b": one["b"]}
    close = compare(one, next_up)
    assert (close.numbers, close.unequal, close.largest_ulp) == (4, 3, 1)
    tiny = np.float32(1e-45)
    across = compare({"a": np.array([tiny])}, {"a": np.array([-tiny])})
    assert (across.unequal, across.largest_ulp) == (1, 2)


def test_a_figure_past_its_limit_fails_and_is_kept(tmp_path: Path) -> None:
    figures = Figures()
    figures.note("board", "fine", 1, limit="2", ok=np.bool_(True))
    with pytest.raises(AssertionError, match=r"board, large: 3 MB, limit 2 MB"):
        figures.note("board", "large", "3 MB", limit="2 MB", ok=False)
    assert figures.lines()[-1].endswith("FAIL")
    figures.write(tmp_path / "figures.json", skipped=["why"])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert [row["ok"] for row in found["figures"]] == [True, False]
    assert found["skipped"] == ["why"]


def test_the_base_dependencies_are_those_of_the_machine() -> None:
    names = {base_requirement.split(">")[0].split("<")[0] for base_requirement in base_requirements("aarch64")}
    assert names == {"numpy", "grpcio", "protobuf", "pyserial", "cryptography", "ai-edge-litert"}
    assert not any(base_requirement.startswith("ai-edge-litert") for base_requirement in base_requirements("armv7l"))


def test_an_initrd_is_a_cpio_archive() -> None:
    archive = Newc()
    archive.add("bin", stat.S_IFDIR | 0o755)
    archive.add("bin/x", stat.S_IFREG | 0o755, b"12345")
    data, found, at = archive.finish(), [], 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = at + 110 + name_size + -(110 + name_size) % 4
        found.append((name, fields[1], data[start : start + size]))
        at = start + size + -size % 4
    assert found == [
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("bin/x", stat.S_IFREG | 0o755, b"12345"),
        ("TRAILER!!!", 0, b""),
    ]


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg: a Debian or Ubuntu")
def test_dpkg_finds_unpacked_packages_installed(tmp_path: Path) -> None:
    made = []
    for name, more in (("plain", ""), ("lib", "Multi-Arch: same\n")):
        tree = tmp_path / name
        (tree / "usr/share").mkdir(parents=True)
        (tree / f"usr/share/{name} file").write_text("x")
        (tree / f"usr/share/{name}-link").symlink_to("elsewhere")
        (tree / "DEBIAN").mkdir()
        control = (
            f"Package: {name}\nVersion: 1.2\nArchitecture: arm64\n{more}Maintainer: x <x@y>\nDescription: a\n b: c\n"
        )
        (tree / "DEBIAN/control").write_text(control)
        made.append(tmp_path / f"{name}.deb")
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, made[-1]], check=True, capture_output=True)
    root = tmp_path / "root"
    arm_dpkg.record(made, root)

    def asked(*words: str) -> list[str]:
        command = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    assert asked("-W", "-f", "${Package} ${Version} ${Status}\n") == [
        "lib 1.2 install ok installed",
        "plain 1.2 install ok installed",
    ]
    for name in ("plain", "lib:arm64"):
        short = name.partition(":")[0]
        here = ["/.", "/usr", "/usr/share", f"/usr/share/{short} file", f"/usr/share/{short}-link"]
        assert sorted(asked("-L", name)) == here
