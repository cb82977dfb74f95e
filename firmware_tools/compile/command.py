"""``firmware-tools compile``: options, the prediction, the compiler, the check of its twin, and what is printed.

Runs ``edgetpu_compiler``, Coral's closed program for x86-64 Debian systems.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_tools.child import run_in_child
from firmware_tools.compile.compiler_log import CompilerLog, parse_log
from firmware_tools.compile.into_bundle import put_twin, refuse_if_unfit
from firmware_tools.compile.report import compiled_facts, differences, lines
from protos.atomic import write_whole
from protos.commands.program import HelpFormatter
from protos.errors import CheckFailed, ModelError, StoreError, UsageError

__all__ = []

PROGRAM = "edgetpu_compiler"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The twin that the compiler wrote, and what it said."""

    twin: Path
    log: CompilerLog


def find_compiler() -> str:
    """Path of the compiler.

    Raises:
        UsageError: it is not on PATH.
    """
    path = shutil.which(PROGRAM)
    if path is None:
        raise UsageError(
            f"{PROGRAM} is not on PATH",
            fix="install it (x86-64 Debian only), or give --predict, or --twin FILE with a twin compiled elsewhere",
        )
    return path


def command_for(compiler: str, model: Path, folder: Path) -> list[str]:
    """The command that compiles `model` into `folder`; ``-s`` prints what became of each operator."""
    return [compiler, "-s", "-o", str(folder), str(model)]


def run_compiler(command: list[str], model: Path, folder: Path) -> Compiled:
    """Run the command of `command_for`; the compiler is ended when this is interrupted.

    Raises:
        UsageError: the program cannot be started.
        ModelError: the compiler refuses the model, dies, or writes no twin.
    """
    try:
        # subprocess.run kills the child when anything, an interrupt included, ends the wait.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise UsageError(f"cannot be started ({error.strerror})", where=command[0]) from error
    log = parse_log(done.stdout.decode(errors="replace"))
    twin = folder / f"{model.stem}_edgetpu.tflite"
    if done.returncode != 0 or not log.succeeded or not twin.is_file():
        raise ModelError(f"{PROGRAM} made no twin: {_why(done, log)}", where=model.name,
                         fix="give --predict to see what each operator asks for")  # fmt: skip
    return Compiled(twin, log)


def _why(done: subprocess.CompletedProcess[bytes], log: CompilerLog) -> str:
    if log.complaints:
        return log.complaints[0].removeprefix("ERROR: ")[:300]
    if done.returncode < 0:
        return f"it died of signal {-done.returncode}"
    lines = done.stdout.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
    return f"code {done.returncode}, {lines[-1].strip()[:300]}"


_DESCRIPTION = """\
Compile an integer model for Coral's Edge TPU with edgetpu_compiler, and check that the twin takes and gives exactly
what the model does. --predict tells which operators will run there, without the compiler.

MODEL is a .tflite file, or a bundle, whose backbone is meant. --into-bundle makes the twin a part of that bundle, which
gets a new id; devices with an Edge TPU then run it."""

_EXAMPLES = """\
examples:
  firmware-tools compile bundle/ --predict
  firmware-tools compile bundle/ -o backbone_edgetpu.tflite
  firmware-tools compile bundle/ --into-bundle
  firmware-tools compile bundle/ --into-bundle --twin backbone_edgetpu.tflite
  firmware-tools compile model.tflite --twin model_edgetpu.tflite

exit codes: 0 done; 2 wrong options, or no compiler; 3 --require-all, and an operator is predicted for the CPU;
6 the model or its twin cannot be used; 7 the bundle was changed; 15 the twin or the bundle cannot be written"""


def add_command(commands: Any) -> None:
    """Add ``compile`` to the sub-commands of an argparse parser."""
    parser = commands.add_parser(
        "compile",
        help="compile a model for the Edge TPU, or predict what will run there",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", type=Path)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--predict", action="store_true", help="only predict; needs no compiler")
    way.add_argument("--twin", metavar="FILE", type=Path, help="check a twin that was compiled elsewhere")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the twin to write (default: NAME_edgetpu.tflite, here)"
    )
    parser.add_argument(
        "--into-bundle", action="store_true", help="put the twin, compiled or given by --twin, into the bundle"
    )
    parser.add_argument("--force", action="store_true", help="replace a twin that is there")
    parser.add_argument(
        "--require-all", action="store_true", help="exit code 3 unless every operator is predicted for the Edge TPU"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Predict, compile or check as the options say, and print the report.

    Raises:
        EdgejouleError: see the exit codes.
    """
    model = options.model
    if options.output is not None and (options.predict or options.twin is not None or options.into_bundle):
        raise UsageError("-o is for compiling to a file; --predict, --twin and --into-bundle write none")
    if options.predict and options.into_bundle:
        raise UsageError("--predict makes no twin that could go into a bundle")
    if options.into_bundle:
        refuse_if_unfit(model, force=options.force)
    compiles = not options.predict and options.twin is None
    output = _free(options) if compiles and not options.into_bundle else None
    report = _in_child("report:predict_file", model, model=str(model))
    if not options.predict and any(
        " is int16, not 8-bit" in (operator["reason"] or "") for operator in report["operators"]
    ):
        raise ModelError("has activations of 16 bits", where=str(model),
                         fix="the Edge TPU takes 8: convert it without --activations int16")  # fmt: skip
    compiler = find_compiler() if compiles else None
    if options.require_all and not report["complete"]:
        _print(report, options)
        left = report["total"] - report["mapped"]
        raise CheckFailed(f"{left} of {report['total']} operators are predicted for the CPU", where=str(model))
    if options.twin is not None:
        report["twin"] = _checked(report["file"], options.twin) | {"file": str(options.twin)}
        if options.into_bundle:
            report["bundle"] = put_twin(model, options.twin, None)
    elif compiler is not None:
        _compile(report, compiler, output, model)
    _print(report, options)
    return 0


def _compile(report: dict[str, Any], compiler: str, output: Path | None, bundle: Path) -> None:
    """Compile, check, and write the twin to `output`, or into the bundle."""
    model = Path(report["file"])
    with tempfile.TemporaryDirectory(prefix="edgejoule-compile-") as folder:
        command = command_for(compiler, model, Path(folder))
        print(f"firmware-tools compile: {shlex.join(command)}", file=sys.stderr, flush=True)
        compiled = run_compiler(command, model, Path(folder))
        report["compiled"] = compiled_facts(command, compiled.log)
        report["differences"] = differences(report, compiled.log)
        checked = _checked(str(model), compiled.twin)
        if output is None:
            report["bundle"] = put_twin(bundle, compiled.twin, compiled.log.version)
            report["twin"] = checked | {"file": str(bundle / report["bundle"]["file"])}
            return
        report["twin"] = checked | {"file": str(output)}
        try:
            with write_whole(output) as file:
                file.write(compiled.twin.read_bytes())
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(output)) from error


def _checked(model: str, twin: Path) -> dict[str, Any]:
    return _in_child("twin:check_files", twin, model=model, twin=str(twin))


def _in_child(target: str, where: Path, **job: str) -> dict[str, Any]:
    return run_in_child(f"firmware_tools.compile.{target}", job, where=str(where), progress=lambda line: None)


def _free(options: argparse.Namespace) -> Path:
    model: Path = options.model
    name = model.absolute().name if model.is_dir() else model.stem
    output: Path = options.output or Path(f"{name}_edgetpu.tflite")
    if output.is_dir():
        raise UsageError("is a folder", where=str(output), fix="name a file with -o FILE")
    if model.exists() and output.exists() and output.samefile(model):
        raise UsageError("is the model itself", where=str(output), fix="choose another -o FILE")
    if output.exists() and not options.force:
        raise UsageError("is there already", where=str(output), fix="give --force to replace it")
    return output


def _print(report: dict[str, Any], options: argparse.Namespace) -> None:
    print(json.dumps(report, indent=2) if options.json else "\n".join(lines(report)))
