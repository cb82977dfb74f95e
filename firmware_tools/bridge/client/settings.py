"""The sensor setting of a bridge: its name, how it is set, and how it is put back."""

from __future__ import annotations

from dataclasses import replace

from firmware_tools.bridge.client.port_client import BridgeClient
from protos.bridge.commands import Command, command
from protos.bridge.hello import Hello, SensorRecord
from protos.energy.ina219 import PROFILES, Config
from protos.errors import UsageError

__all__ = ["OWN_SETTING", "expected_config", "parse_range", "profile_name", "range_mv", "restore_setting"]

OWN_SETTING = 0


def profile_name(code: int) -> str:
    """Of a profile's code on the wire; "own" for a setting of SET_CONFIG."""
    return next((name for name, profile in PROFILES.items() if profile.code == code), "own")


def range_mv(config: int) -> int:
    """Full scale of the shunt voltage in a configuration register, mV.

    >>> range_mv(0x399F)
    320
    """
    return 40 << (config >> 11 & 3)


def parse_range(text: str) -> int:
    """The PGA code of "40mV", "80mV", "160mV" or "320mV".

    Raises:
        UsageError: there is no such range.
    """
    ranges = {f"{40 << pga}": pga for pga in range(4)}
    found = ranges.get(text.strip().lower().removesuffix("mv").strip())
    if found is None:
        raise UsageError(f"no range {text!r}", where="--range", fix="use 40mV, 80mV, 160mV or 320mV")
    return found


def expected_config(hello: Hello, sensor: SensorRecord) -> Config | None:
    """The setting that a sensor should have by the profile, in the range it has; None for a setting of one's own."""
    name = profile_name(hello.profile)
    return replace(PROFILES[name].config, pga=Config.of(sensor.config).pga) if name in PROFILES else None


def restore_setting(client: BridgeClient, hello: Hello) -> None:
    """Give the sensors the setting that ``hello`` describes."""
    if hello.profile != OWN_SETTING:
        client.tell(command(Command.SET_PROFILE, hello.profile))
        return
    for number, sensor in enumerate(hello.sensors):
        config = Config.of(sensor.config)
        half_blind = (config.bus_adc, config.shunt_adc) == (3, 3)
        client.tell(command(Command.SET_CONFIG, number, sensor.config, int(half_blind)))
