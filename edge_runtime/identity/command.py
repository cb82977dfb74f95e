"""``edge-runtime enroll`` and ``edge-runtime identity``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from edge_runtime.config import SERVICE_CONFIG as CONFIG
from edge_runtime.config import resolve
from edge_runtime.identity.identity import Identity, read_identity, write_identity
from edge_runtime.identity.signatures import Signatures, read_memory
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import CheckFailed, RefusedError, UsageError

__all__ = ["ENROLL_EXAMPLE", "IDENTITY_EXAMPLE", "add_enroll", "add_identity", "run_enroll", "run_identity"]

_SERVICE = "edge-runtime.service"
# Where systemd keeps the state of a service that is a user made for it.
_SERVICE_STATE = Path("/var/lib/private/edgejoule")
ENROLL_EXAMPLE = """example:
  sudo edge-runtime enroll ej1.eyJkIjoicGktMSIs...

The token comes from `coordinator enroll` and is good once. The board makes its own key, checks that who answers made
the token, and keeps the certificate in its state folder. Its settings get the coordinator's address and its name; the
service, where it is installed, is started again."""
IDENTITY_EXAMPLE = """example:
  edge-runtime identity --state /var/lib/edgejoule --json

Exit code 3 when there is none, or when it has ended."""


def add_enroll(parser: argparse.ArgumentParser) -> None:
    """Put the arguments of ``enroll`` on a parser."""
    parser.add_argument("token", metavar="TOKEN", help="the line that `coordinator enroll` printed; - for stdin")
    _add_places(parser)
    parser.add_argument("--machine", metavar="SERIAL", help="what this board is; read from it if not given")
    parser.add_argument("--again", action="store_true", help="put a new identity in the place of the one that is here")
    parser.add_argument("--no-start", action="store_true", help="leave the service as it is")


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Put the arguments of ``identity`` on a parser."""
    _add_places(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.add_argument("--require-signatures", action="store_true", help="from now on run nothing that is not signed")
    parser.add_argument(
        "--require-signed-heads", action="store_true", help="from now on let no head of a run work that is not signed"
    )
    parser.add_argument(
        "--above-root",
        metavar="FILE",
        type=Path,
        help="root.pem of the fleet above this board's site: from now on only heads signed there come to work",
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"settings of the device (default {CONFIG})")
    parser.add_argument("--state", metavar="DIR", type=Path, help="state folder, if not as the settings say")


def run_enroll(arguments: argparse.Namespace) -> int:
    """Enrol; 0.

    Raises:
        RefusedError: the board has an identity, or the token was refused.
        EdgejouleError: see :func:`edge_runtime.identity.enrolment.enroll`.
    """
    from protos.trust.token import read_token

    text = arguments.token
    if text == "-":
        text = input()
    token = read_token(text)
    config, state = _places(arguments)
    if not arguments.again and (here := read_identity(state)) is not None and here.ends_unix_s > time.time():
        raise RefusedError(
            f"this board is {here.device_id} already, until {_day(here.ends_unix_s)}",
            where=str(state),
            fix="give --again to put a new identity in its place",
        )
    try:
        from edge_runtime.identity.enrolment import enroll
    except ModuleNotFoundError as error:
        raise UsageError("the package cryptography is not installed", fix="install it with pip") from error
    done = enroll(token, state, machine=arguments.machine)
    print(
        f"{done.identity.device_id}: enrolled at {done.identity.addresses[0]}, until {_day(done.identity.ends_unix_s)}"
    )
    print(f"identity in {done.path}, for its owner alone")
    if abs(done.clock_behind_s) > 120:
        print(
            f"this board's clock differs by {done.clock_behind_s:.0f} s from the coordinator's; "
            "set it, or certificates will be refused"
        )
    if config is not None:
        _write_settings(config, done.identity)
        print(f"coordinator and device_id written into {config}")
    else:
        print(f"run with: edge-runtime run --coordinator {done.identity.addresses[0]} --state {state} --data ...")
    if not arguments.no_start:
        _start_service()
    return 0


def run_identity(arguments: argparse.Namespace) -> int:
    """Say who this device is; 0."""
    _, state = _places(arguments)
    found = read_identity(state)
    if found is None:
        raise CheckFailed("this device was never enrolled", where=str(state), fix="see `coordinator enroll --help`")
    if arguments.above_root is not None:
        found = _kept_above(state, found, arguments.above_root)
    signatures = Signatures(state)
    if arguments.require_signatures:
        signatures.require()
    if arguments.require_signed_heads:
        signatures.require_heads()
    memory = read_memory(state)
    required, heads_required = memory.required, signatures.head_memory().heads_required
    left_s = found.ends_unix_s - time.time()
    if arguments.json:
        shown = {
            "schema": "edgejoule.identity/1",
            "device_id": found.device_id,
            "coordinator": list(found.addresses),
            "begins_unix_s": found.begins_unix_s,
            "ends_unix_s": found.ends_unix_s,
            "due_unix_s": found.due_unix_s(),
            "signatures_required": required,
            "signed_heads_required": heads_required,
            "heads_from": "above" if found.above_root_pem else "coordinator",
        }
        print(json.dumps(shown, indent=2))
    else:
        print(f"{found.device_id} at {found.addresses[0]}, until {_day(found.ends_unix_s)} ({left_s / 86400:.1f} days)")
        print(f"renews itself from {_day(found.due_unix_s())} on")
        print("runs what is signed alone" if required else "runs what its coordinator sends, until it sees a signature")
        if found.above_root_pem:
            print("takes heads of runs that the fleet above its site has signed, and none that the site signs")
        if heads_required:
            print("works with heads of runs that are signed alone")
    if left_s <= 0:
        raise CheckFailed("its certificate has ended", where=found.device_id, fix="enrol the board again")
    return 0


def _kept_above(state: Path, identity: Identity, file: Path) -> Identity:
    """The identity with the root above that a file holds, as it is kept now."""
    from edge_runtime.identity.enrolment import above_root
    from edge_runtime.identity.signatures import forget_unless_same

    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(file)) from error
    found = replace(identity, above_root_pem=above_root(data))
    forget_unless_same(state, found.root_pem, found.above_root_pem)
    write_identity(state, found)
    return found


def _places(arguments: argparse.Namespace) -> tuple[Path | None, Path]:
    """The settings file, if there is one to write, and the state folder."""
    config = arguments.config or (CONFIG if os.geteuid() == 0 and arguments.state is None else None)
    if arguments.state is not None:
        return config, arguments.state
    exists = config is not None and config.exists()
    settings = resolve({}, os.environ, config if exists else None).settings
    if config == CONFIG and os.geteuid() == 0:
        return config, _SERVICE_STATE
    return config, settings.state


def _write_settings(config: Path, identity: Identity) -> None:
    """Set two keys of a settings file, and leave every other line as it is."""
    try:
        text = config.read_text("utf-8") if config.exists() else '# data = "/var/lib/edgejoule-data/photos"\n'
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(config)) from error
    for key, value in (("coordinator", identity.addresses[0]), ("device_id", identity.device_id)):
        line = f"{key} = {json.dumps(value)}"
        text, found = re.subn(rf"(?m)^\s*{key}\s*=.*$", line, text, count=1)
        if not found:
            text = f"{line}\n{text}"
    with storing(config):
        config.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(config) as file:
            file.write(text.encode())


def _start_service() -> None:
    """Start the service again, where it is installed and systemd runs."""
    if os.geteuid() != 0 or not Path("/run/systemd/system").is_dir():
        return
    if not (Path("/etc/systemd/system") / _SERVICE).exists():
        print("no service is installed yet: sudo edge-runtime service install")
        return
    with contextlib.suppress(OSError):
        # Its unit may have been made for a coordinator on this machine, and then lets it reach no other.
        again = [sys.executable, "-m", "edge_runtime.cli", "service", "install", "--again"]
        made = subprocess.run(again, check=False, capture_output=True, text=True)
        if made.returncode:
            print(f"the unit was not made again: {made.stderr.strip()}; run `edge-runtime service install --again`")
        done = subprocess.run(["systemctl", "restart", _SERVICE], check=False, capture_output=True, text=True)
        print("service started" if not done.returncode else f"the service did not start: {done.stderr.strip()}")


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
