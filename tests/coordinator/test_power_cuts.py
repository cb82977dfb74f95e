"""The power goes, and the disk loses or reorders what was not synced: what was acknowledged is there."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from free_ports import free_port
from killed_anywhere import missing
from plain_bundle import make_plain_bundle
from power_cuts import TRACE, Step, cuts, steps_of
from scripted_device import ScriptedDevice
from warm_coordinator import WarmCoordinators

from coordinator.operator.client import Operator
from coordinator.store.backup import DATABASE
from protos.orders import Verdict

pytestmark = pytest.mark.processes
ROUNDS, CUTS = 4, 200


@dataclass
class Played:
    """What a coordinator did to its files, and by when it had acknowledged which reports, by round and device."""

    steps: list[Step]
    told: list[tuple[float, tuple[int, str]]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    if (why := missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("power")
    bundle = make_plain_bundle(folder / "plain")
    warm, address = WarmCoordinators(), f"127.0.0.1:{free_port()}"
    devices = [ScriptedDevice(address, name) for name in "ab"]
    told = []
    try:
        arguments = ["serve", "--state", str(folder / "state"), "--listen", address]
        pid = warm.start(arguments, folder / "log", ["-o", str(folder / "calls"), *TRACE])
        for device in devices:
            device.join()
        plan = f'[run]\nbundle = "{bundle}"\nname = "power"\nrounds = {ROUNDS}\n'
        plan += "[round]\ndevices = 2\n[train]\nepochs = 1\n"
        with Operator(address) as operator:
            run_id = operator.start_run(plan, folder)
            for number in range(1, ROUNDS + 1):
                for device, order in [(device, device.order(number)) for device in devices]:
                    assert device.send(device.answer(order, 0.5 * number)).verdict is Verdict.ACCEPTED
                    told.append((time.time(), (number, device.card.device_id)))
            until_s = time.monotonic() + 60
            while not operator.status(run_id)[0].is_over and time.monotonic() < until_s:
                time.sleep(0.05)
        warm.end(pid)
    finally:
        for device in devices:
            device.close()
        warm.close()
    return Played(steps_of(folder / "calls", DATABASE), told)


def _lost(played: Played, folder: Path, *, syncs: bool) -> list[str]:
    """What is wrong after cuts, in words."""
    wrong = []
    for number, (at_s, files) in enumerate(cuts(played.steps, random.Random(7), CUTS, syncs=syncs)):
        (folder / f"{number}").mkdir()
        for name, data in files.items():
            # The other file of a log in shared memory is made anew.
            if not name.endswith("-shm"):
                (folder / f"{number}" / name).write_bytes(data)
        acknowledged = {key for told_s, key in played.told if told_s <= at_s}
        try:
            with closing(sqlite3.connect(folder / f"{number}" / DATABASE)) as connection:
                (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
                there = set(connection.execute("SELECT round, device_id FROM reports")) if acknowledged else set()
                closed = "SELECT count(*) FROM rounds WHERE head_version NOT IN (SELECT version FROM heads)"
                (headless,) = connection.execute(closed).fetchone() if acknowledged else (0,)
        except sqlite3.Error as error:
            wrong.append(f"cut {number}: {error}")
            continue
        if sound != "ok" or headless or acknowledged - there:
            wrong.append(f"cut {number}: {sound}, {headless} without a head, lost {sorted(acknowledged - there)}")
    return wrong


def test_after_a_power_cut_what_was_acknowledged_is_there_and_fits_together(played: Played, tmp_path: Path) -> None:
    assert sum(step.write is None and not step.removes for step in played.steps) > ROUNDS, "nothing was synced"
    assert len(played.told) == 2 * ROUNDS
    assert _lost(played, tmp_path, syncs=True) == []


def test_with_a_disk_that_lies_of_its_syncs_the_cuts_find_it(played: Played, tmp_path: Path) -> None:
    assert _lost(played, tmp_path, syncs=False) != []
