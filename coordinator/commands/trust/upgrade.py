"""`coordinator upgrade`: a new version of the devices' service, canaries first, then the rest in waves."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.operator import as_json
from coordinator.operator.tables import say, show, when
from coordinator.operator.upgrades import UpgradeStatus, UpgradeWanted
from protos.commands.json_document import document
from protos.durations import duration_s
from protos.errors import CheckFailed, UsageError
from protos.trust.signed import WHEEL, signature_of

_VERBS = ("status", "stop", "list")
_TURN_S = 1.0


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "upgrade",
        help="bring a signed wheel of the service to devices, canaries first; or: upgrade status, stop, list",
        description="Devices fetch the wheel when they have finished their round, check signature, hash and version, "
        "and put it on trial; the version before comes back by itself when it does not work. The first canary that "
        "fails stops all; those that are away get it when they are back. Devices take upgrades only where that was "
        "allowed: `sudo edge-runtime service upgrades on`. Exit code 3 from --wait and status when it was stopped.",
        **example("coordinator upgrade --wheel edgejoule-0.2.0-py3-none-any.whl --to kitchen --canary 2"),
    )
    parser.add_argument("verb", nargs="?", choices=_VERBS, help="show the newest, or stop what is on; else one begins")
    parser.add_argument("upgrade", nargs="?", metavar="ID", help="another than the newest, for status and stop")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="edgejoule-VERSION-py3-none-any.whl, signed")
    parser.add_argument(
        "--to", action="append", metavar="GROUP", default=[], help="a group, a device, or all; may be repeated"
    )
    parser.add_argument("--canary", type=int, default=1, metavar="N", help="devices that get it first (default 1)")
    parser.add_argument("--wave", type=int, default=10, metavar="N", help="devices of each later stage (default 10)")
    parser.add_argument(
        "--may-fail", type=int, default=1, metavar="N", help="so many besides the canaries may fail (default 1)"
    )
    parser.add_argument("--trial", default="10m", metavar="TIME", help="until it must have shown that it works (10m)")
    parser.add_argument("--wait", action="store_true", help="until it is over")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Begin, show or stop an upgrade."""
    if arguments.verb is None:
        return _begin(arguments)
    if arguments.wheel is not None or arguments.to:
        raise UsageError("begins an upgrade", where="--wheel, --to", fix=f"leave them out of: upgrade {arguments.verb}")
    with operator(arguments) as connection:
        if arguments.verb == "list":
            return _list(connection.upgrades(), arguments)
        if arguments.verb == "stop":
            found = connection.stop_upgrade(arguments.upgrade or "")
        else:
            found = connection.upgrade(arguments.upgrade or "")
    _tell(found, arguments)
    return CheckFailed.exit_code if arguments.verb == "status" and found.state == "stopped" else 0


def _begin(arguments: argparse.Namespace) -> int:
    wanted, data = _wanted(arguments)
    with operator(arguments) as connection:
        found = connection.start_upgrade(wanted, data)
        if arguments.wait and not arguments.json:
            say(f"{found.upgrade_id}: {found.wheel} to {len(found.devices)} devices")
        while arguments.wait and found.state == "on":
            time.sleep(_TURN_S)
            found = connection.upgrade(found.upgrade_id)
    _tell(found, arguments)
    return CheckFailed.exit_code if found.state == "stopped" else 0


def _wanted(arguments: argparse.Namespace) -> tuple[UpgradeWanted, bytes]:
    wheel: Path | None = arguments.wheel
    if wheel is None:
        raise UsageError("is needed", where="--wheel", fix="name the wheel; or: coordinator upgrade status")
    if not arguments.to:
        raise UsageError("is needed", where="--to", fix="name a group, a device, or all")
    if WHEEL.fullmatch(wheel.name) is None:
        raise UsageError("is no wheel of edgejoule", where=str(wheel), fix="give edgejoule-VERSION-py3-none-any.whl")
    try:
        data, signature = wheel.read_bytes(), signature_of(wheel)
        signed = signature.read_bytes() if signature.exists() else None
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(wheel), fix="check the path") from error
    if signed is None:
        raise UsageError("is not signed", where=str(wheel), fix=f"coordinator sign {wheel.name} --state STATE")
    digest = hashlib.sha256(data).digest()
    trial_s = duration_s(arguments.trial, "--trial")
    figures = {"--canary": arguments.canary, "--may-fail": arguments.may_fail, "--wave": arguments.wave - 1}
    for flag, figure in figures.items():
        if not 0 <= figure <= 100_000:
            raise UsageError("is no number of devices", where=flag, fix="give 0 or more; --wave 1 or more")
    wanted = UpgradeWanted(
        wheel.name,
        len(data),
        digest,
        signed,
        tuple(arguments.to),
        arguments.canary,
        arguments.wave,
        arguments.may_fail,
        trial_s,
    )
    return wanted, data


def _tell(found: UpgradeStatus, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(as_json.dump(document("upgrade", dataclasses.asdict(found))))
        return
    why = f" ({found.reason})" if found.reason else ""
    show(
        ["device", "stage", "state", "runs", "here", "since", "why"],
        [
            [
                device.device_id,
                "canary" if device.stage == 0 else str(device.stage),
                device.state,
                device.software_version or "?",
                "yes" if device.present else "no",
                when(device.changed_unix_s),
                device.reason,
            ]
            for device in found.devices
        ],
        title=f"{found.upgrade_id} {found.wheel}: {found.state}{why}, stage {found.stage} of {found.stages - 1}",
    )


def _list(found: list[UpgradeStatus], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(as_json.dump(document("upgrades", {"upgrades": [dataclasses.asdict(upgrade) for upgrade in found]})))
    elif found:
        show(
            ["upgrade", "wheel", "state", "began", "by", "why"],
            [
                [
                    upgrade.upgrade_id,
                    upgrade.wheel,
                    upgrade.state,
                    when(upgrade.started_unix_s),
                    upgrade.started_by,
                    upgrade.reason,
                ]
                for upgrade in found
            ],
        )
    else:
        print("no upgrades yet; begin one with: coordinator upgrade --wheel FILE --to GROUP")
    return 0
