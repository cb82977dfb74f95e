"""Opening a bridge: its options, the handshake, the first samples, and a clear error for whatever is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_runtime.power.bridge.samples import CAPACITY
from edge_runtime.power.bridge.sensor import BridgeSensor
from edge_runtime.power.bridge.session import BridgeRequest
from edge_runtime.power.clock import Clock
from edge_runtime.power.options import bus_ppm, choice, ohms, refuse_others, whole
from protos.bridge.commands import Command
from protos.bridge.hello import MAX_SENSORS, PROTOCOL
from protos.bridge.line import Opener, SerialTransport
from protos.energy.ina219 import PROFILES
from protos.errors import SensorError

__all__ = ["RANGES", "bridge_sensor"]

HELLO_WAIT_S = 4.0
SAMPLE_WAIT_S = 3.0
# A busy board may leave the reader without a core for seconds; an answer ends the wait at once.
SETTING_WAIT_S = 10.0
RANGES = {"40mV": 0, "80mV": 1, "160mV": 2, "320mV": 3}
"""Range of the shunt voltage by name: its PGA code."""


def bridge_sensor(
    path: str,
    options: Mapping[str, str],
    clock: Clock,
    *,
    opener: Opener = SerialTransport,
    hello_wait_s: float = HELLO_WAIT_S,
    capacity: int = CAPACITY,
) -> BridgeSensor:
    """The sensor of ``serial:PATH?OPTIONS``, not open yet.

    Its ``open`` waits for HELLO, for the settings asked for and for the first sample, and raises SensorError when the
    port does not open; nobody, or somebody else, answers within ``hello_wait_s``; the bridge speaks another major
    version; it has no such sensor; nobody told it or us the shunt; it does not take a setting; the sensor gives no
    sample.

    Raises:
        UsageError: an option that is not known or not in range.
    """
    refuse_others(options, ("sensor", "shunt", "profile", "range", "bus_ppm"))
    profile = choice(options, "profile", PROFILES)
    wanted = BridgeRequest(profile, choice(options, "range", RANGES), ohms(options, "shunt"), bus_ppm(options))
    index = whole(options, "sensor", 0, MAX_SENSORS - 1) or 0
    return BridgeSensor(
        path,
        sensor=index,
        clock=clock,
        wanted=wanted,
        opener=opener,
        capacity=capacity,
        handshake=lambda sensor: _shake_hands(sensor, hello_wait_s),
    )


def _shake_hands(bridge: BridgeSensor, hello_wait_s: float) -> None:
    session, path = bridge.session, bridge.path
    _wait(bridge, hello_wait_s, lambda: session.hello is not None or session.incompatible is not None)
    if session.incompatible is not None:
        major, minor = session.incompatible
        raise SensorError(
            f"the bridge speaks protocol {major}.{minor}, this program speaks {PROTOCOL[0]}.{PROTOCOL[1]}",
            where=path,
            fix=_flash(path),
        )
    if session.hello is None:
        if session.heard_bytes:
            raise SensorError(
                f"something sends here, but not the bridge's protocol ({session.heard_bytes} bytes heard)",
                where=path,
                fix=f"check that this is the bridge's port, then: {_flash(path)}",
            )
        raise SensorError(
            f"no answer within {hello_wait_s:g} s", where=path, fix="check power, cable and firmware of the bridge"
        )
    if bridge.index >= len(session.hello.sensors):
        raise SensorError(
            f"the bridge has {len(session.hello.sensors)} sensor(s), number {bridge.index} was asked for",
            where=path,
            fix="count from 0: ...?sensor=0",
        )
    if not bridge.shunt_known:
        raise SensorError(
            f"nobody has told the bridge its shunt: 0.1 ohm is the firmware's default, and with another shunt every "
            f"joule of sensor {bridge.index} is wrong by the ratio",
            where=path,
            fix=f"say which it is, ...?shunt=0.1, or calibrate: firmware-tools bridge calibrate --port {path}",
        )
    _wait(bridge, SETTING_WAIT_S, lambda: session.settled)
    _refuse_half_done(bridge)
    _wait(bridge, SAMPLE_WAIT_S, lambda: bridge.covered_to_s > float("-inf"))
    if bridge.covered_to_s == float("-inf"):
        raise SensorError(
            f"the bridge answers, but sensor {bridge.index} gives no samples",
            where=path,
            fix="check the wiring of the INA219 (SDA, SCL, power, address)",
        )


def _refuse_half_done(bridge: BridgeSensor) -> None:
    """A setting that was asked for and not taken is an error, not a hint."""
    session, path = bridge.session, bridge.path
    assert session.hello is not None
    names = {Command.SET_PROFILE: "profile", Command.SET_RANGE: "range"}
    for code, status in session.refusals.items():
        if code == Command.SET_CONFIG:
            # The setting of a profile is asked for otherwise; a bus voltage at the end of 16 V will be flagged.
            continue
        name = names[Command(code)]
        major, minor = session.hello.protocol
        what = f"the bridge does not take {name}= ({status.name.lower()}; it speaks protocol {major}.{minor})"
        raise SensorError(what, where=path, fix=f"leave {name}= out, or {_flash(path)}")
    if not session.settled:
        raise SensorError(
            f"the bridge did not take its settings within {SETTING_WAIT_S:g} s", where=path, fix="check the cable"
        )


def _flash(path: str) -> str:
    return f"flash its firmware: firmware-tools bridge flash --port {path}"


def _wait(bridge: BridgeSensor, seconds: float, condition: Callable[[], bool]) -> None:
    deadline_s = bridge.clock.monotonic() + seconds
    while not condition() and bridge.clock.monotonic() < deadline_s:
        bridge.wait_for_news(0.05)
