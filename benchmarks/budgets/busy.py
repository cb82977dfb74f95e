"""Does a round stay within its joules while other programs use the processor?

    firmware-tools convert wide.keras --calibrate calibration.npz --batch-size 1024 -o BUNDLE/   # of wide_bundle.py
    .venv/bin/python benchmarks/budgets/busy.py --bundle BUNDLE/ --json OUT      # about five minutes

A coordinator, a daemon and a simulated bridge of constant watts, each a process of its own, so that joules are the time
that work takes. Other processes, one for each core, use 0, 50 and 100 % of the processor: at 50 % they work for a while
and rest for a while, so that what a step costs jumps within a round. Every round has the same budget, and a row has the
most that a round spent of it, coding and sending included. The foreign load begins after two calm rounds without a
limit. Coordinator and bridge have a machine of their own in the field: here they come before the other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.device.faults import Rig, until
from coordinator.operator.client import Operator
from protos.atomic import write_whole
from protos.energy.trace import Phase

LOADS = (0, 50, 100)
LIMIT = 1.05
WATTS = 4.0
# Works for a share of its time, in stretches of 0.2 to 1 s that no round is in step with.
_HOG = """
import random, sys, time
share, random = float(sys.argv[1]) / 100, random.Random(int(sys.argv[2]))
while True:
    span = random.uniform(0.4, 2.0)
    end = time.monotonic() + share * span
    while time.monotonic() < end:
        pass
    time.sleep((1 - share) * span)
"""


def spent_of(address: str, run_id: str) -> list[float]:
    """Joules of each round of a run, idling left out, as the coordinator wrote them down."""
    with Operator(address) as operator:
        rounds = operator.status(run_id)[0].rounds
    found = []
    for this_round in rounds[1:]:
        (device,) = this_round.devices
        known = [record.energy_j for record in device.energy if record.phase is not Phase.IDLE]
        assert None not in known, device.energy
        found.append(sum(j for j in known if j is not None))
    return found


def steps_of(address: str, run_id: str) -> list[int]:
    """Steps that were done in each round."""
    with Operator(address) as operator:
        return [this_round.devices[0].steps_done for this_round in operator.status(run_id)[0].rounds[1:]]


def measure(folder: Path, bundle: Path, load: int, rounds: int, budget_j: float) -> dict[str, object]:
    """One row: a fleet of one device under this load."""
    rig = Rig(folder / f"load-{load}", bundle)
    rig.others_first = True
    hogs: list[subprocess.Popen[bytes]] = []
    try:
        rig.serve()
        rig.write_data(2000)
        _, link = rig.bridge()
        rig.device("--sensor", f"serial:{link}", "--board", "pi4")
        until(lambda: (one := rig.shown()) is not None and one.meter.method == "measured")
        # One calm round without a limit: the embeddings are there, and what work costs is known as in any fleet.
        rig.await_run(rig.begin_run(2))
        if load:
            command = [sys.executable, "-c", _HOG, str(load)]
            hogs += [subprocess.Popen([*command, str(seed)]) for seed in range(os.cpu_count() or 1)]
        run_id = rig.begin_run(rounds, f"[budget]\nper_round_j = {budget_j}\n", epochs=10_000)
        until(lambda: rig.state_of(run_id) not in ("waiting", "running"), 600.0)
        # The joules of the last sending come with the next question.
        time.sleep(3.0)
        ratios = np.array(spent_of(rig.address, run_id)) / budget_j
        steps = steps_of(rig.address, run_id)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        rig.close()
    return {
        "foreign_load_percent": load,
        "budget_j": budget_j,
        "rounds": len(ratios),
        "max_of_budget": round(float(ratios.max()), 4),
        "mean_of_budget": round(float(ratios.mean()), 4),
        "over_budget": int((ratios > 1.0).sum()),
        "steps": [min(steps), max(steps)],
        "of_budget": [round(float(ratio), 3) for ratio in ratios],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12, metavar="N")
    parser.add_argument("--budget-j", type=float, default=8.0, metavar="J")
    parser.add_argument("--loads", type=int, nargs="*", default=LOADS, metavar="PERCENT")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows as JSON")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="budget-busy-") as folder:
        for load in options.loads:
            one = measure(Path(folder), options.bundle, load, options.rounds, options.budget_j)
            print(json.dumps(one), flush=True)
            found.append(one)
    if options.json is not None:
        with write_whole(options.json) as file:
            file.write(json.dumps({"limit": LIMIT, "budget": found}, indent=2).encode())
    return 0 if all(float(str(row["max_of_budget"])) <= LIMIT for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
