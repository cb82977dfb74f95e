"""``firmware-tools bridge machine``: the real firmware on a simulated board, behind a pseudo-terminal."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_tools.bridge.images.manifest import IMAGES, image_of
from firmware_tools.bridge.machine.bootloader import find_optiboot
from firmware_tools.bridge.machine.driver import FAULTS, FirmwareMachine, MachineSpec, SensorSpec
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_machine"]

BOARD = "atmega328p"

_EXAMPLE = """\
examples:
  firmware-tools bridge machine --pty /tmp/ttyINA --load square:0.4,1.9,0.001
  firmware-tools bridge machine --pty /tmp/ttyINA --hex bridge.hex \\
      --sensor address=0x40,load=constant:3.85 --sensor address=0x41,load=burst:0.5,2,0,0.1,1,supply-v=3.3
  firmware-tools bridge machine --bootloader auto --pty /tmp/ttyINA     # to be flashed by avrdude -c arduino
lines on standard input, with --commands:
  fault NAME [VALUE [SENSOR]] | load TEXT [SENSOR] | reset CAUSE | marker LEVEL | unplug | replug | status
"""


def add_machine(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``machine``; sets ``run``."""
    machine = verbs.add_parser(
        "machine", help="the real firmware on a simulated board", epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    machine.add_argument(
        "--hex", type=Path, metavar="FILE",
        help="Intel hex file of the firmware (default: the image that comes with this program; none with --bootloader)",
    )  # fmt: skip
    machine.add_argument("--pty", type=Path, required=True, metavar="LINK", help="name of the pseudo-terminal to make")
    machine.add_argument("--load", default="constant:2.5", help="load of the one sensor, without --sensor")
    machine.add_argument(
        "--sensor", action="append", default=[], metavar="KEY=VALUE,...",
        help=f"one more sensor: {', '.join(name.replace('_', '-') for name in _keys())}",
    )  # fmt: skip
    machine.add_argument(
        "--bootloader", metavar="FILE", help="Intel hex file of a bootloader, or auto for Optiboot (arduino-core-avr)"
    )
    machine.add_argument(
        "--reset-on-open", action="store_true", help="reset when a program opens the port; implied by --bootloader"
    )
    machine.add_argument("--eeprom", type=Path, metavar="FILE", help="keeps the EEPROM from run to run")
    machine.add_argument("--seed", type=int, default=0, help="of noise and faults (default 0)")
    machine.add_argument("--crystal-ppm", type=float, default=0.0, help="clock error of the board (default 0)")
    machine.add_argument(
        "--usb", choices=("none", "frames", "ftdi"), default="frames",
        help="how bytes reach the host: at once, in 1 ms frames (default), or with a latency timer of 16 ms",
    )  # fmt: skip
    machine.add_argument(
        "--fault", action="append", default=[], metavar="NAME[=VALUE]", help=f"from the start: {', '.join(FAULTS)}"
    )
    machine.add_argument("--commands", action="store_true", help="obey lines on standard input (below)")
    machine.add_argument("--truth", type=Path, metavar="FILE", help="write the true joules here each second")
    machine.add_argument("--json", action="store_true", help="print what was started as JSON")
    machine.set_defaults(run=_machine)


def _machine(args: argparse.Namespace) -> int:
    firmware = args.hex
    if firmware is None and args.bootloader is None:
        firmware = IMAGES / image_of(BOARD).file
    for file in (firmware, None if args.bootloader == "auto" else args.bootloader):
        if file is not None and not Path(file).is_file():
            raise UsageError("no such file", where=str(file), fix="correct --hex or --bootloader")
    bootloader = args.bootloader and (find_optiboot() if args.bootloader == "auto" else Path(args.bootloader))
    sensors = tuple(_sensor(text) for text in args.sensor) or (SensorSpec(args.load),)
    spec = MachineSpec(
        firmware, sensors, bootloader=bootloader, seed=args.seed, crystal_ppm=args.crystal_ppm, eeprom=args.eeprom,
        usb=args.usb,
    )  # fmt: skip
    reset_on_open = args.reset_on_open or bootloader is not None
    with FirmwareMachine.serve_pty(spec, args.pty, reset_on_open=reset_on_open) as machine:
        for fault in args.fault:
            name, _, value = fault.partition("=")
            machine.fault(name, on=_number(value) if value else True)
        if args.json:
            print(
                json.dumps(
                    document("bridge-machine", {"pty": str(args.pty), "sensors": [asdict(one) for one in sensors]})
                ),
                flush=True,
            )
        else:
            print(f"{args.pty}  {', '.join(str(sensor.load) for sensor in sensors)}", flush=True)
        try:
            _serve(machine, commands=args.commands, truth=args.truth)
        finally:
            if args.truth is not None:
                _write_truth(machine, args.truth)
    return 0


def _serve(machine: FirmwareMachine, *, commands: bool, truth: Path | None) -> None:
    """Until interrupted, or until the commands end."""
    held = b""
    while True:
        if not commands:
            time.sleep(1.0)
        elif select.select([0], [], [], 1.0)[0]:
            # Not through sys.stdin: what it has buffered, select does not see.
            data = os.read(0, 65536)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                try:
                    _obey(machine, line.decode(errors="replace").split())
                except UsageError as error:
                    print(f"firmware-tools: {error}", file=sys.stderr, flush=True)
        if truth is not None:
            _write_truth(machine, truth)
        machine.status()  # raises when the machine has ended


def _obey(machine: FirmwareMachine, words: list[str]) -> None:
    match words:
        case ["fault", name, *rest] if len(rest) <= 2:
            value = _number(rest[0]) if rest else True
            machine.fault(name, sensor=int(_number(rest[1])) if len(rest) > 1 else 0, on=value)
        case ["load", text, *rest] if len(rest) <= 1:
            machine.set_load(text, sensor=int(_number(rest[0])) if rest else 0)
        case ["reset", ("power-on" | "external" | "brown-out") as cause]:
            machine.reset(cause)
        case ["marker", ("0" | "1") as level]:
            machine.marker(int(level))
        case ["unplug"]:
            machine.unplug()
        case ["replug"]:
            machine.replug()
        case ["status"]:
            print(json.dumps(document("bridge-machine-status", machine.status())), flush=True)
        case []:
            pass
        case _:
            raise UsageError(f"unknown command {' '.join(words)!r}", where="standard input", fix="see --help")


def _write_truth(machine: FirmwareMachine, path: Path) -> None:
    now_s = machine.now_s
    sensors = [
        {"address": sensor.address, "energy_j": machine.true_energy_j(0.0, now_s, sensor=number)}
        for number, sensor in enumerate(machine.spec.sensors)
    ]
    with write_whole(path) as file:
        file.write(json.dumps({"to_s": now_s, "sensors": sensors}).encode() + b"\n")


def _keys() -> tuple[str, ...]:
    return tuple(SensorSpec.__dataclass_fields__)


def _sensor(text: str) -> SensorSpec:
    """A sensor of ``key=value,...``; a part without ``=`` belongs to the value before it (loads have commas)."""
    values: dict[str, Any] = {}
    last = ""
    for part in text.split(","):
        key, equals, value = part.partition("=")
        name = key.strip().replace("-", "_")
        if equals and name in _keys():
            values[name], last = value, name
        elif last == "load" and not equals:
            values[last] += f",{part}"
        else:
            raise UsageError(f"unknown part {part!r}", where="--sensor", fix=f"use {', '.join(_keys())}")
    for name, value in values.items():
        if name == "address":
            values[name] = int(_number(value))
        elif name == "absent":
            values[name] = bool(_number(value))
        elif name != "load":
            values[name] = _number(value)
    return SensorSpec(**values)


def _number(text: str) -> float:
    try:
        return int(text, 16) if text.lower().startswith("0x") else float(text)
    except ValueError as cause:
        raise UsageError(f"{text!r} is not a number", where="bridge machine", fix="correct it") from cause
