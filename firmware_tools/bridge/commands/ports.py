"""``firmware-tools bridge ports``: which serial ports there are, and on which of them a bridge answers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from firmware_tools.bridge.client.ports import Port, list_ports
from firmware_tools.bridge.client.wiretap import read_hello
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import SensorError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_ports"]

_EXAMPLES = """\
examples:
  firmware-tools bridge ports
  firmware-tools bridge ports --probe
  firmware-tools bridge ports --probe /tmp/ttyINA     # a simulated one, which the system does not list
Opening a port resets most Arduinos; without --probe none is opened."""


def add_ports(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``ports``; it sets ``run``."""
    parser = verbs.add_parser(
        "ports",
        help="serial ports, and who answers on them",
        description="List serial ports: stable names, USB ids, what keeps them from being used well.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("port", nargs="*", help="ports to list besides those of the system")
    parser.add_argument("--probe", action="store_true", help="open each and ask who is there")
    parser.add_argument("--wait", type=float, default=2.5, metavar="SECONDS", help="for each answer (default 2.5)")
    parser.add_argument("--all", action="store_true", help="also ports without a device behind them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_ports)


def _ports(args: argparse.Namespace) -> int:
    ports = list_ports(args.port, every=args.all)
    answers = [_probe(port, args.wait) if args.probe else {} for port in ports]
    if args.json:
        found = [asdict(port) | answer for port, answer in zip(ports, answers, strict=True)]
        print(json.dumps(document("bridge-ports", {"ports": found})))
        return 0
    if not ports:
        print("no serial ports")
    for port, answer in zip(ports, answers, strict=True):
        usb = f"  usb {port.usb}" if port.usb else ""
        print(f"{port.path}{usb}  {port.product or ''}".rstrip())
        if port.stable:
            print(f"    {port.stable}")
        if answer:
            print(f"    {_words(answer)}")
        for hint in port.hints:
            print(f"    {hint}")
    return 0


def _probe(port: Port, wait_s: float) -> dict[str, Any]:
    try:
        return {"hello": read_hello(port.path, wait_s), "silence": None}
    except SensorError as error:
        return {"hello": None, "silence": error.what}


def _words(answer: dict[str, Any]) -> str:
    hello = answer["hello"]
    if hello is None:
        return f"no bridge: {answer['silence']}"
    firmware, protocol = (".".join(map(str, hello[name])) for name in ("firmware", "protocol"))
    return f"bridge: firmware {firmware}, protocol {protocol}, build {hello['build']}, {len(hello['sensors'])} sensors"
