"""One federated round: the coordinator runs natively on this machine, the device is any command that is handed in.

What comes back is what another device must agree with: the embeddings, the head after the round, and its accuracy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from protos.update.trees import Tree

ROOT = Path(__file__).resolve().parents[2]
DEVICE_ID = "pi-zero-2"
# An emulated machine on a busy one; only a safety net.
PATIENCE_S = 900.0
_PLAN = """
[run]
bundle = "bundle"
name = "arm"
rounds = {rounds}
seed = 7
[round]
devices = 1
quorum = 1.0
deadline_s = {deadline_s}
[train]
epochs = {epochs}
rate = 0.05
[update]
codec = "float32"
[evaluate]
data = "held-out.npz"
"""


@dataclass(frozen=True)
class Coordinator:
    """A coordinator that serves now."""

    address: str
    state: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def begin(self, workload: Path, *, rounds: int = 1, epochs: int = 3) -> str:
        """Start a run of the bundle in ``workload``; its id."""
        plan = _PLAN.format(rounds=rounds, epochs=epochs, deadline_s=int(PATIENCE_S))
        with Operator(self.address) as operator:
            return operator.start_run(plan, workload)

    def finished(self, run_id: str, *, timeout_s: float = PATIENCE_S) -> RunStatus:
        """The run when it is over."""
        end_s = time.monotonic() + timeout_s
        with Operator(self.address) as operator:
            while not (status := operator.status(run_id)[0]).is_over:
                if time.monotonic() > end_s:
                    raise TimeoutError(f"the run was not over after {timeout_s:.0f} s: {status}")
                time.sleep(0.2)
        return status


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        head: after the last round.
        embeddings: the device's cache file, or None where it cannot be reached.
        steps: that the device did, by round from 1 on.
        embedded: examples, likewise.
    """

    status: RunStatus
    head: Tree
    embeddings: bytes | None
    steps: tuple[int, ...]
    embedded: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Of the last head on held-out data, 0 to 1."""
        found = self.status.rounds[-1].accuracy
        assert found is not None, "the plan evaluates each round"
        return found


@contextlib.contextmanager
def coordinating(folder: Path) -> Iterator[Coordinator]:
    """``coordinator serve`` on a free port, ended afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    ready, state = folder / "ready", folder / "coordinator"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", state, "--listen", "127.0.0.1:0",
               "--ready-file", ready]  # fmt: skip
    with (folder / "coordinator.log").open("wb") as log:
        process = subprocess.Popen([str(one) for one in command], stdout=log, stderr=log, cwd=ROOT, env=plain_environ())
    try:
        end_s = time.monotonic() + 120.0
        while not (ready.exists() and ready.read_text().strip()):
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"no coordinator: {(folder / 'coordinator.log').read_text()[-500:]}")
            time.sleep(0.05)
        yield Coordinator(ready.read_text().strip(), state)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def plain_environ() -> dict[str, str]:
    """This process's variables without our settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGEJOULE_")}


def head_of(state: Path, status: RunStatus) -> Tree:
    """The newest head of a run; its coordinator must have ended."""
    with contextlib.closing(Database(sqlite_url(state / "coordinator.db"))) as db, db.reading() as connection:
        return heads.get(connection, status.rounds[-1].head_version)


def play(
    folder: Path, workload: Path, device: Sequence[str | Path], environ: Mapping[str, str], *, epochs: int = 3
) -> Outcome:
    """One round with one device.

    Args:
        folder: for state and logs.
        workload: what ``benchmarks/inputs/wide_bundle.py`` made.
        device: the command that stands for ``edge-runtime``.
        environ: of the device.
    """
    with coordinating(folder) as coordinator:
        run_id = coordinator.begin(workload, epochs=epochs)
        options = ["--coordinator", coordinator.address, "--device-id", DEVICE_ID, "--data", workload / "device.npz",
                   "--sensor", "estimate:pi-zero-2", "--state", folder / "device", "--max-rounds", "1",
                   "--wait-for-coordinator", "120", "--exit-when-idle", "300"]  # fmt: skip
        command = [str(option) for option in (*device, "run", *options)]
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        (folder / "device.log").write_text(done.stderr)
        if done.returncode:
            raise RuntimeError(f"the device ended with {done.returncode}: {done.stderr[-1500:]}")
        status = coordinator.finished(run_id)
    return outcome(folder, status, sorted((folder / "device/embeddings").glob("*/embeddings.npy")))


def outcome(folder: Path, status: RunStatus, caches: Sequence[Path] = ()) -> Outcome:
    """What a finished run left in ``folder/coordinator``; ``caches`` are the device's embeddings."""
    if status.state != "finished":
        raise RuntimeError(f"the run is {status.state}: {status.reason}")
    (embeddings,) = (path.read_bytes() for path in caches) if caches else (None,)
    worked = [this_round.devices[0] for this_round in status.rounds if this_round.devices]
    return Outcome(
        status,
        head_of(folder / "coordinator", status),
        embeddings,
        tuple(device.steps_done for device in worked),
        tuple(device.embedded for device in worked),
    )


@dataclass(frozen=True)
class Closeness:
    """Two heads compared, number by number. ``largest_ulp`` counts representable float32 numbers between them."""

    numbers: int
    unequal: int
    largest_ulp: int
    largest: float

    def as_row(self) -> str:
        """In words."""
        if not self.unequal:
            return f"bit-equal ({self.numbers} numbers)"
        # Numbers on both sides of zero are near, and yet many representable ones apart.
        ulp = f" ({self.largest_ulp} ulp)" if self.largest_ulp < 1 << 16 else ""
        return f"{self.unequal} of {self.numbers} differ, by {self.largest:.2g} at most{ulp}"


def compare(one: Tree, other: Tree) -> Closeness:
    """How far two heads are from each other."""
    first, second = (np.concatenate([tree[name].ravel() for name in sorted(tree)]) for tree in (one, other))
    # Bit patterns of float32 in the order of the numbers: negative ones run backwards.
    ranks = [
        np.where(bits < 0, np.int64(-(2**31)) - bits, bits)
        for bits in (value.astype(np.float32).view(np.int32).astype(np.int64) for value in (first, second))
    ]
    apart = np.abs(ranks[0] - ranks[1])
    return Closeness(len(first), int((apart > 0).sum()), int(apart.max()), float(np.abs(first - second).max()))
