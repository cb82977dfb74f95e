"""Memory of the device daemon: 5,000 examples with embeddings 1,024 wide, phase by phase.

    .venv/bin/python benchmarks/memory.py --json OUT            # half a minute
    .venv/bin/python benchmarks/memory.py --json OUT --quick    # 500 examples

A coordinator serves on loopback, and the daemon is started twice in a process of its own: once with nothing, so that it
fetches the bundle and embeds all examples, and once on the embeddings that the first left on disk. Each row is the
highest resident memory of one phase (VmHWM of proc(5), set back when the phase begins), and what of the resident memory
at its end no file stands behind. It is the daemon as users run it; only the meter that it opens is wrapped, since the
daemon tells its meter where each phase begins. Exit code 1 when any phase takes more than the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 150.0
EXAMPLES, QUICK_EXAMPLES, EPOCHS = 5000, 500, 4
_PATIENCE_S = 600.0
_CHILD = "--child"
# A phase that the meter is told of, and what it is called here. Idling and sending come after the work.
_PHASES = {"embed": "embedding", "train": "training", "encode": "encoding", "idle": "settling", "send": "sending"}
_PLAN = """
[run]
bundle = "bundle"
name = "memory"
rounds = 1
[round]
devices = 1
deadline_s = {deadline_s}
[train]
epochs = {epochs}
rate = 0.05
"""


@dataclass(frozen=True)
class Row:
    """One phase of one start of the daemon; memory in 10^6 bytes."""

    start: str
    phase: str
    peak_mb: float
    anonymous_mb: float


def main() -> int:
    """The command: see the module."""
    if _CHILD in sys.argv[1:]:
        return _child(json.loads(sys.argv[-1]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EXAMPLES} examples")
    given = parser.parse_args()
    examples = QUICK_EXAMPLES if given.quick else EXAMPLES
    from protos.errors import EdgejouleError

    try:
        with tempfile.TemporaryDirectory(prefix="edgejoule-memory-") as folder:
            rows = list(measure(Path(folder), examples))
    except EdgejouleError as error:
        print(f"memory: {error}", file=sys.stderr)
        return error.exit_code
    worst = max(row.peak_mb for row in rows)
    print(f"{examples} examples, embeddings 1,024 wide; resident memory, MB\n")
    print("| start | phase | peak | anonymous at its end |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.start} | {row.phase} | {row.peak_mb:.1f} | {row.anonymous_mb:.1f} |")
    print(f"\nhighest {worst:.1f} MB, limit {LIMIT_MB:g} MB")
    if given.json:
        figures: dict[str, Any] = {"examples": examples, "width": 1024, "highest_mb": worst, "limit_mb": LIMIT_MB}
        given.json.write_text(json.dumps({**figures, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if worst > LIMIT_MB:
        print(f"memory: over the limit by {worst - LIMIT_MB:.1f} MB", file=sys.stderr)
        return 1
    return 0


def measure(folder: Path, examples: int) -> Iterator[Row]:
    """Both starts of the daemon, all in ``folder``.

    Raises:
        EdgejouleError: a program ended by itself, or did not end in time.
        SystemExit: no bundle can be made.
    """
    from benchmarks.inputs import wide_bundle
    from coordinator.lab.processes import Children
    from coordinator.operator.client import Operator
    from protos.errors import WaitExpired

    print("making a bundle and data", file=sys.stderr, flush=True)
    wide_bundle.make(folder, examples)
    plan = _PLAN.format(deadline_s=int(_PATIENCE_S), epochs=EPOCHS)
    with Children(folder / "logs") as children:
        ready = folder / "ready"
        serve = ["serve", "--state", folder / "coordinator", "--listen", "127.0.0.1:0", "--ready-file", ready]
        children.start("coordinator", "coordinator.cli", serve, order=1)
        children.wait_for(ready, what="the coordinator", timeout_s=120.0)
        address = ready.read_text().strip()
        for start in ("first", "cached"):
            print(f"{start} start of the daemon", file=sys.stderr, flush=True)
            with Operator(address) as operator:
                run_id = operator.start_run(plan, folder)
                yield from _started(folder, address, start)
                end_s = time.monotonic() + 60.0
                while not (status := operator.status(run_id)[0]).is_over:
                    if time.monotonic() > end_s:
                        raise WaitExpired("the round did not close", where=start, fix=f"see {folder / 'logs'}")
                    time.sleep(0.1)
            embedded = status.rounds[-1].devices[0].embedded
            steps = status.rounds[-1].devices[0].steps_done
            assert steps == -(-examples // 32) * EPOCHS, f"the round was cut short: {steps} steps"
            assert embedded == (examples if start == "first" else 0), f"{embedded} examples were embedded"


def _started(folder: Path, address: str, start: str) -> list[Row]:
    flags = {
        "coordinator": address, "device_id": "pi-zero-2", "data": str(folder / "device.npz"), "max_rounds": "1",
        "state": str(folder / "device"), "sensor": "estimate:pi-zero-2", "exit_when_idle_s": "300",
    }  # fmt: skip
    command = [sys.executable, __file__, _CHILD, json.dumps(flags)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        from protos.errors import WaitExpired

        raise WaitExpired(f"the daemon did no round in {_PATIENCE_S:.0f} s", where=start) from None
    if done.returncode:
        from protos.errors import CheckFailed

        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CheckFailed(f"the daemon ended with {done.returncode}: {last[:300]}", where=start)
    return [Row(start, **json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def _child(flags: dict[str, str]) -> int:
    """The daemon's process. Nothing is imported before it that the daemon does not import."""
    import edge_runtime.daemon.device
    from edge_runtime.board import status_bytes
    from edge_runtime.config import resolve
    from edge_runtime.daemon import process as daemon
    from protos.model.engine import engine_identity

    def close(phase: str) -> None:
        """Tell the peak since the last call, and begin another."""
        row = {"phase": phase, "peak_mb": status_bytes("VmHWM") / 1e6, "anonymous_mb": status_bytes("RssAnon") / 1e6}
        print(json.dumps(row), flush=True)
        Path("/proc/self/clear_refs").write_text("5")

    class Watched:
        """A meter that looks at memory where a phase ends."""

        def __init__(self, meter: Any) -> None:
            self._meter, self._phase, self._arriving = meter, "", False

        def __getattr__(self, name: str) -> Any:
            return getattr(self._meter, name)

        def mark(self, phase: Any) -> None:
            arriving, self._arriving = self._arriving, str(phase) == "receive"
            if self._arriving or (arriving and str(phase) == "idle"):
                # What comes in belongs to what is done besides.
                self._meter.mark(phase)
                return
            name = _PHASES[str(phase)]
            if name == "training" and self._phase in ("", "settling"):
                # Before the embeddings: the ordered head, which may come as differences from one that is held.
                name = "taking the head"
            if name != self._phase:
                close(self._phase or "opening, joining, fetching")
                self._phase = name
            self._meter.mark(phase)

    opened = edge_runtime.daemon.device.open_meter_late
    edge_runtime.daemon.device.open_meter_late = lambda *given, **more: Watched(opened(*given, **more))
    close("start, everything imported")
    engine_identity()
    close("engine loaded")
    settings = resolve(flags, {}, None).settings
    daemon.run(settings)
    close("the rest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
