"""`coordinator export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from coordinator.commands.parts import (
    add_address,
    add_json,
    add_max_drop,
    add_run,
    check_max_drop,
    example,
    operator,
)
from coordinator.operator import as_json
from coordinator.operator.tables import number, percent
from protos.errors import UsageError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="write backbone and fine-tuned head as one integer model",
        description="Writes one fully integer .tflite, whole or not at all. It is run on the held-out data first, and "
        "refused (exit code 3) when it is worse than the float head by more than --max-drop and two standard errors. "
        "Of a run whose head denoises it writes an .npz for firmware-tools sample. With --head-alone it writes the "
        "head's tensors as an .npz, for numpy and for the start_from of another plan; with --bundle a bundle, as "
        "firmware-tools convert makes them, that training starts from with this head.",
        **example("coordinator export digits -o model.tflite"),
    )
    add_run(parser)
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="PATH", help="the file, such as MODEL.tflite"
    )
    parser.add_argument(
        "--head",
        default="",
        metavar="VERSION",
        help="a head of an earlier round (default: the best on the held-out data)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--head-alone", action="store_true", help="the tensors of the head as an .npz, no model")
    other.add_argument(
        "--bundle", action="store_true", help="a bundle that starts from this head, no model; -o a folder"
    )
    add_max_drop(parser)
    parser.add_argument("--again", action="store_true", help="replace what is there")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export a run."""
    check_max_drop(arguments.max_drop)
    if arguments.output.exists() and not arguments.again:
        raise UsageError("is there already", where=str(arguments.output), fix="choose another -o, or add --again")
    if arguments.head_alone and arguments.output.suffix != ".npz":
        raise UsageError("is no name of a head's file", where=str(arguments.output), fix="end it with .npz")
    with operator(arguments) as connection:
        if arguments.bundle:
            summary = connection.export_bundle(arguments.which, arguments.output, arguments.head, again=arguments.again)
        else:
            summary = connection.export(
                arguments.which,
                arguments.output,
                arguments.head,
                max_drop=arguments.max_drop,
                head_alone=arguments.head_alone,
            )
    if arguments.json:
        print(as_json.dump(as_json.export(summary, str(arguments.output))))
        return 0
    print(f"{arguments.output}: {summary.size_bytes} bytes, {summary.head_version}")
    if not summary.operators:
        print(f"note: {summary.note}")
        return 0
    print(f"operators: {', '.join(summary.operators)}")
    found = summary.measured
    if found is not None:
        print(f"{found.measure}: float head {number(found.float_score, 4)}, exported {number(found.exported_score, 4)}")
        for name, value in found.float_rmse.items():
            print(f"RMSE of {name}: float head {value:.4g}, exported {found.exported_rmse[name]:.4g}")
    elif summary.exported_accuracy is None:
        print("accuracy: not checked, the held-out data are not there any more")
    else:
        print(f"accuracy: float head {percent(summary.float_accuracy)}, exported {percent(summary.exported_accuracy)}")
    if summary.note:
        print(f"note: {summary.note}")
    return 0
