"""``firmware-tools pretrain``: a small model and its data, for those who have none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from protos.extras import require
from protos.json_document import document


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "pretrain",
        help="pre-train a small example model",
        description="Pre-trains a small CNN on the digits 0 to 6 of scikit-learn's handwritten digits and writes "
        "digits.keras, workshop.npz (what it was trained on) and fleet.npz (all ten digits, with held-out data).",
        epilog="example:\n  firmware-tools pretrain digits -o example/\n"
        "  firmware-tools convert example/digits.keras --calibrate example/workshop.npz -o bundle/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("example", choices=["digits"])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    require(("tensorflow", "sklearn"), "workshop")
    from firmware_tools.pretrain.digits import pretrain

    made = pretrain(options.output, seed=options.seed)
    paths = {"model": made.model, "workshop_data": made.workshop_data, "fleet_data": made.fleet_data}
    if options.json:
        print(json.dumps(document("pretrain", {name: str(path) for name, path in paths.items()})))
    else:
        print("\n".join(f"{name}: {path}" for name, path in paths.items()))
    return 0
