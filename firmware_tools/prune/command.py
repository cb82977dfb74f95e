"""``firmware-tools prune``: options, their checks, the child process that does the work, and what is printed."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from firmware_tools.child import run_in_child
from firmware_tools.convert.job import PREPROCESSING
from firmware_tools.convert.sources.recognise import recognise
from firmware_tools.prune.job import TARGETS, PruneJob
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.energy.boards import board
from protos.errors import DataError, StoreError, UsageError

# The criteria themselves need TensorFlow; a test compares these names with theirs.
CRITERION_NAMES = ("taylor", "least_squares", "l1")

_DESCRIPTION = """\
Remove filters of a Keras model that it can do without, and write a smaller Keras model of the same layers.

Say how much goes: a share of each layer, what accuracy each layer may cost, or what the whole is to come down to.
With examples, the weights that are left are fitted to what each layer gave before.
Residual adds, concatenations, batch normalisation, depthwise convolutions and dense layers behind a Flatten are
followed, so that every weight that is left belongs to a channel that is left."""

_EPILOG = """\
examples:
  firmware-tools prune resnet.h5 --data cifar10.npz --target macs=0.5 --epochs 10 -o small.keras
  firmware-tools prune cnn.keras --criterion l1 --ratio 0.5 --ratio conv1=0.25 -o small.keras
  firmware-tools prune cnn.keras --data digits.npz --max-drop 0.01 -o small.keras

exit codes: 0 done; 2 wrong options; 6 the model cannot be used; 8 to 13 the data cannot be used"""


def add_command(commands: Any) -> None:
    """Add ``prune`` to the sub-commands of an argparse parser."""
    parser = commands.add_parser(
        "prune",
        help="a Keras model without the filters that it can do without",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a .keras or .h5 file")
    parser.add_argument("-o", "--output", metavar="MODEL.keras", type=Path, required=True)
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--data", metavar="DATA", help="examples: the training part scores and fine-tunes, the held-out part judges"
    )
    parser.add_argument("--preprocess", choices=tuple(PREPROCESSING), default="none", help="as in convert")
    much = parser.add_argument_group("how much (one of them)")
    much.add_argument(
        "--ratio",
        metavar="[LAYER=]SHARE",
        action="append",
        help="share of the filters of a layer, or of all, to go",
    )
    much.add_argument(
        "--max-drop", metavar="SHARE", type=float,
        help="accuracy that pruning each layer alone may cost on training examples",
    )  # fmt: skip
    much.add_argument(
        "--target", metavar="WHAT=SHARE", help=f"come down to a share of what it was: {', '.join(TARGETS)}"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--criterion", choices=CRITERION_NAMES, default="taylor",
        help="taylor: what the loss changes without a filter (default); least_squares: what no other filter could make "
        "up for; l1: size of its weights. The first two need --data",
    )  # fmt: skip
    how.add_argument(
        "--multiple", metavar="N", type=int, default=4, help="layers keep a multiple of N filters (default 4)"
    )
    how.add_argument(
        "--refit", action="store_true",
        help="fit the last layer of MODEL to the training examples first, and that of the pruned one: where they are "
        "of another kind than those that it was trained on; needs --data",
    )  # fmt: skip
    how.add_argument("--epochs", metavar="N", type=int, default=0, help="passes of fine-tuning (default 0)")
    how.add_argument("--rate", metavar="RATE", type=float, default=1e-3, help="of fine-tuning (default 0.001)")
    how.add_argument(
        "--no-teacher", action="store_true", help="fine-tune on labels alone, not on the outputs of MODEL as well"
    )
    how.add_argument(
        "--mirror", action="store_true", help="fine-tune on images left for right as well: not for letters or digits"
    )
    how.add_argument(
        "--shift", metavar="PIXELS", type=int, default=0,
        help="fine-tune on images moved by up to so many pixels, by other ones each time (default 0)",
    )  # fmt: skip
    how.add_argument(
        "--teacher", metavar="MODEL", type=Path,
        help="fine-tune on the outputs of this model instead of those of the one that is pruned, such as the whole "
        "one where that has been pruned before",
    )  # fmt: skip
    how.add_argument(
        "--board", metavar="NAME", default="pi4",
        help="board, or FILE.toml, whose joules are meant: milliseconds as measured here, times the watts of one busy "
        "core of it (default pi4)",
    )  # fmt: skip
    how.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--log", metavar="FILE", type=Path, help="keep what TensorFlow printed")


def run(options: argparse.Namespace) -> int:
    """Prune as the options say and print the report.

    Raises:
        EdgejouleError: see the exit codes.
    """
    job = _job(options)
    if options.output.suffix != ".keras":
        raise UsageError("the pruned model is a .keras file", where=str(options.output), fix="name it MODEL.keras")
    if options.output.exists() and not options.force:
        raise UsageError("is there already", where=str(options.output), fix="choose another -o, or give --force")
    if not options.output.absolute().parent.is_dir():
        where = str(options.output.absolute().parent)
        raise UsageError("no such folder", where=where, fix="make it, or choose another -o")
    with tempfile.TemporaryDirectory(prefix="edgejoule-prune-") as folder:
        made = Path(folder) / "model.keras"
        report = run_in_child(
            "firmware_tools.prune.worker:run",
            {**job.to_fields(), "output": str(made)},
            where=options.model.name,
            progress=lambda line: print(f"firmware-tools prune: {line}", file=sys.stderr, flush=True),
            log=options.log,
        )
        try:
            with write_whole(options.output) as file:
                file.write(made.read_bytes())
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(options.output)) from error
    report["output"] = str(options.output)
    print(json.dumps(document("prune", report), indent=2) if options.json else "\n".join(_lines(report)))
    return 0


def _job(options: argparse.Namespace) -> PruneJob:
    kind = recognise(options.model)
    if kind not in ("keras", "h5"):
        raise UsageError("only Keras files can be pruned", where=options.model.name, fix="give a .keras or .h5 file")
    if sum(one is not None for one in (options.ratio, options.max_drop, options.target)) != 1:
        raise UsageError("say how much goes", fix="give one of --ratio, --max-drop and --target")
    needs = [name for name, asked in ((f"--criterion {options.criterion}", options.criterion != "l1"),
                                      ("--refit", options.refit),
                                      ("--max-drop", options.max_drop is not None), ("--epochs", options.epochs > 0))
             if asked]  # fmt: skip
    if options.data is None and needs:
        raise UsageError(f"{needs[0]} needs examples", fix="give --data DATA, or --criterion l1")
    if options.data is not None and not Path(options.data).expanduser().exists():
        raise DataError("no such file or folder", where=options.data, fix="check the path")
    for name, value, low, high in (
        ("--max-drop", options.max_drop, 0.0, 1.0),
        ("--multiple", options.multiple, 1, 1024),
        ("--epochs", options.epochs, 0, 10_000),
        ("--rate", options.rate, 0.0, 10.0),
        ("--shift", options.shift, 0, 64),
        ("--seed", options.seed, 0, 1 << 62),
    ):
        if value is not None and not low <= value <= high:
            raise UsageError(f"{name} {value} is outside {low}..{high}")
    if options.teacher is not None:
        if options.no_teacher:
            raise UsageError("--teacher and --no-teacher exclude each other")
        if recognise(options.teacher) not in ("keras", "h5"):
            raise UsageError("only a Keras file can be the teacher", where=options.teacher.name,
                             fix="give a .keras or .h5 file")  # fmt: skip
    board(options.board)
    target, share = _target(options.target)
    return PruneJob(
        model=os.path.abspath(options.model),
        output="",
        data=options.data,
        preprocess=options.preprocess,
        criterion=options.criterion,
        ratios=_ratios(options.ratio),
        max_drop=options.max_drop,
        target=target,
        target_share=share,
        multiple=options.multiple,
        epochs=options.epochs,
        rate=options.rate,
        teacher=not options.no_teacher,
        refit=options.refit,
        mirror=options.mirror,
        shift=options.shift,
        taught_by=None if options.teacher is None else os.path.abspath(options.teacher),
        board=os.path.abspath(options.board) if options.board.endswith(".toml") else options.board,
        seed=options.seed,
    )


def _share(text: str, where: str, below: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= below:
        raise UsageError(f"{text!r} is no share from 0 to {below:g}", where=where)
    return value


def _ratios(given: list[str] | None) -> dict[str, float] | None:
    if given is None:
        return None
    found: dict[str, float] = {}
    for text in given:
        layer, _, share = text.rpartition("=")
        if (layer or "*") in found:
            raise UsageError(f"is given twice for {layer or 'all layers'}", where="--ratio", fix="give one of them")
        found[layer or "*"] = _share(share, "--ratio", 0.9)
    return found


def _target(given: str | None) -> tuple[str | None, float]:
    if given is None:
        return None, 1.0
    what, _, share = given.partition("=")
    if what not in TARGETS or not share:
        raise UsageError(f"{given!r} is no target", where="--target", fix="such as macs=0.5; " + ", ".join(TARGETS))
    return what, _share(share, "--target", 1.0)


def _lines(report: dict[str, Any]) -> list[str]:
    before, after = report["before"], report["after"]
    lines = [f"{report['output']}: {report['model']} pruned by {report['criterion']}"]
    for name, key, form in (
        ("parameters", "parameters", "{:,}"),
        ("multiply-adds", "macs", "{:,}"),
        ("int8 bytes", "int8_bytes", "{:,}"),
        ("latency, ms", "latency_ms", "{:.3f}"),
        ("joules, est.", "joules", "{:.3g}"),
    ):
        if before[key] is None or after[key] is None:
            lines.append(f"  {name:<14}{'?':>14}{'?':>14}")
            continue
        share = after["latency_share"] if key in ("latency_ms", "joules") else after[key] / before[key]
        change = 100 * (share - 1)
        lines.append(f"  {name:<14}{form.format(before[key]):>14}{form.format(after[key]):>14}{change:>+9.1f} %")
    if after["accuracy"] is not None:
        lines.append(f"  {'accuracy, %':<14}{100 * before['accuracy']:>14.2f}{100 * after['accuracy']:>14.2f}"
                     f"{100 * (after['accuracy'] - before['accuracy']):>+9.2f}")  # fmt: skip
        if before.get("accuracy_refitted") is not None:
            lines.append(f"  last layer of {report['model']} fitted anew {100 * before['accuracy_refitted']:.2f} %")
        if report["epochs"]:
            lines.append(f"  before fine-tuning {100 * after['accuracy_before_fine_tuning']:.2f} %")
    lines += [f"  {' + '.join(layer['layers'])}: {layer['kept']} of {layer['of']}" for layer in report["layers"]]
    if report["kept_whole"]:
        lines.append(f"  left alone, with all that they read: {', '.join(report['kept_whole'])}")
    return lines
