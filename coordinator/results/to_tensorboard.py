"""TensorBoard: one folder of event files for each run; figures of a round at its number and the time it closed.

TensorBoard keeps figures as float32: seven digits.
"""

from __future__ import annotations

from pathlib import Path

from coordinator.results.figures import RunFigures

__all__ = ["write"]


def write(found: RunFigures, folder: Path) -> list[Path]:
    """Write the event files of a run below ``folder``; the paths."""
    from tensorboardX import SummaryWriter

    made = folder / found.run.run_id
    with SummaryWriter(str(made), write_to_disk=True) as writer:
        for this_round in found.rounds:
            for name, value in this_round.figures.items():
                writer.add_scalar(name.replace(".", "/"), value, this_round.round, walltime=this_round.at_unix_s)
        at_s = found.run.started_unix_s
        writer.add_text("plan", f"```toml\n{found.details.plan_toml}\n```", 0, walltime=at_s)
    return sorted(made.iterdir())
