"""Runs ``edgetpu_compiler``, Coral's closed program for x86-64 Debian systems."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from firmware_tools.compile.compiler_log import CompilerLog, parse_log
from protos.errors import ModelError, UsageError

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
