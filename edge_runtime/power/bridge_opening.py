"""Opening a bridge: the port, the handshake, the first samples, and a clear error for whatever is missing."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.power.bridge_meter import BridgeMeter
from edge_runtime.power.clock import Clock
from edge_runtime.power.samples import CAPACITY
from edge_runtime.power.transport import Opener, SerialTransport
from protos.bridge.hello import MAX_SENSORS, PROTOCOL
from protos.errors import SensorError, UsageError
from protos.ina219 import PROFILES, Profile

__all__ = ["open_bridge_meter"]

HELLO_WAIT_S = 4.0
SAMPLE_WAIT_S = 3.0


def open_bridge_meter(
    path: str,
    options: Mapping[str, str],
    clock: Clock,
    *,
    opener: Opener = SerialTransport,
    hello_wait_s: float = HELLO_WAIT_S,
    capacity: int = CAPACITY,
) -> BridgeMeter:
    """Open the port, wait for HELLO and for the first sample; ``capacity`` samples are stored at most.

    Raises:
        UsageError: an option that is not known or not in range.
        SensorError: the port does not open; nobody, or somebody else, answers within ``hello_wait_s``; the bridge
            speaks another major version; it has no such sensor; the sensor gives no sample.
    """
    sensor, shunt_ohm, profile = _read(options)
    meter = BridgeMeter(
        path, sensor=sensor, clock=clock, profile=profile, shunt_ohm=shunt_ohm, opener=opener, capacity=capacity
    )
    meter.link.open()
    try:
        _shake_hands(meter, path, sensor, clock, hello_wait_s)
    except BaseException:
        meter.close()
        raise
    return meter


def _shake_hands(meter: BridgeMeter, path: str, sensor: int, clock: Clock, hello_wait_s: float) -> None:
    session = meter.session
    deadline_s = clock.monotonic() + hello_wait_s
    while session.hello is None and session.refused is None and clock.monotonic() < deadline_s:
        meter.wait_for_news(0.05)
    if session.refused is not None:
        major, minor = session.refused
        raise SensorError(
            f"the bridge speaks protocol {major}.{minor}, this program speaks {PROTOCOL[0]}.{PROTOCOL[1]}",
            where=path,
            fix=f"give the bridge firmware that speaks protocol {PROTOCOL[0]}.x",
        )
    if session.hello is None:
        if session.heard_bytes:
            raise SensorError(
                f"something sends here, but not the bridge's protocol ({session.heard_bytes} bytes heard)",
                where=path,
                fix="check that this is the bridge's port, and flash its firmware",
            )
        raise SensorError(
            f"no answer within {hello_wait_s:g} s", where=path, fix="check power, cable and firmware of the bridge"
        )
    if sensor >= len(session.hello.sensors):
        raise SensorError(
            f"the bridge has {len(session.hello.sensors)} sensor(s), number {sensor} was asked for",
            where=path,
            fix="count from 0: ...?sensor=0",
        )
    deadline_s = clock.monotonic() + SAMPLE_WAIT_S
    while not meter.has_samples and clock.monotonic() < deadline_s:
        meter.wait_for_news(0.05)
    if not meter.has_samples:
        raise SensorError(
            f"the bridge answers, but sensor {sensor} gives no samples",
            where=path,
            fix="check the wiring of the INA219 (SDA, SCL, power, address)",
        )


def _read(options: Mapping[str, str]) -> tuple[int, float | None, Profile | None]:
    unknown = set(options) - {"sensor", "shunt", "profile"}
    if unknown:
        raise UsageError(
            f"unknown option {sorted(unknown)[0]!r}", where="sensor", fix="use sensor=, shunt= and profile="
        )
    try:
        sensor = int(options.get("sensor", "0"))
        shunt_ohm = float(options["shunt"]) if "shunt" in options else None
    except ValueError as cause:
        raise UsageError(
            "sensor must be an integer and shunt a number of ohms",
            where="sensor",
            fix="for example ?sensor=0&shunt=0.02",
        ) from cause
    if not 0 <= sensor < MAX_SENSORS:
        raise UsageError(f"sensor {sensor} is not in 0..{MAX_SENSORS - 1}", where="sensor", fix="choose one of these")
    if shunt_ohm is not None and not 1e-6 <= shunt_ohm <= 1000:
        raise UsageError(f"shunt of {shunt_ohm} ohm", where="sensor", fix="give it in ohms, for example shunt=0.02")
    name = options.get("profile")
    if name is not None and name not in PROFILES:
        raise UsageError(f"unknown sensor profile {name!r}", where="sensor", fix=f"use {', '.join(PROFILES)}")
    return sensor, shunt_ohm, PROFILES[name] if name else None
