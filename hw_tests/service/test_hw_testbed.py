"""`coordinator testbed` on a board that systemd runs: deployed as a service over SSH, worked with, and taken home.

The booted Debian has no SSH server of its own. OpenSSH's on this machine lets nobody in but into the box: whatever is
asked for runs there, as root.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hw_tests.boards.box import Box
from hw_tests.boards.deployed import STATE, UNIT, Deployed
from hw_tests.boards.wheels import copy_tree, needed_wheels, tree_wheel
from tests.free_ports import free_port

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
FOLDER = "/opt/edgejoule-testbed"
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
ForceCommand {folder}/enter
"""


class Lab:
    """A lab of one board, and the commands of who works with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def testbed(self, verb: str, *words: object, code: int = 0) -> str:
        """One verb over the whole lab; what it printed."""
        command = [sys.executable, "-m", "coordinator.cli", "testbed", verb, "lab.toml", *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=900.0)
        assert done.returncode == code, f"{verb}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr if code else done.stdout

    def told(self, verb: str, *words: object) -> dict[str, Any]:
        """What is told of the one board."""
        (found,) = json.loads(self.testbed(verb, *words, "--json"))["boards"].values()
        return dict(found)


@pytest.fixture
def lab(service: Deployed, tmp_path: Path) -> Iterator[Lab]:
    board = service.board
    if not isinstance(board, Box):
        pytest.skip("a real board has an SSH server of its own: give it an inventory")
    if SSHD is None:
        pytest.skip("sshd (openssh-server) is not installed")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    enter = tmp_path / "enter"
    inside = " ".join(shlex.quote(word) for word in board.words("/bin/sh", "-c"))
    enter.write_text(f'#!/bin/sh\nexec {inside} "cd /root; $SSH_ORIGINAL_COMMAND"\n')
    enter.chmod(0o755)
    port = free_port()
    (tmp_path / "sshd_config").write_text(_CONFIG.format(port=port, folder=tmp_path))
    (tmp_path / "lab.toml").write_text(
        f'[lab]\nname = "box"\ncoordinator = "{service.station.address}"\nknown_hosts = "known_hosts"\n'
        f'[board.board-1]\nhost = "127.0.0.1"\nport = {port}\nuser = "root"\nkey = "{tmp_path / "user_key"}"\n'
        f'kind = "pi4"\nfolder = "{FOLDER}"\nshard = "{service.station.data}"\nsensor = "estimate:pi4"\n'
        "settings = { watchdog_s = 30, memory_max_mb = 256 }\n"
    )
    board.run("rm", "-rf", FOLDER, "/etc/edgejoule")
    log = (tmp_path / "sshd.log").open("wb")
    with log, subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=log) as server:
        try:
            end_s = time.monotonic() + 30
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert time.monotonic() < end_s, (tmp_path / "sshd.log").read_text()
                time.sleep(0.05)
            yield Lab(tmp_path)
        finally:
            server.terminate()


def test_a_lab_with_systemd_is_deployed_works_and_is_taken_home(lab: Lab, service: Deployed, tmp_path: Path) -> None:
    board = service.board
    machine = board.run("uname", "-m").stdout.strip()
    wheel = tree_wheel(tmp_path, copy_tree(tmp_path / "tree"))
    lab.testbed("trust", "--yes")
    words = ("--wheel", wheel, "--find-links", needed_wheels(machine), "--timeout", "10m")
    done = lab.told("deploy", *words)["done"]
    assert {"environment", "settings", "service"} <= set(done), done
    assert lab.told("deploy", *words)["done"] == [], "a second time there is nothing to do"
    service.until_joined()
    assert service.show("ActiveState") == "active"
    # What runs is what was brought, as the hardened unit that systemd knows.
    assert service.show("FragmentPath") == f"/etc/systemd/system/{UNIT}"
    assert board.run("readlink", "-f", f"{FOLDER}/current").stdout.startswith(f"{FOLDER}/versions/")
    assert lab.told("status")["daemon"] == "running"
    service.station.start_run(2, steps=20, name="testbed")
    service.until(lambda: service.finished("testbed"), "the run ends")
    assert "active" in lab.testbed("run", "--", "systemctl", "is-active", UNIT)
    assert "round 2" in lab.testbed("logs")
    # It has no LED, and says so.
    assert "LED" in lab.testbed("blink", code=3)
    home = tmp_path / "home"
    lab.testbed("collect", "-o", home)
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=home, check=False).returncode == 0
    journal = "\n".join(path.read_text("utf-8", "replace") for path in home.rglob("journal*"))
    assert "round 1" in journal
    assert "round 2" in journal
    assert service.exists(STATE)
    lab.testbed("down")
    assert service.show("ActiveState") in ("inactive", "failed")
    lab.testbed("up")
    service.until(lambda: service.show("ActiveState") == "active", "it is up again")
