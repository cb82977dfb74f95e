"""`coordinator init`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.commands.parts import example
from coordinator.commands.trust.trust_parts import add_state, needing_cryptography, state_of
from protos.addresses import with_port

if TYPE_CHECKING:
    from coordinator.trust.authority import Authority


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="make the certificates of a fleet, so that it can be reached over a network",
        **example("coordinator init --state /var/lib/edgejoule-coordinator --name lab.example"),
    )
    add_state(parser)
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="name or address under which devices reach it, beside those of this machine; may be repeated",
    )
    parser.add_argument("--port", type=int, default=50461, metavar="N", help="port that it will listen on")
    parser.add_argument(
        "--renew-issuing",
        action="store_true",
        help="a new issuing certificate below the same root, whose key must be there",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make them; 0."""
    with needing_cryptography():
        from coordinator.operator.credentials import Credentials
        from coordinator.trust import signing
        from coordinator.trust.authority import FOLDER, Authority, names_of_this_machine, write_private
        from coordinator.trust.register import Register
        from protos.trust.names import Role
    state = state_of(arguments)
    folder = state / FOLDER
    if arguments.renew_issuing:
        Authority.renew_issuing(folder)
        print(f"new issuing certificate in {folder}; restart the coordinator, then take root.key away again")
        return 0
    authority = _begun(folder) or Authority.create(folder)
    hosts = [*arguments.name, *(name for name in names_of_this_machine() if name not in arguments.name)]
    authority.server(hosts)
    if signing.signers_of(folder) is None:
        key_file = folder / signing.KEY_FILE
        signing.write_signers(
            folder, [signing.public_of(key_file) if key_file.exists() else signing.make_key(key_file)], 1
        )
    issued, key = authority.operator("admin", Role.OPERATOR)
    addresses = tuple(with_port(host, arguments.port) for host in _outward(hosts))
    operator = Credentials(
        "operator", "admin", addresses, key.decode(), issued.chain_pem.decode(), authority.root_pem.decode()
    )
    path = folder / "admin.json"
    write_private(path, operator.text())
    register = Register(folder)
    try:
        register.audit.write("local", "authority made", fingerprint=authority.fingerprint.hex(), names=hosts)
        # Last: that it is there says that all of this was done.
        register.issued(issued, who="local", what="certificate issued")
    finally:
        register.close()
    _say(folder, path, authority.fingerprint.hex(), hosts)
    return 0


def _begun(folder: Path) -> Authority | None:
    """The authority of an `init` that was cut short after its root was made; None without one, or where it is whole."""
    from coordinator.trust.authority import Authority, has_authority
    from coordinator.trust.register import Register

    if not has_authority(folder.parent):
        return None
    register = Register(folder)
    try:
        if register.certificates():
            return None
    finally:
        register.close()
    print("coordinator init: goes on with what was cut short", file=sys.stderr)
    return Authority(folder)


def _outward(hosts: list[str]) -> list[str]:
    """Names that others can use, loopback last."""
    local = ("localhost", "127.0.0.1", "::1")
    return [host for host in hosts if host not in local] + [host for host in hosts if host in local]


def _say(folder: Path, operator: Path, fingerprint: str, hosts: list[str]) -> None:
    print(
        f"certificates of a new fleet in {folder}\n"
        f"root     {fingerprint}\n"
        f"server   {', '.join(hosts)}\n"
        f"operator {operator}\n\n"
        "next:\n"
        f"  coordinator login {operator}\n"
        f"  coordinator serve --state {folder.parent} --listen 0.0.0.0:50461\n"
        f"  coordinator enroll --state {folder.parent} pi-1"
    )
    print(
        f"coordinator init: move {folder / 'root.key'} and {folder / 'signing.key'} to a place that is not on the "
        "network; the first is needed again in two years, with --renew-issuing, the second to sign bundles and wheels",
        file=sys.stderr,
    )
