"""``firmware-tools bridge selftest``: is this bridge fit to measure?"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from firmware_tools.bridge.client.clock_line import fit_clock
from firmware_tools.bridge.client.observation import Observation
from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.client.selftest import Finding, Heard, examine, failed
from protos.bridge.commands import ALL_SENSORS, Command, command
from protos.bridge.exchange import Exchange
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_selftest", "selftest"]

SYNC_EACH_S = 0.25
ANSWER_S = 0.2
LEAST_SECONDS = 1.0
DAY_S = 86_400

_EXAMPLE = """\
examples:
  firmware-tools bridge selftest --port /dev/ttyUSB0
  firmware-tools bridge selftest --port /dev/ttyUSB0 --sensors 2 --strict --json
exit code 3 when a check failed; nothing on the bridge is changed
"""


def add_selftest(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``selftest``; sets ``run``."""
    parser = verbs.add_parser(
        "selftest", help="whether a bridge is fit to measure", epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    parser.add_argument("--port", required=True, help="serial port of the bridge")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="how long to listen (default 5)")
    parser.add_argument("--sensors", type=int, metavar="N", help="how many sensors there should be (default: as found)")
    parser.add_argument("--allow-uncalibrated", action="store_true", help="a sensor without calibration is no failure")
    parser.add_argument("--strict", action="store_true", help="warnings are failures")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def selftest(
    client: BridgeClient, seconds: float, *, today: int, sensors: int | None = None, uncalibrated: bool = False
) -> list[Finding]:
    """Ask, listen, exchange stamps, and examine what came.

    Raises:
        SensorError: nobody answers, or the port goes away.
        RefusedError: another major version of the protocol.
    """
    before = client.hello()
    flush = command(Command.FLUSH, ALL_SENSORS)
    # What was on its way when the port was opened is not the line's fault.
    client.send(flush)
    for _ in client.listen(ANSWER_S):
        pass
    damaged_before = client.parser.drops.frames + client.malformed
    seen = client.observer = Observation()
    client.send(flush)
    exchanges: list[Exchange] = []
    began_s = client.now()
    while client.now() < began_s + seconds:
        if exchange := client.sync():
            exchanges.append(exchange)
        for _ in client.listen(min(SYNC_EACH_S, max(0.0, began_s + seconds - client.now()))):
            pass
    client.send(flush)
    for _ in client.listen(ANSWER_S):
        pass
    after = client.hello()
    client.observer = None
    damaged = client.parser.drops.frames + client.malformed - damaged_before
    return examine(
        Heard(before, after, seen, damaged, client.now() - began_s, fit_clock(exchanges), today, sensors, uncalibrated)
    )


def _run(args: argparse.Namespace) -> int:
    if not args.seconds >= LEAST_SECONDS or not math.isfinite(args.seconds):
        raise UsageError(f"{args.seconds} s", where="--seconds", fix=f"give at least {LEAST_SECONDS:g} s")
    today = int(time.time() // DAY_S)
    with BridgeClient(args.port) as client:
        findings = selftest(
            client, args.seconds, today=today, sensors=args.sensors, uncalibrated=args.allow_uncalibrated
        )
    wrong = failed(findings, strict=args.strict)
    if args.json:
        print(
            json.dumps(
                document("bridge-selftest", {"passed": not wrong, "findings": [asdict(one) for one in findings]})
            )
        )
    else:
        for finding in findings:
            of = "bridge" if finding.sensor is None else f"sensor {finding.sensor}"
            print(f"{finding.verdict:<5}{of:<10}{finding.check:<13}{finding.detail}")
            if finding.fix and finding.verdict != "PASS":
                print(f"{'':<15}-> {finding.fix}")
    if wrong:
        what = ", ".join(dict.fromkeys(finding.check for finding in wrong))
        raise CheckFailed(f"failed: {what}", where=args.port, fix="see the table")
    return 0
