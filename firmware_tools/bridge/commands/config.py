"""``firmware-tools bridge config``: shows the setting of a bridge, changes it, and reads it back."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.client.settings import parse_range, profile_name, range_mv
from protos.bridge.commands import ALL_SENSORS, Command, command, uid_command
from protos.bridge.hello import Hello
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.ina219 import PROFILES, Config
from protos.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_config"]

_EXAMPLE = """\
examples:
  firmware-tools bridge config --port /dev/ttyUSB0
  firmware-tools bridge config --port /dev/ttyUSB0 --profile energy --range 160mV
  firmware-tools bridge config --port /dev/ttyUSB0 --uid 0011223344556677
range and uid are kept over a power cut; profile and register are until the next boot
"""


def add_config(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``config``; sets ``run``."""
    parser = verbs.add_parser(
        "config", help="show or change the setting of a bridge", epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    parser.add_argument("--port", required=True, help="serial port of the bridge")
    parser.add_argument("--sensor", type=int, metavar="N", help="for --range and the registers (default: all)")
    parser.add_argument("--profile", choices=tuple(PROFILES), help="setting of all sensors")
    parser.add_argument("--range", metavar="MV", help="of the shunt voltage: 40mV, 80mV, 160mV, 320mV")
    parser.add_argument("--uid", metavar="HEX", help="serial number of the bridge, 16 hexadecimal digits")
    register = parser.add_mutually_exclusive_group()
    register.add_argument("--register", metavar="0xHHHH", help="configuration register, both conversions continuous")
    register.add_argument(
        "--force-config", metavar="0xHHHH", help="the same, even 12 bits for both, which sees half of the time only"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    wanted_range = None if args.range is None else parse_range(args.range)
    register = None
    if args.register is not None or args.force_config is not None:
        register = _word(args.register or args.force_config)
    uid = None if args.uid is None else _uid(args.uid)
    with BridgeClient(args.port) as client:
        hello = client.hello()
        count = len(hello.sensors)
        if args.sensor is not None and not 0 <= args.sensor < count:
            raise UsageError(
                f"the bridge has {count} sensors, no number {args.sensor}", where="--sensor", fix="correct it"
            )
        sensor = ALL_SENSORS if args.sensor is None else args.sensor
        if args.profile is not None:
            hello = client.tell(command(Command.SET_PROFILE, PROFILES[args.profile].code))
        if wanted_range is not None:
            hello = client.tell(command(Command.SET_RANGE, sensor, wanted_range))
        if register is not None:
            hello = client.tell(command(Command.SET_CONFIG, sensor, register, int(args.force_config is not None)))
        if uid is not None:
            hello = client.tell(uid_command(uid))
        hello = client.hello()
    _compare(hello, sensor, args.profile if register is None else None, wanted_range, register, uid)
    _print(hello, as_json=args.json)
    return 0


def _compare(
    hello: Hello, sensor: int, profile: str | None, pga: int | None, register: int | None, uid: bytes | None
) -> None:
    """Hold what was asked for against what the bridge says now."""
    wrong = []
    if profile is not None and profile_name(hello.profile) != profile:
        wrong.append(f"profile {profile_name(hello.profile)}")
    if uid is not None and hello.uid != uid:
        wrong.append(f"uid {hello.uid.hex()}")
    for number, record in enumerate(hello.sensors):
        # A sensor that does not answer keeps no setting; its state is in the table.
        if record.state or sensor not in (ALL_SENSORS, number):
            continue
        if register is not None and Config.of(record.config) != Config.of(register):
            wrong.append(f"sensor {number} {record.config:04x}h")
        elif register is None and pga is not None and Config.of(record.config).pga != pga:
            wrong.append(f"sensor {number} {range_mv(record.config)} mV")
    if wrong:
        fix = "try again; run firmware-tools bridge selftest"
        raise CheckFailed(f"the bridge says {', '.join(wrong)}", where="read back", fix=fix)


def _print(hello: Hello, *, as_json: bool) -> None:
    sensors: list[dict[str, Any]] = []
    for number, record in enumerate(hello.sensors):
        config, calibration = Config.of(record.config), record.calibration
        sensors.append(
            {
                "sensor": number, "address": record.address, "state": record.state, "config": record.config,
                "range_mv": range_mv(record.config), "rate_hz": round(1 / config.period_s, 1),
                "duty": round(config.duty, 3), "shunt_uohm": calibration.shunt_uohm,
                "limit_a": round(range_mv(record.config) * 1e3 / calibration.shunt_uohm, 3),
                "calibration": calibration.id,
            }
        )  # fmt: skip
    if as_json:
        facts = {"uid": hello.uid.hex(), "profile": profile_name(hello.profile), "sensors": sensors}
        print(json.dumps(document("bridge-config", facts)))
        return
    print(f"uid {hello.uid.hex()}  profile {profile_name(hello.profile)}")
    print(f"{'':<8}{'address':<9}{'register':<10}{'range':<9}{'up to':<10}{'rate':<11}{'duty':<7}calibration")
    for line in sensors:
        print(
            f"{line['sensor']:<8}{line['address']:02x}h{'':<6}{line['config']:04x}h{'':<5}{line['range_mv']:>3} mV   "
            f"{line['limit_a']:<6g} A  {line['rate_hz']:<7g} Hz {line['duty']:<7.0%}"
            + (f"{line['calibration']:08x}" if line["calibration"] else "none")
            + ("" if not line["state"] else "  (does not answer)")
        )


def _word(text: str) -> int:
    try:
        value = int(text, 16)
    except ValueError as cause:
        raise UsageError(f"{text!r} is no register", where="config", fix="for example 0x09df") from cause
    if not 0 <= value <= 0xFFFF:
        raise UsageError(f"{text!r} does not fit 16 bits", where="config", fix="for example 0x09df")
    return value


def _uid(text: str) -> bytes:
    try:
        uid = bytes.fromhex(text)
    except ValueError as cause:
        raise UsageError(f"{text!r} is not hexadecimal", where="--uid", fix="give 16 digits") from cause
    if len(uid) != 8:
        raise UsageError(f"{text!r} has {len(uid)} bytes", where="--uid", fix="give 16 digits")
    return uid
