"""A board that boots without its power bridge: it joins with joules unknown, and measures when somebody plugs it in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from hw_tests.boards.deployed import ENVIRONMENT, Deployed
from hw_tests.measurements import Measure

pytestmark = [pytest.mark.needs("board", "systemd"), pytest.mark.destructive, pytest.mark.sim_only]

# A name that udev would give: it is there as long as the bridge is plugged in.
PORT = "/dev/serial/by-id/usb-edgejoule_bridge"
BRIDGE = "simulated-bridge.service"
DEVICE = "board-1"
SHORT_S, LONG_S = 60, 600
# A soak of so long asks for the long way.
ASKED_S = 300


def _shown(service: Deployed) -> dict[str, Any]:
    return next((device for device in service.station.devices() if device["device_id"] == DEVICE), {})


def _method(service: Deployed) -> str:
    """How the coordinator says that this board knows its joules; empty while it is away."""
    found = _shown(service)
    return str(found["meter"]["method"]) if found.get("state") == "present" else ""


def _plug_in(service: Deployed) -> None:
    board = service.board
    board.run("mkdir", "-p", PORT.rpartition("/")[0])
    program = f"{ENVIRONMENT}/bin/firmware-tools"
    words = ("bridge", "sim", "--load", "constant:4.0", "--link", PORT)
    board.run("systemd-run", f"--unit={BRIDGE}", "--collect", program, *words)
    service.until(lambda: service.exists(PORT), "the port is there")
    # udev would give it to the group dialout.
    board.run("sh", "-c", f"chmod 666 $(readlink -f {PORT})")


def _pull_out(service: Deployed) -> None:
    service.board.run("systemctl", "stop", BRIDGE, check=False)
    service.until(lambda: not service.exists(PORT), "the port is gone")


@pytest.fixture
def unplugged(service: Deployed) -> Iterator[Deployed]:
    """The service, set up for a bridge that is not there."""
    service.configure(sensor=f"serial:{PORT}")
    # Ports of the box are pseudo-terminals; those of real bridges are in the unit.
    service.drop_in("DeviceAllow=char-pts rw")
    yield service
    _pull_out(service)


@pytest.mark.slow
def test_absent_at_boot_it_is_unknown_and_plugged_in_it_measures_without_a_restart(
    unplugged: Deployed, measure: Measure, request: pytest.FixtureRequest
) -> None:
    """The bridge is away for ten minutes, or for a minute where the soak is cut shorter."""
    service = unplugged
    asked_s = request.config.getoption("--hw-soak-s")
    away_s = LONG_S if asked_s is None or asked_s >= ASKED_S else SHORT_S
    service.service("install")
    before = service.until_joined()
    service.board.reboot()
    pid = service.until_joined(before)
    service.until(lambda: _method(service) == "unknown", "it has joined with joules unknown")
    assert "no such serial port" in _shown(service)["reason"]
    service.station.start_run(1, steps=20, name="without")
    service.until(lambda: service.finished("without"), "a run without joules ends")
    service.board.run("sleep", str(away_s), timeout_s=away_s + 60.0)
    measure("bridge away after the boot", away_s, "s")
    assert (service.pid(), service.show("NRestarts"), service.show("ActiveState")) == (pid, "0", "active")
    told = [one for one in service.journal("-b") if PORT in str(one["MESSAGE"])]
    measure("lines about the missing port", len(told), "1", limit=(1, 5))
    for name in ("plugged", "again"):
        _plug_in(service)
        took_s = service.until(lambda: _method(service) == "measured", "it measures")
        measure(f"until it measures, {name}", took_s, "s", uncertainty=0.5)
        service.station.start_run(1, steps=20, name=name)
        service.until(partial(service.finished, name), "a run with joules ends")
        (device,) = service.station.run(name)["rounds"][-1]["devices"]
        assert device["energy"]["train"]["method"] == "measured"
        _pull_out(service)
        service.until(lambda: _method(service) == "unknown", "it tells that the bridge is gone")
    assert service.pid() == pid
    assert service.show("NRestarts") == "0"
