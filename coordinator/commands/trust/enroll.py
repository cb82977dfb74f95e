"""`coordinator enroll`: tokens with which new boards become part of the fleet."""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

from coordinator.commands.parts import add_json, example
from coordinator.commands.trust.trust_parts import add_state, needing_cryptography, state_of
from protos.addresses import host_and_port
from protos.durations import duration_s
from protos.errors import DataError, UsageError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "enroll",
        help="make a one-time token for a new board",
        **example("coordinator enroll --state /var/lib/edgejoule-coordinator pi-1 --ttl 15m --group kitchen"),
    )
    parser.add_argument("device", nargs="?", metavar="DEVICE", help="the name that the board will have")
    add_state(parser)
    parser.add_argument("--ttl", default="15m", metavar="TIME", help="how long it is good for (default 15m)")
    parser.add_argument("--group", action="append", default=[], metavar="NAME", help="a group that it belongs to")
    parser.add_argument(
        "--machine", default="", metavar="SERIAL", help="only the board with this serial number may use it"
    )
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where the board will reach the coordinator (default: the addresses of `coordinator init`)",
    )
    parser.add_argument("--enroll-port", type=int, metavar="N", help="port of enrolment (default: the next one)")
    parser.add_argument(
        "--batch", type=Path, metavar="FILE.csv", help="many boards: columns device, and if wanted machine and group"
    )
    parser.add_argument("--qr", action="store_true", help="print the token as a QR code as well")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make tokens; 0."""
    with needing_cryptography():
        from coordinator.operator.credentials import read_credentials
        from coordinator.trust.authority import FOLDER, Authority
        from coordinator.trust.register import Register
        from protos.trust.token import EnrolmentToken
    folder = state_of(arguments) / FOLDER
    boards = _boards(arguments)
    ttl_s = duration_s(arguments.ttl, "--ttl")
    authority = Authority(folder)
    addresses = tuple(arguments.address) or read_credentials(folder / "admin.json").addresses
    port = arguments.enroll_port or _port(addresses[0]) + 1
    register = Register(folder)
    made: list[dict[str, Any]] = []
    try:
        for device, machine, groups in boards:
            token = register.new_token(device, ttl_s=ttl_s, machine=machine, groups=groups)
            text = EnrolmentToken(device, addresses, port, authority.fingerprint, token.secret).text()
            made.append({"device_id": device, "token": text, "ends_unix_s": token.ends_unix_s, "groups": list(groups)})
    finally:
        register.close()
    if arguments.json:
        print(json.dumps({"schema": "edgejoule.tokens/1", "tokens": made}, indent=2))
        return 0
    for row in made:
        minutes = (row["ends_unix_s"] - time.time()) / 60
        print(f"# {row['device_id']}: good once, for {minutes:.0f} minutes. On the board:")
        print(f"sudo edge-runtime enroll {row['token']}")
        if arguments.qr:
            print(_qr(row["token"]))
    return 0


def _boards(arguments: argparse.Namespace) -> list[tuple[str, str, tuple[str, ...]]]:
    if (arguments.batch is None) == (arguments.device is None):
        raise UsageError(
            "one board or a file of them is needed", where="DEVICE", fix="give a name, or --batch FILE.csv"
        )
    if arguments.batch is None:
        return [(arguments.device, arguments.machine, tuple(arguments.group))]
    try:
        with arguments.batch.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                {str(key).strip(): (value or "").strip() for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", where=str(arguments.batch)) from error
    if not rows or any(not row.get("device") for row in rows):
        raise DataError(
            "each row needs a device", where=str(arguments.batch), fix="head the columns device,machine,group"
        )
    names = [row["device"] for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{twice[0]} stands in it twice", where=str(arguments.batch), fix="give each board its own name"
        )
    return [
        (row["device"], row.get("machine", ""), (*arguments.group, *filter(None, [row.get("group", "")])))
        for row in rows
    ]


def _port(address: str) -> int:
    if (found := host_and_port(address)) is None:
        raise UsageError(f"{address!r} is not HOST:PORT", where="--address", fix="write it like 192.0.2.7:50461")
    return found[1]


def _qr(text: str) -> str:
    import io

    with needing_cryptography():
        import segno
    out = io.StringIO()
    segno.make(text, error="l").terminal(out=out, compact=True, border=2)
    return out.getvalue()
