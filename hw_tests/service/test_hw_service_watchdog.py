"""A daemon that dies or hangs: systemd starts another, and nothing that was trained is lost."""

from __future__ import annotations

import pytest

from hw_tests.boards.deployed import UNIT, Deployed
from hw_tests.measurements import Measure

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive]

# Shorter than the settings allow, so that the tests need not wait; the daemon's waits are cut into turns of 5 s.
WATCHDOG = "WatchdogSec=12"
# Enough for a round that is still in training when it is looked at, on a fast machine as well.
STEPS = 60_000
TRAINING = f": {STEPS} steps"


def accepted(service: Deployed, name: str) -> list[int]:
    """Rounds of a run whose report the coordinator took, in order."""
    run = service.station.run(name)
    outcomes = [
        (this_round["round"], device["outcome"]) for this_round in run["rounds"] for device in this_round["devices"]
    ]
    return [number for number, outcome in outcomes if outcome == "accepted"]


def test_killed_in_training_it_is_back_and_every_round_is_reported_once(service: Deployed, measure: Measure) -> None:
    service.service("install")
    pid = service.until_joined()
    service.station.start_run(2, steps=STEPS, name="killed")
    service.until(lambda: TRAINING in service.show("StatusText"), "round 1 begins")
    service.board.run("kill", "-9", str(pid))
    died_s = service.until(lambda: service.pid() not in (0, pid), "it is started again")
    measure("started again", died_s, "s", uncertainty=0.3)
    service.until_joined(pid)
    service.until(lambda: service.finished("killed"), "the run ends")
    assert accepted(service, "killed") == [1, 2]
    assert service.show("NRestarts") == "1"
    assert service.show("ActiveState") == "active"


def test_a_report_that_was_not_answered_survives_the_kill_and_the_boot(service: Deployed) -> None:
    service.service("install")
    pid = service.until_joined()
    service.station.start_run(1, steps=STEPS, name="unanswered")
    service.until(lambda: TRAINING in service.show("StatusText"), "round 1 begins")
    with service.station.away():
        outbox = "/var/lib/private/edgejoule/outbox"
        listed = ("find", outbox, "-name", "*.report")
        service.until(lambda: service.board.run(*listed).stdout.strip(), "the report is stored")
        service.board.run("kill", "-9", str(pid))
        service.board.reboot(hard=True)
        assert service.board.run(*listed).stdout.strip()
    service.until(lambda: service.finished("unanswered"), "the run ends")
    assert accepted(service, "unanswered") == [1]
    assert service.board.run(*listed).stdout.strip() == ""


def test_stopped_in_its_tracks_it_is_aborted_by_the_watchdog_and_started_again(
    service: Deployed, measure: Measure
) -> None:
    service.drop_in(WATCHDOG)
    service.service("install")
    pid = service.until_joined()
    assert service.show("WatchdogUSec") == "12s"
    service.board.run("kill", "-STOP", str(pid))
    killed_s = service.until(lambda: service.show("Result") == "watchdog" or service.pid() != pid, "it is aborted")
    measure("until the watchdog bit", killed_s, "s", uncertainty=0.5)
    service.until_joined(pid)
    said = service.board.run("journalctl", "-b", "-u", UNIT, "--no-pager").stdout
    assert "Watchdog timeout" in said
    assert service.show("NRestarts") == "1"


def test_a_daemon_that_only_waits_is_not_taken_for_hung(service: Deployed) -> None:
    service.drop_in(WATCHDOG)
    service.configure(coordinator="127.0.0.1:9")  # nobody listens there
    service.service("install")
    pid = service.pid()
    fed = int(service.show("WatchdogTimestampMonotonic"))
    service.until(lambda: int(service.show("WatchdogTimestampMonotonic")) > fed, "it feeds the watchdog")
    assert service.pid() == pid
    assert service.show("NRestarts") == "0"
