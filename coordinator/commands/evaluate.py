"""`coordinator evaluate`: a head of a run with kernels of few bits."""

from __future__ import annotations

import argparse
import dataclasses

from coordinator.commands.parts import add_address, add_json, add_run, example, operator
from coordinator.operator import as_json
from coordinator.operator.status import HeadEvaluation
from coordinator.operator.tables import percent, show
from protos.commands.json_document import document
from protos.errors import UsageError
from protos.model.head_kinds.weight_grids import FULL, KINDS, check_bits

DEFAULT_BITS = "32,8,6,4,3,2"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="how good a head is when its weights are rounded to few bits",
        description="Rounds the kernels of a head to each width and runs it on the held-out data of the run: with "
        "ranges from the least to the largest weight (minmax) and of the least squared error (mse), one for a kernel "
        "(tensor) or for each output (channel). Nothing is trained; biases stay as they are.",
        **example("coordinator evaluate digits --bits 8,4,2"),
    )
    add_run(parser)
    parser.add_argument(
        "--bits", default=DEFAULT_BITS, metavar="N,...",
        help=f"widths, 1 to 16, and 32 for weights as they are (default: {DEFAULT_BITS})",
    )  # fmt: skip
    parser.add_argument(
        "--head", default="", metavar="VERSION",
        help="a head of an earlier round (default: the best on the held-out data)",
    )  # fmt: skip
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate a head."""
    bits = check_bits(_widths(arguments.bits), where="--bits")
    with operator(arguments) as connection:
        found = connection.evaluate(arguments.which, bits, arguments.head)
    if arguments.json:
        print(as_json.dump(document("evaluation", dataclasses.asdict(found))))
        return 0
    title = f"{found.run_id}: {found.head_version}, accuracy on {found.examples} held-out examples"
    show(["bits", *(f"{ranges}, {granularity}" for ranges, granularity in KINDS), "bytes"], _rows(found), title=title)
    return 0


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of widths", where="--bits", fix=f"such as {DEFAULT_BITS}") from error


def _rows(found: HeadEvaluation) -> list[list[str]]:
    shown = {(head.bits, head.ranges, head.granularity): head for head in found.heads}
    rows = []
    for width in dict.fromkeys(head.bits for head in found.heads):
        kinds = KINDS[:1] if width == FULL else KINDS
        cells = [percent(shown[width, *kind].accuracy) for kind in kinds] + [""] * (len(KINDS) - len(kinds))
        rows.append([str(width), *cells, str(shown[width, *KINDS[0]].size_bytes)])
    return rows
