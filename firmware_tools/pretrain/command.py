"""``firmware-tools pretrain``: a small model and its data, for those who have none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.datafiles import dataset
from protos.errors import UsageError
from protos.extras import require


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "pretrain",
        help="pre-train a small example model",
        description="Pre-trains a small CNN on the digits 0 to 6 of scikit-learn's handwritten digits and writes "
        "digits.keras, workshop.npz (what it was trained on) and fleet.npz (all ten digits, with held-out data). "
        "Or an autoencoder on DATA: encoder.keras, for a bundle that makes new examples, and decoder.keras.",
        epilog="example:\n  firmware-tools pretrain digits -o example/\n"
        "  firmware-tools convert example/digits.keras --calibrate example/workshop.npz -o bundle/\n"
        "  firmware-tools pretrain autoencoder --data example/workshop.npz -o coder/",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("example", choices=["digits", "autoencoder"])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", metavar="DATA", help="autoencoder: images, uint8, sizes that 4 divides")
    parser.add_argument("--latent", type=int, default=16, metavar="D", help="autoencoder: numbers of a latent")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="autoencoder: passes over DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.example == "autoencoder":
        return _autoencoder(options)
    require(("tensorflow", "sklearn"), "workshop")
    from firmware_tools.pretrain.digits import pretrain

    made = pretrain(options.output, seed=options.seed)
    paths = {"model": made.model, "workshop_data": made.workshop_data, "fleet_data": made.fleet_data}
    return _told(options, {name: str(path) for name, path in paths.items()})


def _autoencoder(options: argparse.Namespace) -> int:
    if options.data is None:
        raise UsageError("an autoencoder is pre-trained on images", where="--data", fix="such as --data workshop.npz")
    for name, value, most in (("--latent", options.latent, 4096), ("--epochs", options.epochs, 10_000)):
        if not 1 <= value <= most:
            raise UsageError(f"{value} is outside 1..{most}", where=name)
    require(("tensorflow",), "workshop")
    from firmware_tools.pretrain.autoencoder import pretrain

    data = dataset.load(options.data).train()
    made = pretrain(data, options.output, latent=options.latent, epochs=options.epochs, seed=options.seed)
    told = {"encoder": str(made.encoder), "decoder": str(made.decoder), "error": f"{made.error:.4g}"}
    return _told(options, told)


def _told(options: argparse.Namespace, paths: dict[str, str]) -> int:
    if options.json:
        print(json.dumps(document("pretrain", paths)))
    else:
        print("\n".join(f"{name}: {path}" for name, path in paths.items()))
    return 0
