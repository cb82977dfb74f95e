"""Trackers with the interface of Weights & Biases: trackio, which keeps all on this machine, and wandb itself, offline.

What wandb wrote is sent by whoever wants that, with `wandb sync FOLDER/wandb/offline-run-*`: an export sends nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from coordinator.results.figures import RunFigures
from protos.errors import UsageError

__all__ = ["write_trackio", "write_wandb"]

PROJECT = "edgejoule"


def write_trackio(found: RunFigures, folder: Path) -> list[Path]:
    """Add a run to trackio's database in ``folder``, as ``trackio.log`` would have while it went on; the paths.

    `TRACKIO_DIR=FOLDER trackio show` shows it.

    Raises:
        UsageError: the run is in it already: trackio would have each of its rounds twice.
    """
    name = f"{found.run.name} {found.run.run_id}"
    with _variables(TRACKIO_DIR=str(folder.resolve())):
        from trackio.sqlite_storage import SQLiteStorage

        if name in SQLiteStorage.get_runs(PROJECT):
            raise UsageError("is there already", where=f"{folder}: {name}", fix="choose another -o")
        settings = {**found.settings, "_Username": "", "_Created": _iso(found.run.started_unix_s)}
        SQLiteStorage.bulk_log(
            project=PROJECT,
            run=name,
            metrics_list=[dict(this_round.figures) for this_round in found.rounds],
            steps=[this_round.round for this_round in found.rounds],
            timestamps=[_iso(this_round.at_unix_s) for this_round in found.rounds],
            config=settings,
        )
    return sorted(path for path in folder.iterdir() if path.suffix == ".db")


def write_wandb(found: RunFigures, folder: Path) -> list[Path]:
    """Write a run as wandb does without a network, below ``folder/wandb``; the paths."""
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=found.run.name,
        id=found.run.run_id,
        config=dict(found.settings),
        dir=str(folder),
        mode="offline",
        settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True, disable_code=True),
    )
    # The time at which a round closed is its "_timestamp".
    for this_round in found.rounds:
        run.log({**this_round.figures, "_timestamp": this_round.at_unix_s}, step=this_round.round)
    run.finish()
    return sorted((folder / "wandb").glob(f"offline-run-*-{found.run.run_id}"))


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
