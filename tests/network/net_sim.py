"""A fleet over a network, on one machine: the coordinator on one host, a board on another, as people would type it.

    make net-sim            python tests/network/net_sim.py [--json FILE]

Between them is a cable, and then again a router that hides the board's address: nftables, where the program nft is
installed, else slirp4netns, which needs nothing of the kernel.
Prints what each step took and how many bytes went through the board's interface. Needs root, for namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from two_hosts import Host, Nat, cut, nats, slow, two_hosts, why_not

ROOT = Path(__file__).resolve().parents[2]
_WAIT_S = 300.0


class Steps:
    """What was done, how long it took, and what went over the board's wire."""

    def __init__(self, board: Host) -> None:
        self.board, self.rows = board, list[dict[str, Any]]()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        before, begun = self._bytes(), time.monotonic()
        yield
        after = self._bytes()
        row = {
            "step": name,
            "took_s": round(time.monotonic() - begun, 2),
            "bytes_up": after[0] - before[0],
            "bytes_down": after[1] - before[1],
        }
        self.rows.append(row)
        print(f"{name:<44} {row['took_s']:>7.2f} s {row['bytes_up']:>10,} up {row['bytes_down']:>10,} down", flush=True)

    def _bytes(self) -> tuple[int, int]:
        shown = subprocess.run(
            ["ip", "-n", self.board.name, "-j", "-s", "link", "show", self.board.link],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        counts = json.loads(shown.stdout)[0]["stats64"]
        return int(counts["tx"]["bytes"]), int(counts["rx"]["bytes"])


class Scene:
    """Both hosts with their programs; a folder each."""

    def __init__(self, folder: Path, lab: Host, board: Host) -> None:
        self.folder, self.lab, self.board = folder, lab, board
        self.state, self.device = folder / "lab" / "state", folder / "board" / "state"
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder / "lab" / "config")}
        for name in [text for text in self.environ if text.startswith("EDGEJOULE_")]:
            del self.environ[name]
        self.running: list[subprocess.Popen[str]] = []
        (folder / "lab").mkdir()
        (folder / "board").mkdir()

    def call(self, host: Host, program: str, *words: str) -> str:
        done = subprocess.run(
            host.command(sys.executable, "-m", program, *words),
            cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False, timeout=_WAIT_S,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{program} {' '.join(words[:2])} left with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self, host: Host, log: str, program: str, *words: str) -> subprocess.Popen[str]:
        with (self.folder / log).open("a") as out:
            process = subprocess.Popen(
                host.command(sys.executable, "-m", program, *words),
                cwd=ROOT, env=self.environ, stdout=out, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def serve(self) -> subprocess.Popen[str]:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        process = self.start(self.lab, "serve.log", "coordinator.cli", "serve", "--state", str(self.state),
                             "--listen", "0.0.0.0:50461", "--ready-file", str(ready))  # fmt: skip
        self.until(ready.exists, "the coordinator serves")
        return process

    def daemon(self) -> subprocess.Popen[str]:
        settings = {
            "--coordinator": f"{self.lab.address}:50461",
            "--state": str(self.device),
            "--data": str(self.folder / "digits.npz"),
            "--shard": "1/8",
            "--sensor": "estimate:pi4",
        }
        words = [word for pair in settings.items() for word in pair]
        return self.start(self.board, "board.log", "edge_runtime.cli", "run", *words)

    def until(self, true: Callable[[], Any], what: str, *, longest_s: float = _WAIT_S) -> None:
        deadline = time.monotonic() + longest_s
        while not true():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                raise SystemExit(f"waited in vain: {what}\n{logs}")
            time.sleep(0.1)

    def devices(self) -> dict[str, str]:
        shown = json.loads(self.call(self.lab, "coordinator.cli", "devices", "--json"))
        rows = shown["devices"] if isinstance(shown, dict) else shown
        return {row["device_id"]: row["state"] for row in rows}

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def play(folder: Path, between: Nat = two_hosts, *, idle_s: float = 0.0) -> list[dict[str, Any]]:
    """All of it, one row a step.

    Args:
        between: what lies between the hosts.
        idle_s: for so long nothing happens, but the pings of a call that waits.
    """
    with between() as (lab, board):
        scene, steps = Scene(folder, lab, board), Steps(board)
        try:
            _play(scene, steps, idle_s)
        finally:
            scene.stop()
        return steps.rows


def _play(scene: Scene, steps: Steps, idle_s: float) -> None:
    lab, board, folder = scene.lab, scene.board, scene.folder
    with steps.step("a model and its data (no network)"):
        scene.call(lab, "firmware_tools.cli", "pretrain", "digits", "-o", str(folder / "workshop"))
        workshop = folder / "workshop"
        (workshop / "fleet.npz").rename(folder / "digits.npz")
        scene.call(lab, "firmware_tools.cli", "convert", str(workshop / "digits.keras"),
                   "--calibrate", str(workshop / "workshop.npz"), "-o", str(folder / "bundle"))  # fmt: skip
        (folder / "plan.toml").write_text(
            f'[run]\nbundle = "{folder / "bundle"}"\nname = "net"\nrounds = 1\n\n'
            "[round]\ndevices = 1\ndeadline_s = 120\n\n[train]\nepochs = 1\n"
        )
    with steps.step("coordinator init, login"):
        scene.call(lab, "coordinator.cli", "init", "--state", str(scene.state), "--name", lab.address)
        scene.call(lab, "coordinator.cli", "login", str(scene.state / "trust" / "admin.json"))
    with steps.step("coordinator serve --listen 0.0.0.0"):
        server = scene.serve()
    with steps.step("coordinator enroll, one line pasted on the board"):
        said = scene.call(lab, "coordinator.cli", "enroll", "--state", str(scene.state), "pi-1")
        token = next(line for line in said.splitlines() if line.startswith("sudo")).split()[-1]
        scene.call(board, "edge_runtime.cli", "enroll", token, "--state", str(scene.device))
    with steps.step("the board joins"):
        device = scene.daemon()
        scene.until(lambda: scene.devices().get("pi-1") == "present", "the board joins")
    with steps.step("a round with joules"):
        out = scene.call(lab, "coordinator.cli", "start", str(folder / "plan.toml"), "--wait", "--json")
        if "energy_j" not in out:
            raise SystemExit(f"no joules came: {out}")
    if idle_s:
        with steps.step(f"nothing for {idle_s:.0f} s but pings"):
            time.sleep(idle_s)
        if not steps.rows[-1]["bytes_up"]:
            raise SystemExit("a router that forgets connections would have forgotten this one")
        with steps.step("a round by the call that waited"):
            before = (folder / "board.log").read_text().count("joined")
            scene.call(lab, "coordinator.cli", "start", str(folder / "plan.toml"), "--wait", "--json")
            if (folder / "board.log").read_text().count("joined") != before:
                raise SystemExit("the board had to join anew")
    with steps.step("the board starts again"):
        end(device)
        device = scene.daemon()
        scene.until(lambda: scene.devices().get("pi-1") == "present", "the board joins again")
    with steps.step("the coordinator starts again"):
        end(server)
        server = scene.serve()
        scene.until(lambda: scene.devices().get("pi-1") == "present", "the board finds it again")
    with steps.step("the cable is out for 5 s"):
        cut(board, off=True)
        time.sleep(5)
        cut(board, off=False)
        scene.until(lambda: scene.devices().get("pi-1") == "present", "the board is back")
    with steps.step("a round at 1 Mbit/s"):
        slow(board, "1mbit")
        slow(lab, "1mbit")
        scene.call(lab, "coordinator.cli", "start", str(folder / "plan.toml"), "--wait", "--json")
    with steps.step("a new certificate, by the board itself"):
        probe = (
            "import sys; from pathlib import Path; from edge_runtime.identity.renewal import Renewals; "
            "from edge_runtime.identity.identity import read_identity as read; state = Path(sys.argv[1]); "
            "old = read(state); clock = lambda: old.begins_unix_s + 25 * 86400; "
            "ok = Renewals(state, sys.argv[2], clock=clock).look(); "
            "sys.exit(0 if ok and read(state).chain_pem != old.chain_pem else 1)"
        )
        done = subprocess.run(
            board.command(sys.executable, "-c", probe, str(scene.device), f"{lab.address}:50461"),
            cwd=ROOT, env=scene.environ, check=False, timeout=_WAIT_S,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit("the certificate was not renewed")
    with steps.step("coordinator revoke"):
        scene.call(lab, "coordinator.cli", "revoke", "--state", str(scene.state), "pi-1", "--reason", "tried out")
        scene.until(lambda: "was revoked" in (folder / "board.log").read_text(), "the board is told")
    log = (folder / "serve.log").read_text()
    tls = next((line for line in log.splitlines() if "certificates on both sides" in line), "")
    if "TLSv1.3" not in tls:
        raise SystemExit(f"not TLS 1.3: {tls!r}")


def main() -> int:
    """Play it, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="gets the rows")
    kinds = ("cable", "nft", "slirp4netns")
    parser.add_argument("--between", choices=kinds, help="this alone (default: a cable, then a NAT)")
    parser.add_argument("--idle-s", metavar="S", type=float, default=150.0, help="of the call behind a NAT (150)")
    arguments = parser.parse_args()
    if (reason := why_not()) is not None:
        print(f"net-sim: {reason}", file=sys.stderr)
        return 2
    ways, missing = nats()
    if arguments.between is not None and arguments.between not in ("cable", *ways):
        print(f"net-sim: {missing}", file=sys.stderr)
        return 2
    names = ["cable", *list(ways)[:1]] if arguments.between is None else [arguments.between]
    shown: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        between = ways.get(name, two_hosts)
        print(f"between the hosts: {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="edgejoule-net-") as folder:
            shown[name] = play(Path(folder), between, idle_s=0.0 if name == "cable" else arguments.idle_s)
    if not ways:
        print(f"no NAT between the hosts: {missing}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": shown}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
