"""A run that is stopped stops the joules: real daemons, on virtual time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from scenario import Board, scenario
from world import Outcome, World

from coordinator.store import reading
from coordinator.store.database import Database, sqlite_url

STOP_S, LATER_S = 8.0, 20.0


class _Stopped(World):
    """Stops the run in the middle of a round of minutes."""

    spent_j: list[list[float]]
    energy: dict[str, tuple[str, float]]
    calls: Counter[str]

    def _happen(self, what: str, number: int) -> None:
        self.spent_j = []
        process = self.process
        assert process is not None
        self.loop.start(process, process.operations.stop_run(next(iter(self._runs))))
        self.loop.call_later(1.0, self._note)
        self.loop.call_later(LATER_S, self._note)

    def _note(self) -> None:
        self.spent_j.append([device.spent[0] for device in self.devices])

    def _is_over(self) -> bool:
        return len(getattr(self, "spent_j", ())) == 2

    def _judged(self, bundle: Any) -> Outcome:
        ((run_id, books),) = self._runs.items()
        db = Database(sqlite_url(self._state / "coordinator.db"))
        with db.reading() as connection:
            devices = reading.run_status(connection, run_id).rounds[1].devices
        db.close()
        self.energy = {
            device.device_id: (
                device.outcome,
                sum(phase.energy_j or 0.0 for phase in device.energy if phase.phase == "train"),
            )
            for device in devices
        }
        return Outcome(0, *books.state(), self.loop.time(), Counter(), Counter(), "")


def test_boards_of_a_stopped_run_end_within_a_second_and_say_what_they_spent(
    plain_bundle: Path, tmp_path: Path
) -> None:
    # 200 and 600 batches of 8 examples, twice: minutes of work.
    made = dataclasses.replace(
        scenario(0), boards=(Board(1600, 0.1), Board(4800, 0.05)), rounds=1, deadline_s=600.0, budget="none",
        network_share=0.0, disk_share=0.0, devices_die=False, events=((STOP_S, "stop the run", 0),), codec="float32",
    )  # fmt: skip
    (tmp_path / "world").mkdir()
    world = _Stopped(0, tmp_path / "world", plain_bundle, made=made)
    outcome = world.run()
    assert outcome.state == "stopped"
    soon, later = world.spent_j
    assert all(value > 0 for value in soon)
    assert soon == later, "nobody trains on"
    for at, spent_j in enumerate(later, start=1):
        told, train_j = world.energy[f"board-{at}"]
        assert told == "late"
        assert abs(train_j - spent_j) < 1e-6, "every joule is in the books"
