"""`coordinator identities`, `revoke` and `operators`: who belongs to the fleet, and who no longer does."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from coordinator.commands.parts import add_json, example
from coordinator.commands.trust.trust_parts import add_state, needing_cryptography, state_of, when
from coordinator.operator.tables import show
from protos.durations import duration_s
from protos.errors import UsageError
from protos.ranges import Range


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    identities = commands.add_parser(
        "identities",
        help="list the certificates of a fleet",
        **example("coordinator identities --state /var/lib/edgejoule-coordinator --json"),
    )
    add_state(identities)
    identities.add_argument(
        "--readmit-days",
        type=float,
        metavar="N",
        help="from now on renew a certificate by its old key up to N days after its end (0: never)",
    )
    add_json(identities)
    identities.set_defaults(run=run)
    revoke = commands.add_parser(
        "revoke",
        help="shut a device or a person out, at once",
        **example("coordinator revoke --state /var/lib/edgejoule-coordinator pi-3 --reason stolen"),
    )
    revoke.add_argument("name", metavar="NAME", help="of the device or the person")
    add_state(revoke)
    revoke.add_argument("--reason", default="", metavar="TEXT", help="for the audit log")
    revoke.set_defaults(run=run_revoke)
    operators = commands.add_parser(
        "operators",
        help="make credentials for a person",
        **example(
            "coordinator operators invite ada --role observer --state DIR\n"
            "  coordinator operators add ada --role observer -o ada.json --state DIR"
        ),
    )
    operators.add_argument(
        "verb", choices=["add", "invite"], help="add: write credentials here; invite: print a token for elsewhere"
    )
    operators.add_argument("name", metavar="NAME", help="of the person")
    operators.add_argument("--role", choices=["operator", "observer", "auditor"], default="operator")
    operators.add_argument("-o", "--output", type=Path, metavar="FILE", help="gets the credentials; needed by add")
    operators.add_argument("--ttl", default="15m", metavar="TIME", help="how long an invitation is good (default 15m)")
    operators.add_argument("--days", type=float, default=365.0, metavar="N", help="how long they are good for")
    add_state(operators)
    operators.set_defaults(run=run_operators)


def run(arguments: argparse.Namespace) -> int:
    """Print one row a certificate; 0."""
    with needing_cryptography():
        from coordinator.server.services.enrolling import READMIT_RULE
        from coordinator.trust.authority import FOLDER, Authority
        from coordinator.trust.register import Register
    folder = state_of(arguments) / FOLDER
    Authority(folder)
    register = Register(folder)
    try:
        if arguments.readmit_days is not None:
            if arguments.readmit_days not in Range(0, 3650):
                raise UsageError(f"{arguments.readmit_days:g} is not {Range(0, 3650)}", where="--readmit-days")
            register.set_rule(READMIT_RULE, f"{arguments.readmit_days:g}")
        found = register.certificates()
    finally:
        register.close()
    now = time.time()
    rows: list[dict[str, Any]] = [
        {
            "role": certificate.peer.role.value,
            "name": certificate.peer.name,
            "state": "revoked" if certificate.revoked_unix_s else "ended" if certificate.ends_unix_s <= now else "good",
            "machine": certificate.machine,
            "groups": list(certificate.groups),
            "issued_unix_s": certificate.issued_unix_s,
            "ends_unix_s": certificate.ends_unix_s,
            "revoked_unix_s": certificate.revoked_unix_s,
            "serial": certificate.serial,
        }
        for certificate in found
    ]
    if arguments.json:
        print(json.dumps({"schema": "edgejoule.identities/1", "identities": rows}, indent=2))
        return 0
    show(
        ["role", "name", "state", "until", "machine", "serial"],
        [[row["role"], row["name"], row["state"], when(row["revoked_unix_s"] or row["ends_unix_s"]),
          row["machine"] or "-", row["serial"][:8]] for row in rows],
    )  # fmt: skip
    return 0


def run_revoke(arguments: argparse.Namespace) -> int:
    """Revoke; 0."""
    with needing_cryptography():
        from coordinator.trust.authority import FOLDER, Authority
        from coordinator.trust.register import Register
    folder = state_of(arguments) / FOLDER
    Authority(folder)
    register = Register(folder)
    try:
        done = register.revoke(arguments.name, reason=arguments.reason)
    finally:
        register.close()
    if done:
        print(f"{arguments.name}: revoked; a coordinator that runs ends its calls within a second")
    else:
        print(f"{arguments.name}: was revoked before")
    return 0


def _invite(arguments: argparse.Namespace, folder: Path) -> int:
    """Print a token with which somebody elsewhere makes a key and gets credentials for it; 0."""
    with needing_cryptography():
        from coordinator.operator.credentials import read_credentials
        from coordinator.trust.authority import Authority
        from coordinator.trust.register import Register
        from protos.trust.names import Role
        from protos.trust.token import EnrolmentToken
    authority, addresses = Authority(folder), read_credentials(folder / "admin.json").addresses
    port = int(addresses[0].rpartition(":")[2]) + 1
    register = Register(folder)
    try:
        ttl_s = duration_s(arguments.ttl, "--ttl")
        token = register.new_token(arguments.name, ttl_s=ttl_s, role=Role(arguments.role))
    finally:
        register.close()
    print(f"# {arguments.name}, {arguments.role}: good once, for {ttl_s / 60:.0f} minutes. On that person's machine:")
    made = EnrolmentToken(arguments.name, addresses, port, authority.fingerprint, token.secret)
    print(f"coordinator login {made.text()}")
    return 0


def run_operators(arguments: argparse.Namespace) -> int:
    """Write credentials; 0."""
    with needing_cryptography():
        from coordinator.operator.credentials import Credentials, read_credentials
        from coordinator.trust.authority import FOLDER, Authority, write_private
        from coordinator.trust.register import Register
        from protos.trust.names import Role
    folder = state_of(arguments) / FOLDER
    if arguments.verb == "invite":
        return _invite(arguments, folder)
    if arguments.output is None:
        raise UsageError("is needed", where="--output", fix="name the file that gets the credentials")
    if arguments.output.exists():
        raise UsageError("is there already", where=str(arguments.output), fix="choose another --output")
    authority = Authority(folder)
    issued, key = authority.operator(arguments.name, Role(arguments.role), days=arguments.days)
    register = Register(folder)
    try:
        register.issued(issued, who="local", what="certificate issued")
    finally:
        register.close()
    addresses = read_credentials(folder / "admin.json").addresses
    credentials = Credentials(
        arguments.role,
        arguments.name,
        addresses,
        key.decode(),
        issued.chain_pem.decode(),
        authority.root_pem.decode(),
    )
    write_private(arguments.output, credentials.text())
    print(f"{arguments.output}: {arguments.role} {arguments.name}, until {when(issued.not_after.timestamp())}")
    print(f"on that person's machine: coordinator login {arguments.output}")
    return 0
