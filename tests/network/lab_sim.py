"""A lab of eight hosts on one machine, as people would type it: from somebody's inventory to results taken home.

    make lab-sim            python3 tests/network/lab_sim.py [--boards 8] [--json FILE]

Each host is a network namespace with an SSH server of its own. Prints what each step took. Needs root, and sshd.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "coordinator" / "testbed"))

import many_hosts
import two_hosts
from many_hosts import Host
from ssh_hosts import SshHost, base_python, user_key
from ssh_hosts import why_not as why_no_ssh

ROOT = Path(__file__).resolve().parents[2]
_WAIT_S = 900.0
_PORT = 50461


def why_not() -> str | None:
    """Why this machine cannot have such a lab, or None."""
    return two_hosts.why_not() or why_no_ssh()


class Scene:
    """The lab's host, the boards, a folder, and the steps that were done."""

    def __init__(self, folder: Path, lab: Host, boards: Sequence[Host]) -> None:
        self.folder, self.lab, self.boards = folder, lab, boards
        self.state, self.rows = folder / "state", list[dict[str, Any]]()
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder / "config")}
        for name in [text for text in self.environ if text.startswith("EDGEJOULE_")]:
            del self.environ[name]
        self.servers: list[SshHost] = []
        self.coordinator: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.rows.append({"step": name, "took_s": round(time.monotonic() - begun, 2)})
        print(f"{name:<58} {self.rows[-1]['took_s']:>7.2f} s", flush=True)

    def call(self, program: str, *words: object) -> str:
        """Run one of our programs on the lab's host; what it printed."""
        done = subprocess.run(
            self.lab.command(sys.executable, "-m", f"{program}.cli", *map(str, words)),
            cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False, timeout=_WAIT_S,
        )  # fmt: skip
        if done.returncode:
            logs = "\n".join(path.read_text()[-1500:] for path in self.folder.glob("boards/*/edgejoule/daemon.log"))
            shown = " ".join(map(str, words[:3]))
            raise SystemExit(f"{program} {shown} left with {done.returncode}: {done.stderr}\n{done.stdout}\n{logs}")
        return done.stdout

    def servers_up(self) -> Path:
        """An SSH server on each board; the private key that opens them."""
        private, authorized = user_key(self.folder)
        for number, host in enumerate(self.boards, 1):
            place = self.folder / "boards" / f"pi-{number}"
            place.mkdir(parents=True)
            prefix = ("ip", "netns", "exec", host.name)
            self.servers.append(SshHost(f"pi-{number}", place, host.address, 22, prefix=prefix))
            self.servers[-1].start(authorized)
        return private

    def serve(self) -> None:
        """The coordinator on the lab's host."""
        ready = self.folder / "ready"
        words = ["serve", "--state", str(self.state), "--listen", f"0.0.0.0:{_PORT}", "--ready-file", str(ready)]
        with (self.folder / "serve.log").open("wb") as log:
            self.coordinator = subprocess.Popen(
                self.lab.command(sys.executable, "-m", "coordinator.cli", *words),
                cwd=self.folder, env=self.environ, stdout=log, stderr=log,
            )  # fmt: skip
        end_s = time.monotonic() + 120
        while not ready.exists():
            if time.monotonic() > end_s or self.coordinator.poll() is not None:
                raise SystemExit((self.folder / "serve.log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """End what was started."""
        if self.coordinator is not None:
            self.coordinator.terminate()
            self.coordinator.wait(60)
        for server in self.servers:
            server.stop()


def ansible(scene: Scene, key: Path) -> str:
    """The inventory that somebody has already: two kinds of boards, in YAML of Ansible."""
    lines = ["all:", "  vars:", f"    ansible_user: {getpass.getuser()}", f"    ansible_ssh_private_key_file: {key}"]
    lines += [f"    ansible_python_interpreter: {base_python(scene.folder)}", "    edgejoule_service: process"]
    lines += ["  children:"]
    half = (len(scene.boards) + 1) // 2
    for group, servers in (("rpi4", scene.servers[:half]), ("rpi5", scene.servers[half:])):
        lines += [f"    {group}:", "      vars:", f"        edgejoule_sensor: estimate:pi{group[-1]}", "      hosts:"]
        for server in servers:
            lines += [
                f"        {server.name}:", f"          ansible_host: {server.address}",
                f"          edgejoule_folder: {server.board_folder}", f"          edgejoule_lock: {server.folder}/lock",
                f"          edgejoule_shard: shards/{server.name}.npz",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def wheel(folder: Path) -> Path:
    """A wheel of this tree."""
    copy = folder / "tree"
    copy.mkdir(parents=True)
    for name in ("protos", "edge_runtime", "coordinator", "firmware_tools", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).symlink_to(ROOT / name)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=copy, capture_output=True, check=True)
    return next(folder.glob("*.whl"))


def play(folder: Path, count: int) -> list[dict[str, Any]]:
    """All of it; one row a step."""
    with many_hosts.many_hosts(count) as (lab, boards):
        scene = Scene(folder, lab, boards)
        try:
            _play(scene, count)
        finally:
            scene.stop()
        return scene.rows


def _play(scene: Scene, count: int) -> None:
    folder, call = scene.folder, scene.call
    with scene.step("a model and its data; a wheel; servers (no network)"):
        call("firmware_tools", "pretrain", "digits", "-o", "workshop")
        call(
            "firmware_tools", "convert", "workshop/digits.keras", "--calibrate", "workshop/workshop.npz", "-o", "bundle"
        )
        built = wheel(folder / "dist")
        key = scene.servers_up()
    names = ",".join(server.name for server in scene.servers)
    with scene.step("coordinator partition"):
        call("coordinator", "partition", "workshop/fleet.npz", "--boards", count, "--how", "iid", "--names", names,
             "-o", "shards")  # fmt: skip
    with scene.step("coordinator init, login, serve"):
        call("coordinator", "init", "--state", scene.state, "--name", scene.lab.address)
        call("coordinator", "login", scene.state / "trust" / "admin.json")
        scene.serve()
    with scene.step("testbed import"):
        (folder / "hosts.yaml").write_text(ansible(scene, key))
        call("coordinator", "testbed", "import", "hosts.yaml", "-o", "lab.toml", "--coordinator",
             f"{scene.lab.address}:{_PORT}", "--coordinator-state", scene.state)  # fmt: skip
    with scene.step("testbed trust"):
        call("coordinator", "testbed", "trust", "lab.toml", "--yes")
    with scene.step("testbed check"):
        shown = json.loads(call("coordinator", "testbed", "check", "lab.toml", "--json"))
        assert len(shown["boards"]) == count
    with scene.step("testbed reserve"):
        call("coordinator", "testbed", "reserve", "lab.toml", "--for", "1h")
    words = ("coordinator", "testbed", "deploy", "lab.toml", "--wheel", built, "--pip=--no-deps", "--pip=--no-index",
             "--timeout", "120s", "--json")  # fmt: skip
    with scene.step("testbed deploy: wheel, shard, settings, identity, start"):
        done = json.loads(call(*words))["boards"]
        assert all("enrolment" in row["done"] and "start" in row["done"] for row in done.values())
    with scene.step("testbed deploy again: nothing to do"):
        done = json.loads(call(*words))["boards"]
        assert all(row["done"] == [] for row in done.values()), done
    (folder / "plan.toml").write_text(
        f'[run]\nbundle = "{folder / "bundle"}"\nname = "lab"\nrounds = 3\n\n[round]\ndevices = {count}\n'
        f'deadline_s = 300\n\n[train]\nepochs = 2\n\n[evaluate]\ndata = "{folder / "shards" / "held-out.npz"}"\n'
    )
    with scene.step("coordinator start --wait: three rounds"):
        run = json.loads(call("coordinator", "start", "plan.toml", "--wait", "--json"))
        assert [len(this_round["devices"]) for this_round in run["rounds"][1:]] == [count] * 3
    with scene.step("testbed collect"):
        call("coordinator", "testbed", "collect", "lab.toml", "-o", "results", "--run", "lab")
    checked = subprocess.run(
        ["sha256sum", "-c", "--quiet", "SHA256SUMS"],
        cwd=folder / "results",
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.returncode, checked.stdout
    with scene.step("coordinator report"):
        call("coordinator", "report", "lab", "-o", "results/report.html")
    page = (folder / "results" / "report.html").read_text("utf-8")
    assert all(server.name in page for server in scene.servers)
    assert (folder / "results" / "plan.toml").read_bytes() == (folder / "plan.toml").read_bytes()
    with scene.step("testbed down, release"):
        call("coordinator", "testbed", "down", "lab.toml")
        call("coordinator", "testbed", "release", "lab.toml")


def main() -> int:
    """Play it, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=8, metavar="N", help="how many (default 8)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="gets the rows")
    arguments = parser.parse_args()
    if (reason := why_not()) is not None:
        print(f"lab-sim: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="edgejoule-lab-") as folder:
        rows = play(Path(folder), arguments.boards)
    total_s = sum(row["took_s"] for row in rows)
    print(f"{'all of it':<58} {total_s:>7.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"boards": arguments.boards, "rows": rows, "total_s": total_s}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
