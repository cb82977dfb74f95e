"""``firmware-tools bridge info``: who answers on a port, in words."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from firmware_tools.bridge.client.wiretap import read_hello
from firmware_tools.bridge.images.manifest import read_manifest
from protos.bridge.hello import PROTOCOL, Feature
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.ina219 import CLIP_RAW, CONVERSION_S, PROFILES, SHUNT_STEP_V, Calibration, Config

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_info", "hello_lines"]

_BOARDS = {1: "ATmega328P", 2: "RP2040", 0x80: "simulator"}
_STATES = {0: "working", 1: "absent", 2: "failing"}
_CHANGED, _FORCED = 1, 2
_FEATURES = {
    Feature.MARKER: "marker input",
    Feature.PERSISTENT: "keeps settings",
    Feature.CONFIG: "takes settings",
    Feature.BOOTLOADER: "can enter its bootloader",
    Feature.DITHER: "dithers",
}


def add_info(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``info``; it sets ``run``."""
    info = verbs.add_parser(
        "info",
        help="who answers on a port",
        epilog="example:\n  firmware-tools bridge info --port /dev/ttyUSB0",
        formatter_class=HelpFormatter,
    )
    info.add_argument("--port", required=True, help="serial port of the bridge")
    info.add_argument("--wait", type=float, default=4.0, metavar="SECONDS", help="how long to wait (default 4)")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    hello = read_hello(args.port, args.wait)
    if args.json:
        print(json.dumps(document("bridge-info", hello)))
        return 0
    known = {image.build_id: board for board, image in read_manifest().items()}
    for name, text in hello_lines(hello, known):
        print(f"{name:<9} {text}".rstrip())
    return 0


def hello_lines(hello: dict[str, Any], known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Name and text of each line about a HELLO.

    Args:
        hello: as :func:`~firmware_tools.bridge.client.wiretap.read_hello` gives it.
        known: board by build id, of the images that come with this program.
    """
    major, minor = hello["protocol"]
    if major != PROTOCOL[0]:
        yield "bridge", f"speaks protocol {major}.{minor}; this program speaks {PROTOCOL[0]}.{PROTOCOL[1]}"
        return
    firmware = ".".join(map(str, hello["firmware"]))
    board = _BOARDS.get(hello["board"], f"board {hello['board']:#04x}")
    yield "bridge", f"{board}, firmware {firmware}, protocol {major}.{minor}"
    yield "build", _build(hello, known)
    yield "serial", hello["uid"] if int(hello["uid"], 16) else "not set"
    causes = ", ".join(cause.replace("_", " ").lower() for cause in hello["reset"]) or "unknown"
    up_s = hello["tick"] / hello["tick_hz"]
    yield "boot", f"number {hello['boot']}, {hello['boots']} counted; last reset: {causes}; up for {_duration(up_s)}"
    features = [text for bit, text in _FEATURES.items() if hello["features"] & bit]
    yield "can", ", ".join(features) or "nothing beyond protocol 1.0"
    profile = next((p.name for p in PROFILES.values() if p.code == hello["profile"]), "a setting of its own")
    yield "profile", profile + (", forced" if hello["flags"] & _FORCED else "")
    for number, sensor in enumerate(hello["sensors"]):
        yield from _sensor(number, sensor)


def _build(hello: dict[str, Any], known: dict[str, str]) -> str:
    if not int(hello["build"], 16):
        return "none"
    origin = "the image that comes with this program" if hello["build"] in known else "not from this program"
    changed = ", from changed sources" if hello["flags"] & _CHANGED else ""
    return f"{hello['build']}, {origin}{changed}"


def _sensor(number: int, sensor: dict[str, Any]) -> Iterator[tuple[str, str]]:
    config, calibration = Config.of(sensor["config"]), Calibration(**sensor["calibration"])
    range_v = CLIP_RAW[config.pga] * SHUNT_STEP_V
    shunt = f"{calibration.shunt_uohm / 1000:g} mohm"
    yield (
        f"sensor {number}",
        f"address {sensor['address']:02x}h, {_STATES.get(sensor['state'], 'in an unknown state')}; shunt {shunt}, "
        f"up to {range_v * calibration.amperes_per_volt:.2f} A in the {range_v * 1e3:g} mV range",
    )
    yield (
        "",
        f"{1 / config.period_s:.0f} samples/s: current {_conversion(config.shunt_adc)}, "
        f"voltage {_conversion(config.bus_adc)}, current seen {config.duty:.0%} of the time",
    )
    yield "", _calibration(calibration)


def _conversion(code: int) -> str:
    length = f"{CONVERSION_S[code] * 1e3:.3g} ms"
    return f"{9 + code} bits in {length}" if code < 8 else f"mean of {1 << (code - 8)} in {length}"


def _calibration(calibration: Calibration) -> str:
    if not calibration.id:
        return "never calibrated: the tolerances of shunt and chip apply"
    day = datetime.date(1970, 1, 1) + datetime.timedelta(days=calibration.day) if calibration.day else "an unknown day"
    return (
        f"calibration {calibration.id:08x} of {day}: offset {calibration.offset_nv / 1000:+g} uV, "
        f"gain {calibration.gain_ppm:+d} ppm"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
