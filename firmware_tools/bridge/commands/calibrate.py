"""``firmware-tools bridge calibrate``: zero and gain of one sensor against a reference meter."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_tools.bridge.calibrate.amounts import parse_amount, parse_meter_error
from firmware_tools.bridge.calibrate.bus import compare_bus
from firmware_tools.bridge.calibrate.calibration import MeterError
from firmware_tools.bridge.calibrate.job import Job, Step, calibrate
from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.client.settings import profile_name
from protos.atomic import write_whole
from protos.bridge.hello import Hello
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.ina219 import REFERENCE_RELATIVE, Calibration
from protos.errors import StoreError, UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_calibrate"]

LEAST_SECONDS = 0.5

_EXAMPLE = """\
examples:
  firmware-tools bridge calibrate --port /dev/ttyUSB0 --zero
  firmware-tools bridge calibrate --port /dev/ttyUSB0 --current 1.234A --meter-error 0.1%+2mA \\
      --meter "bench multimeter, serial 123" --certificate sensor0.json
  firmware-tools bridge calibrate --port /dev/ttyUSB0 --zero --current 0.5A --current 3A   # asks before each step
  firmware-tools bridge calibrate --port /dev/ttyUSB0 --reference meter.csv
  firmware-tools bridge calibrate --port /dev/ttyUSB0 --bus 5.123V --meter-error 0.05%+2mV   # prints bus_ppm=
without a step, on a terminal, it guides through zero and one current
"""


def add_calibrate(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``calibrate``; sets ``run``."""
    parser = verbs.add_parser(
        "calibrate", help="zero and gain of a sensor, or its bus voltage, against a reference meter", epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    parser.add_argument("--port", required=True, help="serial port of the bridge")
    parser.add_argument("--sensor", type=int, default=0, metavar="N", help="which one (default 0)")
    parser.add_argument("--zero", action="store_true", help="measure the offset; the load must be disconnected")
    parser.add_argument("--current", action="append", default=[], metavar="AMOUNT", help="a current, by the reference")
    parser.add_argument(
        "--power", action="append", default=[], metavar="AMOUNT", help="a power at IN-, by the reference"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="CSV that the reference meter writes: unix_s, current_a or power_w",
    )
    parser.add_argument(
        "--bus", metavar="VOLTS", help="compare the bus voltage with a voltmeter from IN- to ground; prints the option "
        "bus_ppm= of the sensor, and writes nothing",
    )  # fmt: skip
    parser.add_argument(
        "--meter-error", metavar="LIMIT", help="limit of the reference's error, for example 0.1%%+2mA (default 0.1%%)"
    )
    parser.add_argument("--meter", default="", metavar="TEXT", help="what the reference is, for the certificate")
    parser.add_argument(
        "--shunt-ohm", type=float, metavar="OHM", help="nominal shunt, when it is not the one on record"
    )
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each measurement (default 10)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="write the certificate here")
    parser.add_argument("--dry-run", action="store_true", help="measure and tell, write nothing to the bridge")
    parser.add_argument("--no-restart", action="store_true", help="do not restart the bridge to see the record kept")
    parser.add_argument("--json", action="store_true", help="print the certificate only")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.bus is not None:
        return _run_bus(args)
    job = _job(args)
    with BridgeClient(args.port) as client:
        certificate, record, hello = calibrate(client, job)
    if args.certificate is not None:
        try:
            with write_whole(args.certificate) as file:
                file.write(json.dumps(certificate, indent=2).encode() + b"\n")
        except OSError as cause:
            what = f"the bridge is calibrated, the certificate cannot be written ({cause.strerror})"
            raise StoreError(what, where=str(args.certificate), fix="give another path, calibrate again") from cause
    if args.json:
        print(json.dumps(document("bridge-calibration", certificate)))
        return 0
    _print(certificate, record, hello, job)
    if args.certificate is None:
        print(json.dumps(certificate, indent=2))
    return 0


def _run_bus(args: argparse.Namespace) -> int:
    if args.zero or args.current or args.power or args.reference is not None or args.certificate is not None:
        raise UsageError("the bus voltage beside a current", where="--bus", fix="compare it by itself; it is not kept")
    _check_seconds(args.seconds)
    error = MeterError(REFERENCE_RELATIVE)
    if args.meter_error is not None:
        error = parse_meter_error(args.meter_error, "V", where="--meter-error")
    volts = parse_amount(args.bus, "V", where="--bus")
    with BridgeClient(args.port) as client:
        found = compare_bus(client, args.sensor, volts, args.seconds, error)
    if args.json:
        print(json.dumps(document("bridge-bus", asdict(found))))
        return 0
    print(f"sensor {args.sensor} reads {found.read_v:.4f} V, the voltmeter {volts:g} V; {found.samples} samples")
    print(f"correction {found.bus_ppm:+d} ppm, within {found.limit_ppm} ppm")
    print(f"give it wherever this sensor is opened: serial:{args.port}?bus_ppm={found.bus_ppm}")
    return 0


def _check_seconds(seconds: float) -> None:
    if not seconds >= LEAST_SECONDS or not math.isfinite(seconds):
        raise UsageError(f"{seconds} s", where="--seconds", fix=f"give at least {LEAST_SECONDS} s")


def _job(args: argparse.Namespace) -> Job:
    guided = sys.stdin.isatty() and sys.stderr.isatty()
    steps = [Step("zero")] if args.zero else []
    steps += [Step("current", parse_amount(text, "A", where="--current")) for text in args.current]
    steps += [Step("power", parse_amount(text, "W", where="--power")) for text in args.power]
    steps += [Step("reference")] if args.reference is not None else []
    if not steps:
        if not guided:
            raise UsageError("nothing to do", where="calibrate", fix="give --zero, --current, --power or --reference")
        steps = [Step("zero"), Step("current")]
    _check_seconds(args.seconds)
    if args.shunt_ohm is not None and not 1e-6 <= args.shunt_ohm <= 1000:
        raise UsageError(f"{args.shunt_ohm} ohm", where="--shunt-ohm", fix="give what is printed on the shunt, in ohm")
    unit = "W" if args.power and not args.current else "A"
    if args.power and args.current:
        raise UsageError("a current and a power", where="calibrate", fix="use one kind of reference at a time")
    error = MeterError(REFERENCE_RELATIVE)
    if args.meter_error is not None:
        error = parse_meter_error(args.meter_error, unit, where="--meter-error")
    meter = {"name": args.meter, "limit_given": args.meter_error is not None}
    return Job(
        args.sensor, steps, args.seconds, error, meter, args.shunt_ohm, args.reference, not args.dry_run,
        not args.no_restart, _confirm if guided or len(steps) > 1 else lambda text: None, _ask if guided else None,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip


def _confirm(text: str) -> None:
    print(f"{text} Then press Enter.", file=sys.stderr, flush=True)
    if not sys.stdin.readline():
        raise UsageError("nobody to say that it is done", where="calibrate", fix="make one step at a time")


def _ask(text: str) -> float:
    print(f"{text}? ", end="", file=sys.stderr, flush=True)
    return parse_amount(sys.stdin.readline().strip(), "A", where="the reading")


def _print(certificate: dict[str, Any], record: Calibration, hello: Hello, job: Job) -> None:
    before, sure = hello.sensors[job.sensor].calibration, certificate["uncertainty"]
    gain = "not looked at" if sure["gain_expanded_ppm"] is None else f"+-{sure['gain_expanded_ppm']:g} ppm"
    rows = [
        ("", "before", "after", "uncertainty (k = 2)"),
        ("shunt", f"{before.shunt_uohm} uohm", f"{record.shunt_uohm} uohm", ""),
        ("offset", f"{before.offset_nv} nV", f"{record.offset_nv} nV", f"+-{sure['offset_expanded_nv']:g} nV"),
        ("gain", f"{before.gain_ppm} ppm", f"{record.gain_ppm} ppm", gain),
        ("id", f"{before.id:08x}", f"{record.id:08x}", ""),
    ]
    print(f"sensor {job.sensor} of bridge {hello.uid.hex()}, profile {profile_name(hello.profile)}")
    for row in rows:
        print("{:<8}{:<16}{:<16}{}".format(*row).rstrip())
    if not certificate["complete"]:
        print("the gain is not calibrated yet: the sensor counts as uncalibrated until a --current")
    if not certificate["reference"]["limit_given"] and sure["gain_standard_ppm"] is not None:
        print("no --meter-error given: 0.1 % of the reading is assumed")
    if any(point["kind"] == "zero" and point["bus_v"] < 1 for point in certificate["points"]):
        print("the supply was off during the zero: its offset may differ by some 10 uV with the supply on")
    if not job.write:
        print("dry run: nothing was written")
