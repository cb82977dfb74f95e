"""The runs of a sweep, one after the other, on a fleet of processes here or on that of a running coordinator."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.lab import shards
from coordinator.lab.demo import when_settled
from coordinator.lab.fleet import FleetPlan, start_coordinator, start_devices
from coordinator.lab.plan_keys import laid_over
from coordinator.lab.processes import Children
from coordinator.lab.sweep.results import Kept, Result, result_of
from coordinator.lab.sweep.sweep_file import Cell, Sweep, Trial
from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus
from protos.errors import CheckFailed, StoreError, UnknownRunError, UnreachableError, UsageError
from protos.model.bundle import open_bundle

__all__ = ["run_sweep"]

_POLL_S = 0.2
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class _Place:
    """Where runs go: a coordinator, the data that plans are judged on, and what must stay alive meanwhile."""

    operator: Operator
    held_out: str | None
    check: Callable[[], None]


def run_sweep(sweep: Sweep, folder: Path, remote: Operator | None) -> list[Result]:
    """Run what has not been run yet; the results of all.

    Args:
        remote: the running coordinator of a sweep without a fleet of its own.

    Raises:
        CheckFailed: a run failed or was stopped; those before it are kept.
        EdgejouleError: as of `start` and of the fleet.
    """
    kept = Kept(folder)
    held_out = str((folder / "fleet" / "data" / "held-out.npz").resolve()) if sweep.fleet is not None else None
    trials = sweep.trials(held_out=held_out)
    for trial in trials:
        kept.plan(trial.slug, trial.plan_toml)
    left = [trial for trial in trials if kept.done(trial.slug, trial.plan_toml) is None]
    if len(left) < len(trials):
        _say(f"{len(trials) - len(left)} of {len(trials)} runs are done already")
    if left:
        with contextlib.ExitStack() as stack:
            if sweep.fleet is not None:
                place = stack.enter_context(_local(sweep, folder))
            else:
                if remote is None:
                    raise UsageError(
                        "has no fleet of its own", where=sweep.name, fix="give sweep.devices and sweep.data"
                    )
                place = _Place(remote, None, lambda: None)
            if sweep.warm_up and not kept.started():
                _warm_up(sweep, place)
            for number, trial in enumerate(left, len(trials) - len(left) + 1):
                result = _one(trial, place, kept, sweep.directory)
                score = "?" if result.final is None else f"{result.final:.4f}"
                spent = "?" if result.energy_j is None else f"{result.energy_j:.3g}"
                _say(f"{number} of {len(trials)}: {trial.cell.name}, seed {trial.seed}: "
                     f"{result.measure} {score}, {spent} J, {result.rounds} rounds")  # fmt: skip
    return [found for trial in trials if (found := kept.done(trial.slug, trial.plan_toml)) is not None]


@contextlib.contextmanager
def _local(sweep: Sweep, folder: Path) -> Iterator[_Place]:
    """A fleet of processes, which lives as long as the block. A sweep that goes on finds its data and its coordinator's
    state as they were."""
    fleet = sweep.fleet
    assert fleet is not None
    place = (folder / "fleet").resolve()
    place.mkdir(exist_ok=True)
    manifest = open_bundle(Path(str(sweep.base["run"]["bundle"]))).manifest
    parts = shards.cut(
        fleet.data, manifest, place / "data", devices=fleet.devices, scheme=fleet.partition, seed=fleet.partition_seed
    )
    _say(f"{parts.account}; {fleet.devices} devices, {fleet.partition}")
    if parts.unlike:
        _say(f"warning: {parts.unlike}")
    # What an earlier start left would be taken for that of this one.
    (place / "coordinator.address").unlink(missing_ok=True)
    for tty in place.glob("devices/*/tty"):
        tty.unlink()
    with Children(place / "logs") as children:
        address = start_coordinator(children, place)
        start_devices(children, place, FleetPlan(fleet.boards, fleet.sensor), parts, address)
        with Operator(address) as operator:
            yield _Place(operator, str(parts.held_out.resolve()), children.check)


def _warm_up(sweep: Sweep, place: _Place) -> None:
    """One round of the first cell that is not counted: devices embed their examples and keep them."""
    _say("warming up: embeddings are made once, and charged to no run")
    cell = sweep.cells[0]
    keys = laid_over(cell.keys, {"run": {"rounds": 1, "deliver": "none"}})
    text = sweep.plan_text(Cell(f"{cell.name}, warming up", keys, cell.values), sweep.seeds[0], place.held_out)
    _finished(place, place.operator.start_run(text, sweep.directory))


def _one(trial: Trial, place: _Place, kept: Kept, directory: Path) -> Result:
    digest = hashlib.sha256(trial.plan_toml.encode()).hexdigest()
    run_id = kept.started().get(digest)
    status = None if run_id is None else _taken_up(place, run_id)
    if status is None:
        run_id = place.operator.start_run(trial.plan_toml, directory)
        kept.start(trial.plan_toml, run_id)
        status = _finished(place, run_id)
    result = result_of(status, cell=trial.cell.name, seed=trial.seed, plan_toml=trial.plan_toml)
    kept.keep(trial.slug, result, status)
    return result


def _taken_up(place: _Place, run_id: str) -> RunStatus | None:
    """A run that was started before this sweep was interrupted, when it is over; None if it must be started anew."""
    try:
        (status,) = place.operator.status(run_id)
    except UnknownRunError:
        return None
    if status.state in ("failed", "stopped"):
        return None
    _say(f"{run_id} was started before, and is waited for")
    return _finished(place, run_id)


def _finished(place: _Place, run_id: str) -> RunStatus:
    """Wait for a run; all of it, with the joules of its last sending. The coordinator, or its
    database, may be away for a while."""
    heard_s = time.monotonic()
    while True:
        place.check()
        try:
            (status,) = place.operator.status(run_id, since_round=1_000_000)
            heard_s = time.monotonic()
            if status.is_over:
                (status,) = place.operator.status(run_id)
                break
        except (UnreachableError, StoreError):
            if time.monotonic() - heard_s >= _PATIENCE_S:
                raise
        time.sleep(_POLL_S)
    if status.state != "finished":
        raise CheckFailed(
            f"the run {status.state}: {status.reason}",
            where=run_id,
            fix="mend it, and sweep again: it goes on from here",
        )
    return when_settled(place.operator, status)


def results_in(folder: Path) -> Sequence[Path]:
    """The files of a sweep's runs."""
    return sorted((folder / "runs").glob("*.json"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
