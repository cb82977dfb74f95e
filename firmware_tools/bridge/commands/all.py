"""Command line of the bridge, ``firmware-tools bridge VERB``: gathers the verbs, each from a room of its own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firmware_tools.bridge.commands.build import add_build
from firmware_tools.bridge.commands.calibrate import add_calibrate
from firmware_tools.bridge.commands.config import add_config
from firmware_tools.bridge.commands.decode import add_decode
from firmware_tools.bridge.commands.flash import add_flash, add_verify
from firmware_tools.bridge.commands.info import add_info
from firmware_tools.bridge.commands.machine import add_machine
from firmware_tools.bridge.commands.monitor import add_monitor
from firmware_tools.bridge.commands.ports import add_ports
from firmware_tools.bridge.commands.selftest import add_selftest
from firmware_tools.bridge.commands.sim import add_sim
from protos.commands.program import HelpFormatter

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_commands"]

_EXAMPLES = """\
examples:
  firmware-tools bridge ports --probe
  firmware-tools bridge flash --port /dev/serial/by-id/usb-Arduino-if00
  firmware-tools bridge info --port /dev/serial/by-id/usb-Arduino-if00
  firmware-tools bridge VERB --help"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bridge`` and its verbs; each sets ``run``."""
    bridge = subparsers.add_parser(
        "bridge",
        help="the INA219 serial power bridge",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    verbs = bridge.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (
        add_ports, add_flash, add_verify, add_info, add_config, add_calibrate, add_selftest, add_monitor, add_decode,
        add_sim, add_machine, add_build,
    ):  # fmt: skip
        add(verbs)
