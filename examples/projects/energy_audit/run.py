"""An energy audit of a program: which of its parts takes the joules, measured by a simulated power bridge.

    python3 examples/projects/energy_audit/run.py
    python3 examples/projects/energy_audit/run.py --sensor serial:/dev/ttyUSB0      # a real one
    python3 examples/projects/energy_audit/run.py -o audit/                         # keeps the recording

The program reads sensor values as text, filters them, and runs a model of matrices over them. Each part is a window of
the meter. A part may be short of work to do (waiting), of memory, or of arithmetic; the table says what each took
beyond the board at rest, and what a leaner form of the dearest part saves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import journey  # noqa: E402

from edge_runtime.api import Meter  # noqa: E402


@contextlib.contextmanager
def simulated_bridge(folder: Path) -> Iterator[str]:
    """An INA219 on a pseudo-terminal, whose load is the processor time of this process on a Pi 4."""
    link = folder / "ttyINA"
    words = ["bridge", "sim", "--board", "pi4", "--pid", str(os.getpid()), "--link", str(link), "--die-with-parent"]
    search = os.pathsep.join(filter(None, (str(journey.ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-m", "firmware_tools.cli", *words],
        stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": search},
    ) as process:  # fmt: skip
        try:
            for _ in range(600):
                if link.exists() or process.poll() is not None:
                    break
                time.sleep(0.05)
            if not link.exists():
                raise SystemExit("the simulated bridge did not start")
            yield f"serial:{link}"
        finally:
            process.terminate()


def parts(rows: int) -> dict[str, Callable[[], object]]:
    """What the program does, by name, and the dearest part in a leaner form."""
    random = np.random.default_rng(0)
    text = "\n".join(",".join(f"{value:.4f}" for value in row) for row in random.normal(size=(rows, 32)))
    values = np.loadtxt(text.splitlines(), delimiter=",")
    layers = [random.normal(size=(256, 256)).astype(np.float32) / 16 for _ in range(8)]
    start = random.normal(size=(rows, 256)).astype(np.float32)

    def read_slowly() -> object:
        return np.array([[float(word) for word in line.split(",")] for line in text.split("\n")])

    def read_at_once() -> object:
        return np.fromstring(text.replace("\n", ","), sep=",", dtype=np.float64).reshape(rows, 32)

    def smooth() -> object:
        return np.apply_along_axis(lambda column: np.convolve(column, np.ones(9) / 9, mode="same"), 0, values)

    def model() -> object:
        x = start
        for layer in layers:
            x = np.maximum(x @ layer, 0)
        return x

    return {
        "wait": lambda: time.sleep(0.02),
        "read": read_slowly,
        "smooth": smooth,
        "model": model,
        "read, leaner": read_at_once,
    }


def main() -> None:
    """Measure every part for the same time, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="keep recording and audit.json there")
    parser.add_argument("--small", action="store_true", help="a second a part in place of four")
    parser.add_argument("--sensor", metavar="SPEC", help="as of edge-runtime; default: a simulated bridge")
    options = parser.parse_args()
    lasts_s, rows = (0.6, 200) if options.small else (4.0, 2000)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(journey.room(options.output))
        sensor = options.sensor or stack.enter_context(simulated_bridge(folder))
        meter = stack.enter_context(Meter(sensor, record=folder / "audit.ejr"))
        with meter.window("rest") as before:
            time.sleep(lasts_s)
        measured = {}
        for name, work in parts(rows).items():
            with meter.window(name) as window:
                times, end_s = 0, time.monotonic() + lasts_s
                while time.monotonic() < end_s:
                    work()
                    times += 1
            measured[name] = window, times
        with meter.window("rest") as after:
            time.sleep(lasts_s)
        print(f"{'part':14}{'times':>7}{'J':>9}{'± J':>7}{'W':>7}{'mJ a time':>11}{'beyond rest, mJ':>17}")
        told = []
        for name, (window, times) in measured.items():
            net = window.net(before, after)
            row = {
                "part": name, "times": times, "energy_j": window.energy_j, "uncertainty_j": window.uncertainty_j,
                "duration_s": window.duration_s, "net_j": net.energy_j, "net_uncertainty_j": net.uncertainty_j,
                "method": window.method, "flags": list(window.flags),
            }  # fmt: skip
            told.append(row)
            if window.energy_j is None or window.uncertainty_j is None or net.energy_j is None:
                print(f"{name:14}{times:>7}  unknown ({', '.join(window.flags)})")
                continue
            print(
                f"{name:14}{times:>7}{window.energy_j:>9.3f}{window.uncertainty_j:>7.3f}"
                f"{window.energy_j / window.duration_s:>7.2f}{1e3 * window.energy_j / times:>11.3f}"
                f"{1e3 * net.energy_j / times:>17.3f}"
            )
        dear, lean = (measured[name] for name in ("read", "read, leaner"))
        if dear[0].energy_j is not None and lean[0].energy_j is not None:
            saved = 1 - (lean[0].energy_j / lean[1]) / (dear[0].energy_j / dear[1])
            print(f"reading at once saves {100 * saved:.0f} % of the joules of reading")
        (folder / "audit.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
