"""``firmware-tools convert``: options, their checks, the child process that does the work, and what is printed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from firmware_tools.child import run_in_child
from firmware_tools.convert.job import (
    ACTIVATIONS,
    EQUALISE,
    HEAD,
    LAST_BLOCK,
    PREPROCESSING,
    STRAIGHT,
    TRAINABLE,
    ConvertJob,
)
from firmware_tools.convert.sources.recognise import recognise
from firmware_tools.convert.staging import check_free, staged
from firmware_tools.inspect.text import lines
from protos.catalog import hint
from protos.commands.program import HelpFormatter
from protos.datafiles.front_end import front_end_of
from protos.datafiles.renames import read_renames
from protos.energy.boards import board
from protos.errors import DataError, UsageError
from protos.model.task import ANOMALY, DIFFUSION, REGRESSION
from protos.plugins import find, installed

SCHEMA = "edgejoule.convert/1"
# The tables themselves need TensorFlow; a test compares these names with them.
OBJECTIVE_NAMES = ("cross_entropy", "kure", "kure_scaled", "qat", "apqn", "mqat", "paired")
# Objectives of heads that are no classifiers.
TASK_NAMES = (REGRESSION, ANOMALY, DIFFUSION)
OPTIMISER_NAMES = ("sgd", "adam")

_DESCRIPTION = """\
Make a bundle from a trained model: a frozen int8 backbone and a head that trains inside TFLite.

MODEL is a .keras or .h5 file, a SavedModel folder, or a .tflite (a classifier is cut in it).
DATA is an .npz file with x, y and optional is_test; an idx(.gz) pair; or a folder of images by class."""

_EXAMPLES = """\
examples:
  firmware-tools convert cnn.keras --calibrate digits.npz --eval digits.npz -o bundle/
  firmware-tools convert resnet.h5 --calibrate cifar10.npz --cut flatten --hidden 32 -o bundle/
  firmware-tools convert extractor.tflite --calibrate photos/ -o flowers/
  firmware-tools convert gauge.keras --objective regression --class-names bar --eval gauges.npz -o gauge/
  firmware-tools convert encoder.keras --objective diffusion --calibrate digits.npz --optimizer adam -o maker/
  firmware-tools convert cnn.keras --eval digits.npz --trainable last-block --train-memory 512k -o deeper/
  firmware-tools convert autoencoder.keras --objective anomaly --eval machines.npz -o machine/

exit codes: 0 done; 2 wrong options; 3 agreement under --min-agreement; 6 the model cannot be used;
10 NaN in the model or the data; 8 to 13 the data cannot be used; 15 the bundle cannot be written"""


def add_command(commands: Any) -> None:
    """Add ``convert`` to the sub-commands of an argparse parser."""
    parser = commands.add_parser(
        "convert",
        help="a trained model to an int8 bundle with a trainable head",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("-o", "--output", metavar="BUNDLE", type=Path, required=True, help="folder to make")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--name", help="name of the bundle (default: from MODEL)")
    cut = parser.add_argument_group("backbone")
    cut.add_argument(
        "--cut", metavar="LAYER",
        help="layer (SavedModel: operation, tensor) whose output is the embedding (default: the last Dense's input)",
    )  # fmt: skip
    cut.add_argument(
        "--signature", metavar="NAME",
        help="signature of a SavedModel or .tflite, or function of a SavedModel (default: serving_default, or the one)",
    )  # fmt: skip
    cut.add_argument("--input-shape", metavar="H,W,C", help="shape of one example, for models that leave it open")
    cut.add_argument(
        "--calibrate", metavar="DATA", help="real examples for int8 ranges (default: training part of --eval)"
    )
    cut.add_argument("--calibration-examples", metavar="N", type=int, default=500, help="how many (default: 500)")
    cut.add_argument(
        "--preprocess", choices=(*PREPROCESSING, STRAIGHT),
        help="raw value to model input: none; unit: /255; symmetric: /127.5 - 1; straight (.tflite only, and its "
        "default): a raw 0..255 value is the quantised one",
    )  # fmt: skip
    cut.add_argument(
        "--equalise", choices=EQUALISE, default="auto",
        help="let layers in a row share the ranges of their channels: auto where integers lose more than 25 dB allow, "
        "and kept where it helps (default: auto)",
    )  # fmt: skip
    cut.add_argument(
        "--bias-correction", action="store_true", help="give each channel its float mean, and keep that where it helps"
    )
    cut.add_argument(
        "--activations", choices=ACTIVATIONS, default="int8",
        help="int16: finer steps between the int8 ends, where int8 loses much; exact and slower, on CPUs alone "
        "(default: int8)",
    )  # fmt: skip
    cut.add_argument(
        "--qat", metavar="DATA",
        help="train the integer weights on, with the float model as their teacher, on these examples (100 or "
        "more; training part, if marked), and keep that where it helps",
    )  # fmt: skip
    cut.add_argument("--qat-steps", metavar="N", type=int, help="of 32 examples (default: 400)")
    cut.add_argument("--qat-rate", metavar="R", type=float, help="step, in ranges of weights (default: 0.0001)")
    cut.add_argument("--layers", action="store_true", help="tell what each layer loses by integers (SQNR in dB)")
    cut.add_argument(
        "--front-end", metavar="LINE",
        help="what makes examples of recordings (log-mel ...) or tables (windows ..., rows ...); kept in the bundle",
    )  # fmt: skip
    head = parser.add_argument_group("head")
    head.add_argument("--classes", metavar="N", type=int, help="number of classes (default: of the model, or the data)")
    head.add_argument(
        "--class-names", metavar="A,B,...", help="names of the classes, or of a regression's quantities, in order"
    )
    head.add_argument(
        "--rename", metavar="OLD=NEW,...", help="class of the data = class of the bundle, where names differ"
    )
    head.add_argument("--hidden", metavar="UNITS", type=int, help="a hidden layer with ReLU (default: a linear head)")
    head.add_argument(
        "--class-sums", action="store_true",
        help="keep the class sums of all calibration examples in the bundle, for heads of single devices",
    )  # fmt: skip
    head.add_argument(
        "--fresh-head", action="store_true", help="start untrained even where the model's last layer fits"
    )
    head.add_argument(
        "--objective", metavar="NAME", default="cross_entropy",
        help=f"{', '.join(OBJECTIVE_NAMES)}, or one of an installed package (default: cross_entropy); regression: "
        "quantities, y [N, K] of DATA; anomaly: what differs from normal examples, of label 0 (with --hidden by "
        "reconstruction); diffusion: new examples of each class, MODEL an encoder",
    )  # fmt: skip
    head.add_argument("--optimizer", choices=OPTIMISER_NAMES, default="sgd")
    head.add_argument(
        "--batch-size", metavar="B", type=int, default=32, help="examples in a training step (default: 32)"
    )
    head.add_argument("--seed", type=int, default=0, help="for drawing examples and hidden weights (default: 0)")
    deeper = parser.add_argument_group("beyond the head")
    deeper.add_argument(
        "--trainable", choices=TRAINABLE, default=HEAD,
        help="what trains: head; bias, the biases of layers in front of it too; last-block, and the kernels of the "
        "last layers of 1 x 1 (default: head)",
    )  # fmt: skip
    deeper.add_argument(
        "--pointwise", metavar="N", type=int, help="kernels of 1 x 1 that last-block trains (default: 1)"
    )
    deeper.add_argument(
        "--train-memory", metavar="SIZE", help="working memory that a step may take, such as 256k (default: 4M)"
    )
    deeper.add_argument("--train-joules", metavar="J", type=float, help="joules that a step may take on --board")
    deeper.add_argument("--board", metavar="NAME", help="board, or FILE.toml, whose joules are meant (default: pi4)")
    check = parser.add_argument_group("check")
    check.add_argument(
        "--eval", metavar="DATA", help="examples to compare float and int8 on (held-out part, if marked)"
    )
    check.add_argument(
        "--min-agreement", metavar="COSINE", type=float, default=0.95,
        help="least mean cosine of float and int8 embeddings; under it, exit code 3 and no bundle (default: 0.95)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--log", metavar="FILE", type=Path, help="keep what TensorFlow printed")


def run(options: argparse.Namespace) -> int:
    """Convert as the options say and print the report.

    Raises:
        EdgejouleError: see the exit codes.
    """
    check_free(options.output, force=options.force)
    job = _job(options)
    if options.log is not None:
        try:
            options.log.write_bytes(b"")
        except OSError as error:
            raise UsageError(f"--log cannot be written ({error.strerror})", where=str(options.log)) from error
    with staged(options.output, force=options.force) as folder:
        report = run_in_child(
            "firmware_tools.convert.worker:run",
            dataclasses.replace(job, output=str(folder)).to_fields(),
            where=options.model.name,
            progress=lambda line: print(f"firmware-tools convert: {line}", file=sys.stderr, flush=True),
            log=options.log,
        )
    report |= {"schema": SCHEMA, "bundle": str(options.output)}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(lines(report)))
    return 0


def _job(options: argparse.Namespace) -> ConvertJob:
    if options.objective not in (*OBJECTIVE_NAMES, *TASK_NAMES) and find("objectives", options.objective) is None:
        known = [*OBJECTIVE_NAMES, *TASK_NAMES, *(plugin.name for plugin in installed("objectives"))]
        fix = f"{hint(options.objective, known)}; or install the package that has it"
        raise UsageError(f"no objective is called {options.objective!r}", where="--objective", fix=fix)
    kind = recognise(options.model)
    if options.signature is not None and kind not in ("saved_model", "tflite"):
        raise UsageError(
            f"--signature {options.signature}: only a SavedModel or a .tflite has signatures", where=options.model.name,
            fix="leave it out, or give the SavedModel folder",
        )  # fmt: skip
    names = None if options.class_names is None else tuple(part.strip() for part in options.class_names.split(","))
    least = 1 if options.objective == REGRESSION else 2
    if names is not None and (len(names) < least or not all(names) or len(set(names)) != len(names)):
        raise UsageError("--class-names needs two or more different names, divided by commas")
    if names is not None and options.classes not in (None, len(names)):
        raise UsageError(f"--classes {options.classes}, but --class-names gives {len(names)}")
    for option, value, low, high in (
        ("--classes", options.classes, least, 1 << 16),
        ("--hidden", options.hidden, 1, 1 << 16),
        ("--batch-size", options.batch_size, 1, 4096),
        ("--calibration-examples", options.calibration_examples, 1, 1 << 20),
        ("--min-agreement", options.min_agreement, -1, 1),
        ("--seed", options.seed, 0, 1 << 62),
        ("--qat-steps", options.qat_steps, 1, 1 << 20),
        ("--qat-rate", options.qat_rate, 1e-6, 0.1),
    ):
        if value is not None and not low <= value <= high:
            raise UsageError(f"{option} {value} is outside {low}..{high}")
    if options.objective == ANOMALY and (options.classes or 2) != 2:
        raise UsageError(f"--classes {options.classes}: an anomaly head knows two, normal and anomaly")
    _require_company(options)
    if options.qat is not None and options.activations != "int8":
        raise UsageError("--qat trains weights for 8-bit activations", fix="leave it or --activations int16 out")
    for spec in (options.calibrate, options.eval, options.qat):
        if spec is not None and not Path(spec).expanduser().exists():
            raise DataError("no such file or folder", where=spec, fix="check the path")
    return ConvertJob(
        model=str(options.model.absolute()),
        kind=kind,
        output="",
        name=_name(options.name, options.model),
        cut=options.cut,
        signature=options.signature,
        input_shape=_shape(options.input_shape),
        classes=len(names) if names is not None else options.classes,
        class_names=names,
        renames=_renames(options.rename),
        hidden_units=options.hidden,
        fresh_head=options.fresh_head,
        class_sums=_class_sums(options),
        calibrate=options.calibrate,
        calibration_examples=options.calibration_examples,
        evaluate=options.eval,
        objective=options.objective,
        optimiser=options.optimizer,
        batch_size=options.batch_size,
        preprocess=options.preprocess,
        min_agreement=options.min_agreement,
        seed=options.seed,
        front_end=_front_end(options.front_end),
        equalise=options.equalise,
        bias_correction=options.bias_correction,
        layers=options.layers,
        trainable=_trainable(options),
        **_given(options, "pointwise", "board", "qat_steps", "qat_rate"),
        train_memory=_bytes(options.train_memory),
        train_joules=options.train_joules,
        activations=options.activations,
        qat=options.qat,
    )


def _require_company(options: argparse.Namespace) -> None:
    """Options that do nothing without another are refused there: who gives them means something by them."""
    deeper = options.trainable != HEAD
    for option, given, needs, there in (
        ("--pointwise", options.pointwise, f"--trainable {LAST_BLOCK}", options.trainable == LAST_BLOCK),
        ("--train-memory", options.train_memory, "--trainable", deeper),
        ("--train-joules", options.train_joules, "--trainable", deeper),
        ("--board", options.board, "--trainable", deeper),
        ("--qat-steps", options.qat_steps, "--qat", options.qat is not None),
        ("--qat-rate", options.qat_rate, "--qat", options.qat is not None),
    ):
        if given is not None and not there:
            raise UsageError(f"{option} {given} does nothing without {needs}", fix=f"give {needs} too, or leave it out")


def _class_sums(options: argparse.Namespace) -> bool:
    """Whether class sums are asked for, of a head that has use for them."""
    if not options.class_sums:
        return False
    if options.hidden is not None or options.trainable != HEAD or options.objective in (*TASK_NAMES,):
        other = next(
            name for name, there in ((f"--hidden {options.hidden}", options.hidden is not None),
                                     (f"--trainable {options.trainable}", options.trainable != HEAD),
                                     (f"--objective {options.objective}", True)) if there
        )  # fmt: skip
        raise UsageError(f"--class-sums is for linear heads of classifiers, and does nothing beside {other}",
                         fix="leave one of the two out")  # fmt: skip
    return True


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What was given of options whose defaults are those of :class:`ConvertJob`."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _trainable(options: argparse.Namespace) -> str:
    """What trains, where the other options go with it."""
    mode: str = options.trainable
    if mode == HEAD:
        return mode
    if options.objective != "cross_entropy":
        raise UsageError(
            f"--trainable {mode} goes with cross_entropy alone, and the objective is {options.objective}",
            fix="leave --objective or --trainable out",
        )
    if options.activations != "int8" or options.qat is not None:
        raise UsageError(
            f"--trainable {mode} goes with a trunk of int8 that is quantised as it is",
            fix="leave --activations and --qat out, or --trainable",
        )
    if options.pointwise is not None and not 1 <= options.pointwise <= 100:
        raise UsageError(f"--pointwise {options.pointwise} is outside 1..100")
    if options.train_joules is not None and not options.train_joules > 0:
        raise UsageError(f"--train-joules {options.train_joules} is not above 0")
    if options.board is not None:
        board(options.board)
    return mode


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([kM]?)B?", text)
    if not found or not int(found[1]):
        raise UsageError(f"--train-memory {text!r} is no size such as 256k or 2M")
    return int(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]


def _front_end(text: str | None) -> str | None:
    """The line itself, when it says a front end."""
    if text is not None:
        front_end_of(text)
    return text


def _renames(text: str | None) -> dict[str, str]:
    try:
        return read_renames(text) if text is not None else {}
    except ValueError as error:
        raise UsageError(f"{text!r} is {error}", where="--rename", fix="such as katze=cat,hund=dog") from error


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}([,x][1-9]\d{0,5}){0,5}", text):
        raise UsageError(f"--input-shape {text!r} is no list of sizes such as 96,96,3")
    return tuple(int(part) for part in re.split("[,x]", text))


def _name(asked: str | None, model: Path) -> str:
    allowed = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]{0,99}")
    if asked is not None:
        if not allowed.fullmatch(asked):
            raise UsageError(f"--name {asked!r} needs 1 to 100 of letters, digits, space and . _ + -")
        return asked
    stem = model.absolute().name if model.is_dir() else model.stem
    plain = re.sub(r"[^A-Za-z0-9._ +-]", "-", stem).lstrip(". _+-")[:100]
    return plain or "bundle"
