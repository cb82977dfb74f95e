"""Boards made ready over real SSH: whole, again, cut in the middle, and what they wrote taken home."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ssh_hosts import Cutting, SshHost, ssh_hosts, why_not
from warm_coordinator import state_of

from coordinator.testbed import inventory
from coordinator.testbed.collecting import SUMS, wrong_files
from coordinator.testbed.host_keys import HostKeys
from coordinator.testbed.ssh import connect
from protos.errors import CheckFailed

pytestmark = [pytest.mark.processes, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]
# What else the program needs, these hosts have already.
NO_INDEX = ("--pip=--no-deps", "--pip=--no-index")


def with_shards(path: Path, folder: Path, names: list[str], size: int = 2000) -> None:
    """Give each board a shard of its own."""
    rng = np.random.default_rng(5)
    text = path.read_text()
    for name in names:
        (folder / f"{name}.npz").write_bytes(rng.bytes(size))
        text = text.replace(f"[board.{name}]\n", f'[board.{name}]\nshard = "{name}.npz"\n')
    path.write_text(text.replace("[defaults]", "[defaults]\nsettings = { wait_for_coordinator_s = 600.0 }"))


def did(out: str, board: str) -> list[str]:
    """What was done on a board, of a deploy's JSON."""
    shown = json.loads(out)["boards"][board]
    assert shown["ok"], shown["error"]
    return list(shown["done"])


def test_a_board_is_deployed_once_upgraded_started_and_stopped(
    lab: Any, testbed: Any, tmp_path: Path, wheel: Path, many: tuple[list[SshHost], Path]
) -> None:
    host = many[0][15]
    path = lab(16)
    with_shards(path, tmp_path, [host.name])
    words = ("deploy", path, "--on", host.name, "--wheel", wheel, *NO_INDEX, "--json", "--timeout", "60s")
    code, out, err = testbed(*words, "--dry-run")
    wanted = [f"wheel {wheel.name}", "environment", f"data {host.name}.npz", "settings", "start"]
    assert (code, did(out, host.name)) == (0, wanted), err
    assert not host.board_folder.exists()
    code, out, err = testbed(*words)
    assert (code, did(out, host.name)) == (0, wanted), err
    try:
        # It is what it should be, and a second time there is nothing to do.
        code, out, _ = testbed(*words)
        assert did(out, host.name) == []
        code, out, _ = testbed("status", path, "--on", host.name, "--json")
        assert json.loads(out)["boards"][host.name]["daemon"] == "running"
        settings = (host.board_folder / "device.toml").read_text()
        assert f'device_id = "{host.name}"' in settings
        assert 'board = "pi4"' in settings
        # A setting that changes is brought by itself, and the daemon starts again.
        path.write_text(path.read_text().replace("wait_for_coordinator_s = 600.0", "wait_for_coordinator_s = 500.0"))
        before = (host.board_folder / "daemon.pid").read_text()
        code, out, _ = testbed("sync", path, "--on", host.name, "--json")
        assert did(out, host.name) == ["settings", "restart"]
        assert (host.board_folder / "daemon.pid").read_text() != before
        # Another installation stands beside the one before until it is whole.
        first = (host.board_folder / "current").readlink()
        code, out, _ = testbed(*words, "--pip=--no-cache-dir")
        assert did(out, host.name) == ["environment", "restart"]
        assert (host.board_folder / "current").readlink() != first
        assert (host.board_folder / first / ".ready").exists()
        code, out, _ = testbed("logs", path, "--on", host.name)
        assert (code, host.name in out) == (0, True)
    finally:
        code, out, _ = testbed("down", path, "--on", host.name, "--json")
    assert json.loads(out)["boards"][host.name]["daemon"] in ("ended", "killed")
    code, out, _ = testbed("status", path, "--on", host.name, "--json")
    assert json.loads(out)["boards"][host.name]["daemon"] == "stopped"


def test_an_installation_that_was_cut_is_made_anew(
    lab: Any, testbed: Any, tmp_path: Path, wheel: Path, many: tuple[list[SshHost], Path]
) -> None:
    host = many[0][14]
    path = lab(16)
    words = ("deploy", path, "--on", host.name, "--wheel", wheel, *NO_INDEX, "--json", "--timeout", "60s", "--no-start")
    # A python that dies half way through, as a board does whose power goes.
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\nmkdir -p "$3/bin"; echo half > "$3/bin/edge-runtime"; kill -9 $PPID; sleep 1\n')
    broken.chmod(0o755)
    good = path.read_text()
    bad = [f'python = "{broken}"' if line.startswith("python =") else line for line in good.split("\n")]
    path.write_text("\n".join(bad))
    code, out, _ = testbed(*words)
    assert code in (3, 5)
    assert not (host.board_folder / "current").exists()
    path.write_text(good)
    code, out, err = testbed(*words)
    assert did(out, host.name) == ["environment", "settings"], err
    # The wheel had arrived before.
    assert f"wheel {wheel.name}" in json.loads(out)["boards"][host.name]["left"]


def test_an_installation_ends_with_the_one_who_began_it_and_the_next_need_not_wait_for_it(
    lab: Any, testbed: Any, tmp_path: Path, wheel: Path, many: tuple[list[SshHost], Path]
) -> None:
    host = many[0][13]
    path = lab(16)
    # A python that installs for ever, and says who it is.
    begun = tmp_path / "begun"
    endless = tmp_path / "python"
    endless.write_text(f"#!/bin/sh\necho $$ > {begun}.new; mv {begun}.new {begun}; sleep 1000 & wait\n")
    endless.chmod(0o755)
    good = path.read_text()
    path.write_text(re.sub(r"(?m)^python = .*$", f'python = "{endless}"', good))
    words = ["deploy", str(path), "--on", host.name, "--wheel", str(wheel), *NO_INDEX, "--no-start"]
    _cut_by_ctrl_c(words, begun)
    path.write_text(good)
    code, out, err = testbed(*words, "--json", "--timeout", "60s")
    assert (code, did(out, host.name)[:1]) == (0, ["environment"]), err


def test_a_command_on_boards_ends_with_ctrl_c_here(lab: Any, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    _cut_by_ctrl_c(
        ["run", str(lab(1)), "--", f"echo $$ > {begun}.new; mv {begun}.new {begun}; sleep 1000 & wait"], begun
    )


def _cut_by_ctrl_c(words: list[str], begun: Path) -> None:
    """Press Ctrl-C once a process on the board has written its number, and wait until that process is gone."""
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli", "testbed", *words],
        env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _until(begun.exists)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    _until(lambda: state_of(int(begun.read_text())) in ("", "Z", "X"))


def _until(is_so: Callable[[], bool], limit_s: float = 120.0) -> None:
    end_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_as_one_and_not_as_silence(lab: Any, tmp_path: Path) -> None:
    path = lab(1)
    shard = tmp_path / "shard.npz"
    shard.write_bytes(bytes(3_000_000))
    (board,) = inventory.read(path).boards

    async def send() -> None:
        async with connect(board, HostKeys(tmp_path / "known_hosts"), key_file=board.key) as session:
            await session._append(shard, "/dev/full", 0, 3_000_000, lambda there, size: None)

    with pytest.raises(CheckFailed, match="No space left on device"):
        asyncio.run(send())


def test_a_shard_that_was_cut_goes_on_where_it_was(testbed: Any, tmp_path: Path) -> None:
    from ssh_hosts import inventory_text

    # SSH lets 2 MB be on their way; what was sent before them has arrived.
    size = 9_000_000
    with ssh_hosts(tmp_path, 1) as ((host,), key), Cutting(host, after_bytes=6_000_000) as cut:
        near = SshHost(host.name, host.folder, "127.0.0.1", cut.port)
        path = tmp_path / "lab.toml"
        path.write_text(inventory_text([near], key))
        with_shards(path, tmp_path, [host.name], size)
        assert testbed("trust", path, "--yes")[0] == 0
        code, out, _ = testbed("sync", path, "--json")
        error = json.loads(out)["boards"][host.name]["error"]
        assert (code, cut.has_cut) == (5, True), error
        assert "it goes on from here" in error
        (part,) = (host.board_folder / "data").glob("*.part")
        there = part.stat().st_size
        assert 0 < there < size
        assert not (host.board_folder / "data" / f"{host.name}.npz").exists()
        before = part.stat().st_ino
        code, out, _ = testbed("sync", path, "--json")
        assert did(out, host.name) == [f"data {host.name}.npz", "settings"]
        arrived = host.board_folder / "data" / f"{host.name}.npz"
        assert arrived.read_bytes() == (tmp_path / f"{host.name}.npz").read_bytes()
        # The very file that was begun: it was not sent anew.
        assert arrived.stat().st_ino == before
        # A part that was damaged meanwhile is found out, and sent anew.
        arrived.rename(part)
        with part.open("r+b") as file:
            file.write(b"\0" * 100)
        code, out, _ = testbed("sync", path, "--json")
        assert did(out, host.name) == [f"data {host.name}.npz"]
        assert arrived.read_bytes() == (tmp_path / f"{host.name}.npz").read_bytes()


def test_shards_and_settings_reach_sixteen_hosts_and_files_come_home(
    lab: Any, testbed: Any, tmp_path: Path, many: tuple[list[SshHost], Path]
) -> None:
    hosts = many[0][:13]
    path = lab(13)
    with_shards(path, tmp_path, [host.name for host in hosts])
    code, out, _ = testbed("sync", path, "--json")
    assert code == 0
    assert all(did(out, host.name) == [f"data {host.name}.npz", "settings"] for host in hosts)
    code, out, _ = testbed("sync", path, "--json")
    assert all(did(out, host.name) == [] for host in hosts)
    for number, host in enumerate(hosts):
        (host.board_folder / "recordings" / "day one").mkdir(parents=True)
        (host.board_folder / "recordings" / "day one" / "run.ejr").write_bytes(bytes([number]) * 5000)
    target = tmp_path / "home"
    code, out, _ = testbed("collect", path, "-o", target, "--json")
    assert code == 0
    assert (target / hosts[3].name / "recordings/day one/run.ejr").read_bytes() == b"\x03" * 5000
    assert wrong_files(target) == []
    assert len((target / SUMS).read_text().splitlines()) == sum(
        len(board["files"]) for board in json.loads((target / "manifest.json").read_text())["boards"].values()
    )
    # Again: nothing is fetched twice, and what was changed here is put right.
    damaged = target / hosts[2].name / "recordings/day one/run.ejr"
    damaged.write_bytes(b"x")
    assert wrong_files(target) == [str(damaged.relative_to(target))]
    code, out, _ = testbed("collect", path, "-o", target, "--json")
    fetched = {name: board["fetched"] for name, board in json.loads(out)["boards"].items()}
    assert {name for name, count in fetched.items() if count} == {hosts[2].name}
    assert wrong_files(target) == []
    # Somebody's folder is left alone.
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    assert testbed("collect", path, "-o", other)[0] == 2


def test_a_deploy_without_a_program_says_what_to_give(lab: Any, testbed: Any) -> None:
    path = lab(1)
    text = path.read_text().replace("[defaults]", '[defaults]\nfolder = "nowhere"', 1)
    path.write_text("\n".join(line for line in text.split("\n") if not line.startswith('folder = "/')))
    code, _, err = testbed("deploy", path)
    assert (code, "give --wheel FILE" in err) == (3, True), err
