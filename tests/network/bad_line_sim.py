"""A fleet at the other end of a bad line: 1 Mbit/s, 400 ms there and back, 30 % of packets lost each way.

    make bad-line       python tests/network/bad_line_sim.py [--json FILE] [--only rounds|upload] [--rounds N]

Certificates, enrolment and the device's own link are real; the devices do no work but add one to each number of the
head, so that the right sum is known. First rounds of four devices, closed by a quorum of half; then one report of a
megabyte, during which the line is cut for half a minute. TCP keeps by what this machine has. Where that takes each
loss for a full line, as reno does, a head of a megabyte does not come down in the ten minutes of a call for an order:
take `--congestion bbr`.
Needs root, for namespaces, and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "coordinator")]

from bad_line import LINK, bad_line  # noqa: E402
from net_sim import Scene, Steps  # noqa: E402
from plain_bundle import make_plain_bundle  # noqa: E402
from two_hosts import Host, cut, why_not  # noqa: E402

from edge_runtime.daemon.link import ORDER_S  # noqa: E402

CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"
LAB, BOARD = "10.88.0.1", "10.88.0.2"
_LONGEST_S = 3600.0
_ROUNDS_PLAN = "[round]\ndevices = 4\nquorum = 0.5\ndeadline_s = 60\n"
_UPLOAD_PLAN = "[round]\ndevices = 1\ndeadline_s = 3600\n"


@contextlib.contextmanager
def hosts(congestion: str | None) -> Iterator[tuple[Host, Host]]:
    """Two hosts with a bad line between them, and nothing else; TCP there keeps by that rule."""
    mark = f"{os.getpid() % 100000}"
    lab, board = Host(f"ejlab{mark}", LAB, LINK), Host(f"ejfar{mark}", BOARD, LINK)
    try:
        for host in (lab, board):
            subprocess.run(["ip", "netns", "add", host.name], check=True)
            subprocess.run(["ip", "-n", host.name, "link", "set", "lo", "up"], check=True)
            if congestion is not None:
                rule = f"echo {congestion} > {CONGESTION}"
                subprocess.run(host.command("sh", "-c", rule), check=True)
        with bad_line((lab.name, LAB), (board.name, BOARD)):
            yield lab, board
    finally:
        for host in (lab, board):
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)


class Books:
    """What the coordinator has written down."""

    def __init__(self, scene: Scene) -> None:
        self._path = scene.state / "coordinator.db"

    def ask(self, query: str, *values: object) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)) as books:
            return books.execute(query, values).fetchall()

    def state(self, run_id: str) -> str:
        return str(self.ask("select state from runs where run_id = ?", run_id)[0][0])


def _bytes_up(board: Host) -> int:
    shown = subprocess.run(
        ["ip", "-n", board.name, "-j", "-s", "link", "show", LINK], check=True, capture_output=True, text=True
    )
    return int(json.loads(shown.stdout)[0]["stats64"]["tx"]["bytes"])


def _opened(scene: Scene, steps: Steps, devices: int) -> list[Path]:
    """A coordinator that serves, and devices that were enrolled over the line; their state folders."""
    with steps.step("coordinator init, login, serve"):
        scene.call(scene.lab, "coordinator.cli", "init", "--state", str(scene.state), "--name", LAB)
        scene.call(scene.lab, "coordinator.cli", "login", str(scene.state / "trust" / "admin.json"))
        scene.serve()
    states = []
    for number in range(1, devices + 1):
        with steps.step(f"pi-{number} enrols"):
            states.append(_enrolled(scene, f"pi-{number}"))
    return states


def _enrolled(scene: Scene, name: str) -> Path:
    """As a person does it who pastes a new line where one came to nothing: enrolment itself tries once."""
    state = scene.folder / "board" / name
    for tries in range(1, 21):
        said = scene.call(scene.lab, "coordinator.cli", "enroll", "--state", str(scene.state), name)
        token = next(line for line in said.splitlines() if line.startswith("sudo")).split()[-1]
        try:
            scene.call(scene.board, "edge_runtime.cli", "enroll", token, "--state", str(state))
        except SystemExit:
            continue
        print(f"{name} enrolled by line {tries}", flush=True)
        return state
    raise SystemExit(f"{name} could not be enrolled")


def _run(scene: Scene, bundle: Path, rounds: int, more: str) -> str:
    plan = scene.folder / f"{bundle.name}.toml"
    plan.write_text(
        f'[run]\nbundle = "{bundle}"\nname = "far"\nrounds = {rounds}\n{more}[train]\nepochs = 1\n'
        '[update]\ncodec = "float32"\n'
    )
    return scene.call(scene.lab, "coordinator.cli", "start", str(plan)).split()[-1]


def _far(scene: Scene, states: list[Path], log: Path, waits_s: float = 20.0) -> subprocess.Popen[str]:
    command = scene.board.command(
        sys.executable,
        str(HERE / "far_devices.py"),
        f"{LAB}:50461",
        *map(str, states),
        "--seconds",
        "90",
        "--waits-s",
        str(waits_s),
    )
    with log.open("w") as out:
        process = subprocess.Popen(command, env=scene.environ, stdout=out, stderr=subprocess.STDOUT, text=True)
    scene.running.append(process)
    return process


def _right(scene: Scene, run_id: str, bundle: Path, rounds: int) -> None:
    """Each round adds one, whoever took part: the sum is right only if the weights of those who did add up to one."""
    head = scene.folder / "head.npz"
    scene.call(scene.lab, "coordinator.cli", "export", run_id, "-o", str(head), "--head-alone")
    with np.load(head) as found, np.load(bundle / "initial.npz") as first:
        for name in ("out_kernel", "out_bias"):
            np.testing.assert_allclose(found[name], first[name] + rounds, atol=1e-4)


def rounds_by_quorum(folder: Path, rounds: int, congestion: str | None = None) -> dict[str, Any]:
    """So many rounds of four devices."""
    with hosts(congestion) as (lab, board):
        scene, steps = Scene(folder, lab, board), Steps(board)
        try:
            states = _opened(scene, steps, 4)
            bundle = make_plain_bundle(folder / "small", width=64, classes=10)
            run_id, begun_s = _run(scene, bundle, rounds, _ROUNDS_PLAN), time.monotonic()
            books, before = Books(scene), _bytes_up(board)
            _far(scene, states, folder / "far.json")
            while books.state(run_id) in ("waiting", "running"):
                if time.monotonic() - begun_s > _LONGEST_S:
                    raise SystemExit("the run did not end in an hour")
                time.sleep(1.0)
            took_s = time.monotonic() - begun_s
            abandoned = books.ask("select count(*) from events where run_id = ? and kind = 'abandoned'", run_id)[0][0]
            outcomes = dict(books.ask("select outcome, count(*) from orders where run_id = ? group by outcome", run_id))
            if books.state(run_id) != "finished":
                raise SystemExit(f"the run ended as {books.state(run_id)}")
            _right(scene, run_id, bundle, rounds)
            found: dict[str, Any] = {
                "rounds": rounds, "abandoned": abandoned, "orders": outcomes, "sum": "right",
                "s_a_round": round(took_s / rounds, 2), "bytes_up": _bytes_up(board) - before, "steps": steps.rows,
            }  # fmt: skip
            print(json.dumps({key: value for key, value in found.items() if key != "steps"}), flush=True)
            return found
        finally:
            scene.stop()


def upload(folder: Path, congestion: str | None = None) -> dict[str, Any]:
    """One report of a megabyte, cut in the middle."""
    with hosts(congestion) as (lab, board):
        scene, steps = Scene(folder, lab, board), Steps(board)
        try:
            states = _opened(scene, steps, 1)
            bundle = make_plain_bundle(folder / "large", width=2048, classes=128)
            run_id, books = _run(scene, bundle, 1, _UPLOAD_PLAN), Books(scene)
            uploads = scene.state / "uploads"
            _far(scene, states, folder / "far.json", ORDER_S)

            def held() -> int:
                return sum(path.stat().st_size for path in uploads.glob("*.upload")) if uploads.is_dir() else 0

            scene.until(held, "the first part", longest_s=_LONGEST_S)
            begun_s, before = time.monotonic(), _bytes_up(board)
            scene.until(lambda: held() > 500_000, "half of the report", longest_s=_LONGEST_S)
            at_cut, cut_s = held(), time.monotonic() - begun_s
            cut(board, off=True)
            time.sleep(30)
            least = held()
            cut(board, off=False)
            scene.until(lambda: books.state(run_id) != "running", "the report", longest_s=_LONGEST_S)
            found: dict[str, Any] = {
                "half_took_s": round(cut_s, 1), "held_at_cut": at_cut, "held_after_cut": least,
                "took_s": round(time.monotonic() - begun_s, 1), "bytes_up_on_the_wire": _bytes_up(board) - before,
            }  # fmt: skip
            _right(scene, run_id, bundle, 1)
            scene.until(lambda: (folder / "far.json").read_text().endswith("}\n"), "its figures", longest_s=_LONGEST_S)
            row = json.loads((folder / "far.json").read_text().splitlines()[-1])
            found |= {**row, "sum": "right", "steps": steps.rows}
            print(json.dumps({key: value for key, value in found.items() if key != "steps"}), flush=True)
            return found
        finally:
            scene.stop()


def main() -> int:
    """Play both, print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="gets the figures")
    parser.add_argument("--only", choices=("rounds", "upload"), help="this alone")
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="how many (50)")
    parser.add_argument("--congestion", metavar="RULE", help="of TCP (as this machine has it)")
    arguments = parser.parse_args()
    reason = why_not() or ("" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun")
    if reason:
        print(f"bad-line: {reason}", file=sys.stderr)
        return 2
    found: dict[str, Any] = {"congestion": arguments.congestion or Path(CONGESTION).read_text().strip()}
    with tempfile.TemporaryDirectory(prefix="edgejoule-far-") as folder:
        for name in ("rounds", "upload"):
            if arguments.only in (None, name):
                (Path(folder) / name).mkdir()
                where, rule = Path(folder) / name, arguments.congestion
                found[name] = (
                    rounds_by_quorum(where, arguments.rounds, rule) if name == "rounds" else upload(where, rule)
                )
                if arguments.json:
                    arguments.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
