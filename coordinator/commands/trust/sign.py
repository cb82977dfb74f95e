"""`coordinator sign` and `coordinator signers`: what boards may run, and who says so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from coordinator.commands.parts import add_json, example
from coordinator.commands.trust.trust_parts import add_state, needing_cryptography, state_of, when
from protos.commands.json_document import document
from protos.errors import UsageError
from protos.trust.signed import key_id


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    sign = commands.add_parser(
        "sign",
        help="sign a bundle, wheel, firmware image or model, so that boards run it and nothing else",
        description="Writes the signature beside each PATH: a bundle's folder, or a .whl, .hex, .uf2 or .tflite file. "
        "Boards that have seen a signed bundle run no unsigned one any more, and none of an older version.",
        **example("coordinator sign bundle/ --state /var/lib/edgejoule-coordinator --line kitchen --days 90"),
    )
    sign.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    add_state(sign)
    sign.add_argument("--key", action="append", type=Path, metavar="FILE", help="key to sign with; may be repeated")
    sign.add_argument("--line", metavar="NAME", help="versions never go back along it (default: the file's name)")
    sign.add_argument("--days", type=float, default=90.0, metavar="N", help="how long the signature holds (default 90)")
    sign.add_argument("--version", type=int, metavar="N", help="version in its line (default: seconds since 1970)")
    sign.add_argument("--cosign", action="store_true", help="add signatures to those that are there")
    sign.add_argument("--check", action="store_true", help="sign nothing; say who signed, and what")
    add_json(sign)
    sign.set_defaults(run=run_sign)
    signers = commands.add_parser(
        "signers",
        help="show whose keys may sign, or change them; needs the root's key",
        **example("coordinator signers --state STATE --new second.key --threshold 2"),
    )
    add_state(signers)
    signers.add_argument("--new", type=Path, metavar="FILE", help="make a key in this file, and let it sign")
    signers.add_argument("--add", metavar="PUBLIC", action="append", default=[], help="let this key sign, 64 digits")
    signers.add_argument("--drop", metavar="ID", action="append", default=[], help="let this key sign no more")
    signers.add_argument("--threshold", type=int, metavar="N", help="how many must sign")
    add_json(signers)
    signers.set_defaults(run=run_signers)


def run_sign(arguments: argparse.Namespace) -> int:
    """Sign, or look; 0."""
    with needing_cryptography():
        from coordinator.trust import signing
        from coordinator.trust.authority import FOLDER
        from coordinator.trust.register import Register
    folder = state_of(arguments) / FOLDER
    keys = arguments.key or [folder / signing.KEY_FILE]
    if not 0 < arguments.days <= 3650:
        raise UsageError(f"{arguments.days:g} is no number of days", where="--days", fix="give more than 0, to 3650")
    rows = []
    for path in arguments.paths:
        if arguments.check:
            made, did = signing.checked(folder, path)
        elif arguments.cosign:
            made, did = signing.cosign(folder, path, keys), ()
        else:
            line = arguments.line or path.resolve().name.partition("-")[0].removesuffix(path.suffix)
            made = signing.sign(folder, path, keys, line=line, days=arguments.days, version=arguments.version)
            did = ()
        if not arguments.check:
            register = Register(folder)
            try:
                register.audit.write(
                    "local", f"{made.what} signed", line=made.line, version=made.version, sha256=made.sha256
                )
            finally:
                register.close()
        rows.append({"path": str(path), **vars(made), "keys": [key_id(text) for text in did]})
        if not arguments.json:
            by = f", by {', '.join(key_id(text) for text in did)}" if did else ""
            print(f"{path}: {made.what} {made.line}, version {made.version}, until {when(made.ends_unix_s)}{by}")
    if arguments.json:
        print(json.dumps(document("signatures", {"signatures": rows}), indent=2))
    return 0


def run_signers(arguments: argparse.Namespace) -> int:
    """Show or change the signers; 0."""
    with needing_cryptography():
        from coordinator.trust import signing
        from coordinator.trust.authority import FOLDER, Authority
    folder = state_of(arguments) / FOLDER
    Authority(folder)
    found = signing.signers_of(folder)
    if arguments.new or arguments.add or arguments.drop or arguments.threshold is not None:
        keys = list(found.keys) if found is not None else []
        if unknown := [one for one in arguments.drop if one not in map(key_id, keys)]:
            raise UsageError(f"no key is called {unknown[0]!r}", where="--drop", fix="`coordinator signers` lists them")
        for one in arguments.add:
            if len(one) != 64 or not set(one) <= set("0123456789abcdef"):
                raise UsageError(f"{one[:80]!r} is no public key", where="--add", fix="give 64 hexadecimal digits")
        keys = [key for key in [*keys, *arguments.add] if key_id(key) not in arguments.drop]
        if arguments.new:
            keys.append(signing.make_key(arguments.new))
        threshold = arguments.threshold or (found.threshold if found is not None else 1)
        found = signing.write_signers(folder, keys, threshold)
    if found is None:
        print("nobody may sign yet; name a key with: coordinator signers --new FILE")
        return 0
    if arguments.json:
        keys_of = [{"id": key_id(key), "public": key} for key in found.keys]
        fields = {"version": found.version, "threshold": found.threshold, "ends_unix_s": found.ends_unix_s}
        print(json.dumps(document("signers", {**fields, "keys": keys_of}), indent=2))
        return 0
    print(f"version {found.version}: {found.threshold} of {len(found.keys)} must sign, until {when(found.ends_unix_s)}")
    for key in found.keys:
        print(f"{key_id(key)}  {key}")
    return 0
