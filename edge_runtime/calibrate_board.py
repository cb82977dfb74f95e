"""``edge-runtime calibrate-board``: a row of watts for this kind of board, fitted to what its own sensor reads.

The board works with none, one, two ... and all of its cores for some seconds each, up and down again, while the sensor
reads. With b the busy cores that ``/proc/stat`` counted in a stretch, and P its mean watts,

    P = idle + core b

by least squares over all stretches. Counted cores take into account what else runs, and a board that throttles. The
work is a product of float32 matrices on each core, which is what training and a CPU backbone mostly do; other work may
draw more or less. The half width of a figure is two standard errors of the fit and the sensor's own 95 % interval, in
squares.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.config import configured_sensor
from protos.durations import duration_s
from protos.energy.board_file import write_board
from protos.energy.boards import BoardProfile, Figure
from protos.errors import SensorError, StoreError, UsageError

EXAMPLE = """example:
  edge-runtime calibrate-board --sensor serial:/dev/ttyUSB0 --name my-pi4 -o my-pi4.toml

Takes some minutes, in which nothing else should run. Afterwards, on boards of the same kind that have no sensor:
  edge-runtime run --sensor estimate:my-pi4.toml ..."""

# Matrices that fit in the cache of any board's core; each process has one thread.
_SPIN = "import numpy as np\na = np.ones((128, 128), np.float32)\nwhile True: a @ a"
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_SETTLE_S = 0.5
# Less than this of the spread of watts explained by busy cores is no row.
LEAST_EXPLAINED = 0.8
# Nor is a stretch whose samples cover less than this of it.
LEAST_COVERED = 0.9
Load = Callable[[int], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Stretch:
    """Some seconds of steady work.

    Attributes:
        busy: cores at work, CPU seconds a second, of the whole board.
        power_w: mean watts.
        uncertainty_w: half width of its 95 % interval; None when it cannot be bounded.
    """

    busy: float
    power_w: float
    uncertainty_w: float | None


@dataclass(frozen=True)
class Fit:
    """``P = idle_w + core_w b``; half widths are of 95 % intervals, None where the sensor's cannot be bounded.

    Attributes:
        explained: share of the spread of watts that busy cores explain, 0 to 1.
    """

    idle_w: float
    core_w: float
    idle_half_w: float | None
    core_half_w: float | None
    explained: float


def fit(stretches: Sequence[Stretch]) -> Fit:
    """The line through all stretches.

    Raises:
        SensorError: the watts do not rise with work, so that the sensor does not see this board.

    >>> fit([Stretch(0.0, 2.0, 0.0), Stretch(1.0, 3.0, 0.0), Stretch(2.0, 4.0, 0.0)]).core_w
    1.0
    """
    count = len(stretches)
    busy_mean = sum(stretch.busy for stretch in stretches) / count
    power_mean = sum(stretch.power_w for stretch in stretches) / count
    spread = sum((stretch.busy - busy_mean) ** 2 for stretch in stretches)
    together = sum((stretch.busy - busy_mean) * (stretch.power_w - power_mean) for stretch in stretches)
    core_w = together / spread if spread > 0 else 0.0
    idle_w = power_mean - core_w * busy_mean
    rest = sum((stretch.power_w - idle_w - core_w * stretch.busy) ** 2 for stretch in stretches)
    all_of_it = sum((stretch.power_w - power_mean) ** 2 for stretch in stretches)
    explained = 1.0 - rest / all_of_it if all_of_it > 0 else 0.0
    if core_w <= 0 or idle_w <= 0 or explained < LEAST_EXPLAINED:
        raise SensorError(
            f"watts do not follow work: {idle_w:.2f} W + {core_w:.2f} W a core explains {explained:.0%} of them",
            where="calibrate-board",
            fix="put the sensor into the supply of this board, and stop other programs",
        )
    variance = rest / (count - 2) if count > 2 else 0.0
    noise_core = 2.0 * math.sqrt(variance / spread)
    noise_idle = 2.0 * math.sqrt(variance * (1.0 / count + busy_mean**2 / spread))
    known = [stretch.uncertainty_w for stretch in stretches]
    if any(value is None for value in known):
        return Fit(idle_w, core_w, None, None, explained)
    # Errors of a sensor are alike in all stretches: of gain above all, so they scale idle and slope.
    share = max(half / stretch.power_w for half, stretch in zip(known, stretches, strict=True) if half is not None)
    halves = math.hypot(noise_idle, share * idle_w), math.hypot(noise_core, share * core_w)
    return Fit(idle_w, core_w, *halves, explained)


@contextlib.contextmanager
def spinning(cores: int) -> Iterator[tuple[int, ...]]:
    """So many processes at work, each on one core, by their ids; they are gone afterwards."""
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(cores):
            workers.append(subprocess.Popen([sys.executable, "-c", _SPIN], env={**os.environ, **_ONE_THREAD}))
        yield tuple(worker.pid for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()


def busy_ticks(proc: Path) -> tuple[int, int]:
    """Busy ticks of all cores since the start of the machine, and all ticks; see proc(5).

    Raises:
        SensorError: the machine does not tell.
    """
    try:
        with (proc / "stat").open() as file:
            words = file.readline().split()
        ticks = [int(word) for word in words[1:9]]
    except (OSError, ValueError) as error:
        raise SensorError("busy cores are not told here", where=str(proc / "stat"), fix="run on Linux") from error
    total = sum(ticks)
    return total - ticks[3] - ticks[4], total


def measured(spec: str, cores: int, seconds: float, load: Load, proc: Path) -> list[Stretch]:
    """Stretches with 0, 1 ... all cores at work, and back down, so that a board that warms up is seen both ways.

    Raises:
        SensorError: see :func:`edge_runtime.power.sensor_factory.open_meter`; or a stretch has no figure.
    """
    from edge_runtime.power.sensor_factory import open_meter
    from protos.energy.trace import Phase

    stretches = []
    meter = open_meter(spec)
    meter.start()
    try:
        for count in (*range(cores + 1), *range(cores, -1, -1)):
            with load(count):
                time.sleep(min(_SETTLE_S, seconds))
                meter.settle(0.0)
                before = busy_ticks(proc)
                meter.mark(Phase.TRAIN)
                time.sleep(seconds)
                meter.mark(Phase.IDLE)
                after = busy_ticks(proc)
                # The sample that the stretch ends in must not see the work end.
                time.sleep(min(_SETTLE_S, seconds))
            record = next(
                (phase_energy for phase_energy in meter.settle(2.0) if phase_energy.phase is Phase.TRAIN), None
            )
            if record is None or record.energy_j is None or record.coverage < LEAST_COVERED:
                raise SensorError("a stretch has no joules", where=spec, fix="see edge-runtime doctor")
            length_s, half_j = record.covered_s + record.uncovered_s, record.uncertainty_j
            passed = after[1] - before[1]
            busy = cores * (after[0] - before[0]) / passed if passed > 0 else float(count)
            half_w = None if half_j is None else half_j / length_s
            stretches.append(Stretch(busy, record.energy_j / length_s, half_w))
    finally:
        meter.close()
    return stretches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the options on a parser."""
    parser.add_argument("--sensor", metavar="SPEC", help="what measures (or EDGEJOULE_SENSOR, or --config)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings that name the sensor")
    parser.add_argument("--name", required=True, help="what to call this kind of board")
    parser.add_argument("-o", "--output", metavar="FILE.toml", type=Path, required=True, help="which must be new")
    parser.add_argument("--for", dest="period", metavar="TIME", default="15s", help="of each stretch (default 15s)")
    parser.add_argument("--supply-v", type=float, default=5.1, metavar="V", help="nominal supply (default 5.1)")
    parser.add_argument("--shunt-ohm", type=float, default=0.02, metavar="OHM", help="that suits it (default 0.02)")
    parser.add_argument("--kind", choices=("dc", "wall"), default="dc", help="where the sensor is (default dc)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def run(given: argparse.Namespace, *, load: Load = spinning, proc: Path = Path("/proc")) -> int:
    """Measure, fit, write.

    Raises:
        UsageError: no sensor that measures, or the file is there; SensorError: see above; StoreError: not written.
    """
    from edge_runtime.power.options import split
    from protos.commands.json_document import document

    spec = given.sensor or configured_sensor(os.environ, given.config)
    if spec is None or split(spec)[0] in ("none", "estimate", "replay", "rapl"):
        what = "rapl sees the processor alone" if spec and spec.startswith("rapl") else "a row of watts needs a sensor"
        fix = "name one in the board's supply, such as serial:/dev/ttyUSB0"
        raise UsageError(f"{what}, not {spec or 'none'}", where="--sensor", fix=fix)
    if given.output.exists():
        raise StoreError("is there already", where=str(given.output), fix="give another name, or remove it")
    cores = os.cpu_count() or 1
    stretches = measured(spec, cores, duration_s(given.period, "--for", most_s=3600.0), load, proc)
    found = fit(stretches)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    source = f"calibrate-board with {split(spec)[0]}, {today}: {len(stretches)} stretches of {given.period}"
    profile = BoardProfile(
        given.name,
        Figure(round(found.idle_w, 4), given.kind, f"{source}; idle, with what was plugged in"),
        Figure(round(found.core_w, 4), given.kind, f"{source}; slope over busy cores"),
        cores, given.supply_v, given.shunt_ohm,
    )  # fmt: skip
    write_board(given.output, profile)
    if given.json:
        rows = [dataclasses.asdict(stretch) for stretch in stretches]
        print(
            json.dumps(document("board", {"file": str(given.output), **dataclasses.asdict(found), "stretches": rows}))
        )
        return 0

    def half(value: float | None) -> str:
        return "± ?" if value is None else f"± {value:.3f}"

    print(f"idle       {found.idle_w:.3f} W {half(found.idle_half_w)}")
    print(f"a core     {found.core_w:.3f} W {half(found.core_half_w)}")
    print(f"explained  {100 * found.explained:.1f} % of the spread of {len(stretches)} stretches")
    print(f"written    {given.output}: use it as --sensor estimate:{given.output}")
    return 0
