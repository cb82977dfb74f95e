"""`coordinator delegate`: the keys that sign bundles let a coordinator sign the heads that its runs end with."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from coordinator.commands.parts import add_json, example
from coordinator.commands.trust.trust_parts import add_state, needing_cryptography, state_of, when
from protos.commands.json_document import document
from protos.errors import ConfigError, UsageError
from protos.trust.delegated import Delegation
from protos.trust.signed import key_id


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "delegate",
        help="let this coordinator sign the heads that its runs end with, or show who may",
        description="Makes the coordinator's own key for heads if need be, and a delegation to it that ends, signed by "
        "the keys of `coordinator signers`. A board that has seen a head so signed takes no other to work. Where the "
        "signing key is on another machine: --key-only here, --public there, then bring heads.delegation and "
        "heads.delegation.signature.json back into trust/.",
        **example("coordinator delegate --state STATE --key /media/key/signing.key --days 30"),
    )
    add_state(command)
    command.add_argument("--key", action="append", type=Path, metavar="FILE", help="key to sign with; may be repeated")
    command.add_argument("--days", type=float, default=30.0, metavar="N", help="how long it holds (default 30)")
    command.add_argument(
        "--public", action="append", default=[], metavar="KEY", help="let this key sign heads, 64 digits, not ours"
    )
    command.add_argument(
        "--bundle", action="append", default=[], metavar="ID", help="only heads of this bundle: its folder, or its id"
    )
    command.add_argument(
        "--run", action="append", default=[], dest="names", metavar="NAME", help="only heads of runs of this name"
    )
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it here: a name in .delegation")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--key-only", action="store_true", help="make the key for heads, and print its public half")
    what.add_argument("--new-key", action="store_true", help="put a new key in the old one's place, and let that sign")
    what.add_argument("--withdraw", action="store_true", help="let nobody sign heads any more")
    what.add_argument("--show", action="store_true", help="change nothing; say who may sign heads, and until when")
    add_json(command)
    command.set_defaults(run=run_delegate)


def run_delegate(arguments: argparse.Namespace) -> int:
    """Delegate, or look; 0."""
    with needing_cryptography():
        from coordinator.trust import heads, signing
        from coordinator.trust.authority import FOLDER
        from coordinator.trust.register import Register
    folder = state_of(arguments) / FOLDER
    if not (folder / "root.pem").exists():
        fix = "make them with `coordinator init`"
        raise ConfigError("this coordinator has no certificates", where=str(folder), fix=fix)
    if arguments.show:
        return _show(arguments, folder)
    if arguments.key_only:
        public = heads.make_key(folder)
        print(json.dumps(document("heads_key", {"public": public})) if arguments.json else public)
        return 0
    if not 0 < arguments.days <= 730:
        raise UsageError(f"{arguments.days:g} is no number of days", where="--days", fix="give more than 0, to 730")
    for one in arguments.public:
        if len(one) != 64 or not set(one) <= set("0123456789abcdef"):
            raise UsageError(f"{one[:80]!r} is no public key", where="--public", fix="give 64 hexadecimal digits")
    keys = arguments.key or [folder / signing.KEY_FILE]
    for path in keys:
        # Before a new key takes the old one's place.
        signing.read_key(path)
    if arguments.withdraw:
        publics: list[str] = []
    elif arguments.public:
        publics = arguments.public
    else:
        publics = [heads.replace_key(folder) if arguments.new_key else heads.make_key(folder)]
    delegation = Delegation(
        tuple(sorted(set(publics))),
        tuple(sorted({_digest(one) for one in arguments.bundle})),
        tuple(sorted(set(arguments.names))),
    )
    made = heads.delegate(folder, delegation, keys, days=arguments.days, out=arguments.output)
    register = Register(folder)
    try:
        ids = [key_id(key) for key in delegation.keys]
        register.audit.write("local", "heads delegated", version=made.version, keys=ids, ends_unix_s=made.ends_unix_s)
    finally:
        register.close()
    _say(arguments, delegation, made.version, made.ends_unix_s)
    return 0


def _show(arguments: argparse.Namespace, folder: Path) -> int:
    from coordinator.trust import heads

    found = heads.delegation_in(folder)
    if found is None:
        if arguments.json:
            print(json.dumps(document("delegation", {"keys": [], "version": None, "ends_unix_s": None}), indent=2))
        else:
            print("nobody was let sign heads; boards take them unsigned, unless they have seen signed ones")
        return 0
    _say(arguments, found[0], found[1].version, found[1].ends_unix_s)
    return 0


def _say(arguments: argparse.Namespace, one: Delegation, version: int, ends_unix_s: int) -> None:
    if arguments.json:
        keys = [{"id": key_id(public), "public": public} for public in one.keys]
        fields = {"version": version, "ends_unix_s": ends_unix_s, "keys": keys}
        print(json.dumps(document("delegation", {**fields, "bundles": one.bundles, "runs": one.runs}), indent=2))
        return
    state = "until" if ends_unix_s > time.time() else "ended"
    who = f"heads may be signed by {', '.join(map(key_id, one.keys))}" if one.keys else "heads may be signed by nobody"
    print(f"version {version}: {who}, {state} {when(ends_unix_s)}")
    for name, values in (("bundle", one.bundles), ("run", one.runs)):
        for value in values:
            print(f"only of {name} {value}")


def _digest(bundle: str) -> str:
    """The digest in a bundle's id, from the id or from its folder."""
    if Path(bundle).is_dir():
        from protos.model.bundle import open_bundle

        bundle = open_bundle(Path(bundle)).bundle_id
    digest = bundle.removeprefix("sha256:")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise UsageError(f"{bundle[:80]!r} is no bundle", where="--bundle", fix="give its folder, or sha256:DIGITS")
    return digest
