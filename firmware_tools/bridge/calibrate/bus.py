"""The bus voltage of a sensor against a voltmeter: the correction that whoever opens the sensor then gives.

A bridge's record has no place for it, so it is written nowhere but in the option ``bus_ppm=`` of the sensor's text. It
holds at about the voltage at which it was found: an offset of the register is taken for a part of its gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from firmware_tools.bridge.calibrate.calibration import MeterError
from firmware_tools.bridge.client.observation import Observation
from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.client.settings import restore_setting
from protos.bridge.commands import Command, command
from protos.energy.ina219 import BUS_LIMIT, BUS_STEP_V, PROFILES, Config
from protos.errors import CheckFailed, SensorError, UsageError

__all__ = ["BusFinding", "compare_bus"]

SETTLE_S = 0.3
LEAST_SAMPLES = 200
STEADY_V = 0.05
"""Most that the bus voltage may vary while it is compared: one standard deviation."""
ALLOWED_TIMES = 4.0
"""A register this many times beyond its limit is no bus voltage of this supply: another node, another sensor."""


@dataclass(frozen=True, slots=True)
class BusFinding:
    """What a comparison found.

    Args:
        volts: the voltmeter's.
        read_v: mean of the register, V.
        bus_ppm: correction of the register, parts per million.
        limit_ppm: limit of its error: of the voltmeter, and of the mean of steps of the register.
        samples: in the mean.
    """

    volts: float
    read_v: float
    bus_ppm: int
    limit_ppm: int
    samples: int


def compare_bus(client: BridgeClient, sensor: int, volts: float, seconds: float, error: MeterError) -> BusFinding:
    """Read the bus voltage for a while, and hold it against ``volts``, measured from IN- to ground at that time.

    Raises:
        UsageError: no such sensor, or no voltage that it can read.
        SensorError: nothing comes.
        CheckFailed: the voltage is not steady, or so far off that something else was measured.
    """
    hello = client.hello()
    if not 0 <= sensor < len(hello.sensors):
        what = f"the bridge has {len(hello.sensors)} sensors, no number {sensor}"
        raise UsageError(what, where="--sensor", fix="see firmware-tools bridge info")
    if not 1.0 <= volts <= 32.0:
        raise UsageError(
            f"{volts:g} V", where="--bus", fix="give what the voltmeter says from IN- to ground, 1 to 32 V"
        )
    pga = Config.of(hello.sensors[sensor].config).pga
    config = PROFILES["balanced"].config
    wide = Config(True, pga, config.bus_adc, config.shunt_adc)
    try:
        # Twelve bits for the bus, in the range in which a meter reads it.
        client.tell(command(Command.SET_CONFIG, sensor, wide.register(), 0))
        seen = _listen(client, seconds)
    finally:
        restore_setting(client, hello)
    log = seen.log(sensor)
    if len(log.bus) < LEAST_SAMPLES:
        raise SensorError(
            f"{len(log.bus)} samples, too few to average", where=client.path, fix="measure longer (--seconds)"
        )
    read = (log.bus >> 3) * BUS_STEP_V
    mean_v, spread_v = float(np.mean(read)), float(np.std(read))
    if spread_v > STEADY_V:
        what = f"the bus voltage varies by {spread_v:.3f} V"
        raise CheckFailed(what, where="calibrate --bus", fix="keep the board idle, or disconnect it, and try again")
    if mean_v <= 0 or abs(volts / mean_v - 1) > ALLOWED_TIMES * BUS_LIMIT:
        what = f"the sensor reads {mean_v:.3f} V, the voltmeter {volts:.3f} V; a sound sensor is within {BUS_LIMIT:.1%}"
        raise CheckFailed(what, where="calibrate --bus", fix="measure at this sensor's IN- against the bridge's ground")
    # A steady voltage may sit anywhere on one step.
    step = 0.0 if spread_v > BUS_STEP_V / 2 else BUS_STEP_V / 2
    limit = math.hypot(error.relative + error.fixed / volts, step / volts)
    return BusFinding(volts, mean_v, round((volts / mean_v - 1) * 1e6), math.ceil(limit * 1e6), len(log.bus))


def _listen(client: BridgeClient, seconds: float) -> Observation:
    for _ in client.listen(SETTLE_S):
        pass
    seen = Observation()
    client.observer = seen
    try:
        for _ in client.listen(seconds):
            pass
    finally:
        client.observer = None
    return seen
