"""A day of a board's life in some minutes: data grow, the bridge comes and goes, the coordinator restarts, clocks jump.

    .venv/bin/python benchmarks/device/soak.py --json OUT            # 24 hours of rounds and faults, about ten minutes
    .venv/bin/python benchmarks/device/soak.py --hours 4             # shorter

Programs are real: a coordinator, a daemon, a simulated bridge on a pseudo-terminal, on one machine; hours are drawn
together to some seconds each. In each hour one thing happens, drawn from the seed, and a round is run. The wall clock
of the daemon is moved by a module of Python's start-up that adds what a file says to `time.time()`: two years back and
forward again; the clock of the machine stays. At the end it is shown what must hold:

* every report that was accepted is in the head: the head that the coordinator keeps is the one that the rows give;
* no round has joules while the bridge was away, and those with it have;
* memory, open files and the state folder are bounded: the second half of the day takes no more than the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.device.faults import NAME, Rig, until
from benchmarks.device.runs import begin, look
from coordinator.operator.client import Operator
from edge_runtime.client import Client
from edge_runtime.data.store import Bounds, ExampleStore
from protos.atomic import write_whole
from protos.energy.trace import Phase
from protos.model.bundle import Bundle, open_bundle

__all__ = ["lived"]

HOURS = 24
YEARS_S = 2 * 365 * 86_400.0
# What a day may leave behind: sockets of a connection that is being made anew, and a table of images.
MORE_FILES, MORE_MB = 8, 25.0
_SITE = """
import os, sys, time
_real, _file = time.time, os.environ.get("FIELD_SOAK_CLOCK")
def _moved():
    # The core of gRPC reads the machine's clock itself: both halves of it must agree, as they do where a clock jumps.
    if sys._getframe(1).f_globals.get("__name__", "").startswith("grpc"):
        return _real()
    try:
        with open(_file) as file:
            return _real() + float(file.read() or 0)
    except (OSError, ValueError):
        return _real()
if _file:
    time.time = _moved
"""


class _Day:
    """The programs of a day, and what happens to them."""

    def __init__(self, folder: Path, bundle: Bundle, seed: int) -> None:
        self.rig = Rig(folder, bundle.path)
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.store = ExampleStore(folder / "own")
        self.classes = bundle.manifest.classes
        self.shape = bundle.manifest.backbone.input_shape
        self.clock = folder / "clock"
        site = folder / "site"
        site.mkdir(parents=True, exist_ok=True)
        (site / "sitecustomize.py").write_text(_SITE)
        self.clock.write_text("0")
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH", "")])])
        self.environment = {**os.environ, "PYTHONPATH": path, "FIELD_SOAK_CLOCK": str(self.clock)}
        self.bridge: subprocess.Popen[bytes] | None = None
        self.told: list[str] = []

    def begin(self) -> None:
        """Everything is there."""
        self.grow(60)
        self.store.keep(Bounds(most_count=150, reservoir=True))
        self.coordinator = self.rig.serve()
        self.port = self.rig.address
        self.bridge, link = self.rig.bridge()
        self.rig.data = self.store.folder
        self.daemon = self.rig.device("--sensor", f"serial:{link}", env=self.environment)
        until(lambda: (one := self.rig.shown()) is not None and one.meter.method == "measured")

    def grow(self, count: int) -> None:
        """So many examples more, by the store, as an application would add them."""
        patterns = np.random.default_rng(0).integers(0, 196, (len(self.classes), *self.shape))
        for _ in range(count):
            label = int(self.numbers.integers(len(self.classes)))
            x = (patterns[label] + self.numbers.integers(0, 60, self.shape)).astype(np.uint8)
            self.store.add(x, self.classes[label], held_out=bool(self.numbers.random() < 0.15))

    def bridge_goes(self) -> None:
        """Somebody pulls the cable."""
        if self.bridge is not None:
            self.bridge.terminate()
            self.bridge.wait()
            self.bridge = None
            until(lambda: (one := self.rig.shown()) is not None and one.meter.method == "unknown", 60.0)

    def bridge_comes(self) -> None:
        """And puts it back."""
        if self.bridge is None:
            (self.rig.folder / "ttyINA").unlink(missing_ok=True)
            self.bridge, _ = self.rig.bridge()
            until(lambda: (one := self.rig.shown()) is not None and one.meter.method == "measured", 120.0)
            # Joules come back with it. The first round may have begun before its samples did, on a busy machine.
            until(lambda: self.round()["train_j"] is not None, 120.0)

    def coordinator_restarts(self) -> None:
        """It is killed, and comes back at the same place."""
        self.coordinator.send_signal(signal.SIGKILL)
        self.coordinator.wait()
        self.coordinator = self.rig.serve(self.port)
        until(lambda: (one := self.rig.shown()) is not None and one.state == "present", 90.0)

    def clock_jumps_back(self) -> None:
        """Two years, as of a board without a battery that lost its time."""
        self.clock.write_text(str(-YEARS_S))

    def clock_jumps_forward(self) -> None:
        """The time is right again."""
        self.clock.write_text("0")

    def data_grow(self) -> None:
        """Some examples more."""
        self.grow(self.random.randint(3, 12))

    def round(self) -> dict[str, Any]:
        """One run of a round; what came of it."""
        run_id = begin(self.rig, epochs=2)
        until(lambda: look(self.rig, run_id).is_over, 120.0)
        # Joules of sending come with the next question.
        time.sleep(0.5)
        run = look(self.rig, run_id)
        (device,) = run.rounds[1].devices
        train = next(
            (phase_energy.energy_j for phase_energy in device.energy if phase_energy.phase is Phase.TRAIN), None
        )
        version = run.rounds[1].head_version
        return {
            "state": run.state,
            "outcome": device.outcome,
            "train_j": train,
            "bridge": self.bridge is not None,
            "examples": device.examples,
            "head": version,
        }

    def works_with(self, head: str, give_up_s: float = 30.0) -> bool:
        """Whether the board comes to work with a head of the coordinator's, or says that it keeps a better one."""
        with Operator(self.rig.address) as operator:
            run = operator.runs()[-1]

            def dealt() -> bool:
                last = operator.status(run.run_id)[0].rounds[-1]
                return last.federated is not None and last.federated.adopted + last.federated.kept > 0

            try:
                until(dealt, give_up_s)
            except TimeoutError:
                return False
        with Client(self.rig.folder / "state" / "model.sock") as model:
            return model.info()["version"] is not None

    def load(self) -> dict[str, float]:
        """What the daemon holds now."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        rss_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        state = self.rig.folder / "state"
        return {
            "rss_mb": rss_kb * 1024 / 1e6,
            "files": float(len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))),
            "state_mb": sum(path.stat().st_size for path in state.rglob("*") if path.is_file()) / 1e6,
        }


def lived(folder: Path, bundle: Bundle, hours: int, seed: int = 1) -> dict[str, Any]:
    """A day; what must hold of it, and what was seen."""
    day = _Day(folder, bundle, seed)
    try:
        day.begin()
        happens = _plan(day, hours)
        rows: list[dict[str, Any]] = []
        loads: list[dict[str, float]] = []
        for hour, what in enumerate(happens):
            what()
            rows.append({"hour": hour, "what": getattr(what, "__name__", "?"), **day.round()})
            loads.append(day.load())
            print(json.dumps({**rows[-1], **loads[-1]}), file=sys.stderr, flush=True)
        alive = day.daemon.poll() is None
        delivered = day.works_with(rows[-1]["head"])
        heads = _heads_are_those_of_the_rows(day)
    finally:
        day.rig.close()
    half = loads[len(loads) // 2]
    last = loads[-1]
    return {
        "hours": hours,
        "daemon_alive": alive,
        "rounds_finished": sum(row["state"] == "finished" for row in rows),
        "reports_accepted": sum(row["outcome"] == "accepted" for row in rows),
        "heads_of_the_rows": heads,
        "joules_wrong": sum((row["train_j"] is not None) != row["bridge"] for row in rows),
        "delivered": delivered,
        "restarts_of_the_coordinator": sum(row["what"] == "coordinator_restarts" for row in rows),
        "more_rss_mb": round(last["rss_mb"] - half["rss_mb"], 1),
        "more_files": last["files"] - half["files"],
        "more_state_mb": round(last["state_mb"] - half["state_mb"], 1),
        "log_lines": len(day.rig.log(NAME)),
    }


def _plan(day: _Day, hours: int) -> list[Callable[[], None]]:
    """What happens in which hour: everything that must happen, in an order drawn from the seed, and growth between."""
    must = [day.coordinator_restarts, day.bridge_goes, day.clock_jumps_back, day.bridge_comes,
            day.clock_jumps_forward, day.coordinator_restarts]  # fmt: skip
    more = [day.data_grow] * max(0, hours - len(must))
    places = sorted(day.random.sample(range(len(must) + len(more)), len(must)))
    made: list[Callable[[], None]] = list(more)
    for place, what in zip(places, must, strict=True):
        made.insert(place, what)
    return made


def _heads_are_those_of_the_rows(day: _Day) -> bool:
    """Whether each run's last head is the one that its reports give: a coordinator that was killed folds them again
    from its rows, and its heads are named by their content."""
    before = {}
    with Operator(day.rig.address) as operator:
        for run in operator.runs():
            before[run.run_id] = [this_round.head_version for this_round in operator.status(run.run_id)[0].rounds]
    day.coordinator_restarts()
    with Operator(day.rig.address) as operator:
        after = {run: [each.head_version for each in operator.status(run)[0].rounds] for run in before}
    return before == after and all(heads[-1] != heads[0] for heads in after.values())


def beyond(found: dict[str, Any]) -> list[str]:
    """What does not hold, in words."""
    hours = found["hours"]
    wrong = [name for name in ("daemon_alive", "heads_of_the_rows", "delivered") if not found[name]]
    wrong += [f"{name}: {found[name]} of {hours}" for name in ("rounds_finished", "reports_accepted")
              if found[name] != hours]  # fmt: skip
    if found["joules_wrong"]:
        wrong.append(f"joules where the bridge was away, or none where it was there: {found['joules_wrong']} rounds")
    for name, limit in (("more_rss_mb", MORE_MB), ("more_files", MORE_FILES), ("more_state_mb", MORE_MB)):
        if found[name] > limit:
            wrong.append(f"{name}: {found[name]}, limit {limit}")
    return wrong


def main() -> int:
    """The command: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    parser.add_argument("--hours", type=int, default=HOURS, metavar="N", help=f"hours of the day (default {HOURS})")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--bundle", type=Path, help="what devices train; made if left out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgejoule-soak-") as made:
        folder = Path(made)
        if given.bundle is None:
            from benchmarks.inputs import wide_bundle

            wide_bundle.make(folder / "bundle", 200)
        bundle = open_bundle(given.bundle or folder / "bundle" / "bundle")
        found = lived(folder / "day", bundle, given.hours, given.seed)
    print(json.dumps(found, indent=2))
    if given.json is not None:
        with write_whole(given.json) as file:
            file.write(json.dumps(found, indent=2).encode() + b"\n")
    wrong = beyond(found)
    for text in wrong:
        print(f"soak: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
