"""``firmware-tools bridge sim``: simulated bridges on pseudo-terminals."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from firmware_tools.bridge.simulator.sensor import WIRINGS
from protos.bridge.hello import PROTOCOL
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.boards import BOARDS
from protos.energy.ina219 import PROFILES
from protos.errors import UsageError
from protos.systems import LINUX, require_system

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_sim"]

PR_SET_PDEATHSIG = 1

_SIM_EXAMPLE = """\
examples:
  firmware-tools bridge sim --board pi4 --pid 1234 --link /tmp/ttyINA
  firmware-tools bridge sim --load constant:3.85 --link /tmp/ttyINA --seed 7
  firmware-tools bridge sim --bridge board=pi4,pid-file=/tmp/a.pid,link=/tmp/a.tty \\
                            --bridge board=pi5,pid-file=/tmp/b.pid,link=/tmp/b.tty
then, in another terminal:
  edge-runtime run --sensor serial:/tmp/ttyINA ...
"""


def add_sim(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``sim``; it sets ``run``."""
    sim = verbs.add_parser(
        "sim", help="simulate bridges on pseudo-terminals", epilog=_SIM_EXAMPLE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    sim.add_argument("--link", type=Path, help="name (symbolic link) of the pseudo-terminal to make")
    sim.add_argument("--board", default="pi4", help=f"power profile: {', '.join(BOARDS)} (default pi4)")
    sim.add_argument("--pid", type=int, help="process whose CPU time is the load")
    sim.add_argument("--pid-file", type=Path, help="file that holds, or will hold, the pid")
    sim.add_argument(
        "--load", help="cpu (default with a process), idle, constant:W, square:LOW_W,HIGH_W,PERIOD_S[,DUTY]"
    )
    sim.add_argument("--sensor-profile", default="balanced", help=f"{', '.join(PROFILES)} (default balanced)")
    sim.add_argument("--seed", type=int, default=0, help="of sensor errors, noise and clock (default 0)")
    sim.add_argument("--drift-ppm", type=float, help="clock error of the bridge (default: by seed, up to 100)")
    sim.add_argument("--supply-v", type=float, help="bus voltage (default: the board's)")
    sim.add_argument("--shunt-ohm", type=float, help="shunt (default: the board's)")
    sim.add_argument("--uncalibrated", action="store_true", help="announce no calibration, and the firmware's shunt")
    sim.add_argument("--old", action="store_true", help="a bridge of protocol 1.0: its setting cannot be changed")
    sim.add_argument("--wiring", default="right", help=f"how the sensor is connected: {', '.join(WIRINGS)}")
    sim.add_argument(
        "--bridge", action="append", default=[], metavar="KEY=VALUE,...",
        help="one more bridge: board, link, pid, pid-file, load, profile, seed, drift-ppm, supply-v, shunt-ohm, wiring",
    )  # fmt: skip
    sim.add_argument("--drop", type=float, default=0.0, metavar="P", help="drop each byte with probability P")
    sim.add_argument("--corrupt", type=float, default=0.0, metavar="P", help="change each byte with probability P")
    sim.add_argument("--truth", type=Path, metavar="FILE", help="write the true joules here each second")
    sim.add_argument("--die-with-parent", action="store_true", help="end when the starting process ends")
    sim.add_argument("--json", action="store_true", help="print what was started as JSON")
    sim.set_defaults(run=_sim)


def _sim(args: argparse.Namespace) -> int:
    specs = [_spec_of(text, args, number) for number, text in enumerate(args.bridge)]
    if args.link is not None:
        specs.insert(0, _spec_of(f"link={args.link}", args, 0, own=True))
    if not specs:
        raise UsageError("no bridge to simulate", where="bridge sim", fix="give --link PATH, or --bridge")
    if len({spec.link for spec in specs}) < len(specs):
        raise UsageError("two bridges with one link", where="bridge sim", fix="give each its own")
    if not (0 <= args.drop < 1 and 0 <= args.corrupt < 1):
        raise UsageError("a probability is not in 0..1", where="bridge sim", fix="correct --drop or --corrupt")
    if args.die_with_parent:
        _die_with_parent()
    require_system("a simulated bridge", LINUX)
    bridges: list[SimulatedBridge] = []
    try:
        for spec in specs:
            bridges.append(SimulatedBridge(spec))
    except BaseException:
        for bridge in bridges:
            bridge.unplug()
        raise
    for bridge in bridges:
        bridge.faults.drop, bridge.faults.corrupt = args.drop, args.corrupt
    bench = Bench(bridges, truth=args.truth)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: bench.stop())
    if args.json:
        print(json.dumps(document("bridge-sim", {"bridges": [str(spec.link) for spec in specs]})), flush=True)
    else:
        for spec in specs:
            print(f"{spec.link}  {spec.board}  {spec.load}  {spec.profile}", flush=True)
    bench.run()
    bench.close()
    return 0


def _spec_of(text: str, args: argparse.Namespace, number: int, *, own: bool = False) -> BridgeSpec:
    """A bridge from ``key=value,...``; what it leaves out comes from the command's own options."""
    readers: dict[str, Callable[[str], Any]] = {
        "board": str, "link": Path, "pid": int, "pid-file": Path, "load": str, "profile": str, "seed": int,
        "drift-ppm": float, "supply-v": float, "shunt-ohm": float, "wiring": str,
    }  # fmt: skip
    values: dict[str, Any] = {
        "board": args.board, "profile": args.sensor_profile, "seed": args.seed + number,
        "drift_ppm": args.drift_ppm, "supply_v": args.supply_v, "shunt_ohm": args.shunt_ohm, "load": args.load,
        "calibrated": not args.uncalibrated, "wiring": args.wiring, "protocol": (1, 0) if args.old else PROTOCOL,
    }  # fmt: skip
    if own:
        values |= {"pid": args.pid, "pid_file": args.pid_file}
    pairs = [("link", text.removeprefix("link="))] if own else _pairs(text)
    for key, value in pairs:
        if key not in readers:
            raise UsageError(f"unknown key {key!r}", where="--bridge", fix=f"use {', '.join(readers)}")
        try:
            values[key.replace("-", "_")] = readers[key](value)
        except ValueError as cause:
            raise UsageError(f"{key}={value!r} is not a number", where="--bridge", fix="correct it") from cause
    if "link" not in values:
        raise UsageError(f"no link in {text!r}", where="--bridge", fix="add link=PATH")
    if values["load"] is None:
        follows = values.get("pid") is not None or values.get("pid_file") is not None
        values["load"] = "cpu" if follows else "idle"
    return BridgeSpec(**values)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split ``a=1,b=2``; a part without ``=`` belongs to the value before it (loads have commas)."""
    pairs: list[tuple[str, str]] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals:
            pairs.append((key.strip(), value))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part}")
        else:
            raise UsageError(f"{part!r} is not key=value", where="--bridge", fix="for example link=/tmp/a.tty")
    return pairs


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the starting process ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise UsageError("the starting process has ended already", where="--die-with-parent", fix="start anew")
