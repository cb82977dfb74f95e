"""avrdude, the program that writes an AVR's flash through its bootloader: its command lines, and what it says.

Option letters as in its manual, section 2.1 (avrdude 7.1): ``-D`` leaves the erasing to the bootloader; a write is
followed by a read and a comparison.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from protos.errors import EdgejouleError, FlashError, MismatchError

__all__ = ["BAUD", "OLD_BAUD", "PACKAGE", "avrdude_line", "require_avrdude", "run_avrdude"]

BAUD = 115_200
"""Of Optiboot: Uno, and Nano since 2018."""
OLD_BAUD = 57_600
"""Of the ATmegaBOOT of older Nanos."""
PACKAGE = "apt install avrdude"
PATIENCE_S = 180.0
"""32 KB at the old rate, written and read, are 12 s; a silent bootloader is given up by avrdude after a minute."""

_MISMATCH = re.compile(r"verification (mismatch|error)|content mismatch", re.IGNORECASE)
_NO_TALK = re.compile(r"not in sync|not responding|programmer is not|unable to open", re.IGNORECASE)


def avrdude_line(port: str, image: Path, *, baud: int = BAUD, write: bool = True) -> list[str]:
    """The command that writes ``image``, an Intel hex file, or only compares the flash with it."""
    action = f"flash:{'w' if write else 'v'}:{image}:i"
    return ["avrdude", "-p", "m328p", "-c", "arduino", "-P", port, "-b", str(baud), "-D", "-U", action]


def require_avrdude() -> None:
    """Raises EdgejouleError when it is not installed."""
    if shutil.which("avrdude") is None:
        raise EdgejouleError("avrdude is not installed", where="avrdude", fix=PACKAGE)


def run_avrdude(line: Sequence[str], *, log: Path | None = None) -> str:
    """Run it to its end; what it said.

    Args:
        line: of :func:`avrdude_line`.
        log: file to keep what it says in.

    Raises:
        MismatchError: the flash holds something else than the image.
        FlashError: anything else that it could not do; the reason is its own.
    """
    where = line[line.index("-P") + 1]
    try:
        code, said = _to_its_end(line)
    except subprocess.TimeoutExpired as cause:
        raise FlashError(
            f"avrdude did not end in {PATIENCE_S:g} s", where=where, fix="check cable and board, and try again"
        ) from cause
    except OSError as cause:
        raise EdgejouleError(f"avrdude does not start ({cause.strerror})", where="avrdude", fix=PACKAGE) from cause
    if log is not None:
        try:
            log.write_text(said)
        except OSError as cause:
            print(f"firmware-tools: {log}: the log cannot be written: {cause.strerror}", file=sys.stderr)
    if _MISMATCH.search(said):
        raise MismatchError(_reason(said), where=where, fix="flash it again")
    if code:
        fix = (
            "check the cable, stop programs that use the port; for an older Nano add --old-bootloader"
            if _NO_TALK.search(said)
            else "see what avrdude says with --log FILE"
        )
        raise FlashError(_reason(said) or f"avrdude ended with {code}", where=where, fix=fix)
    return said


def _to_its_end(line: Sequence[str]) -> tuple[int, str]:
    """Exit code and output. When we are interrupted it is gone before we are: the port is free again."""
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return process.returncode, output.decode(errors="replace")


def _reason(said: str) -> str:
    """The line of its output that names the trouble."""
    lines = [re.sub(r"^\s*avrdude:?\s*", "", line).strip() for line in said.splitlines()]
    lines = [line for line in lines if line]
    for pattern in (_MISMATCH, _NO_TALK, re.compile(r"error|fail|can't|cannot", re.IGNORECASE)):
        for line in lines:
            if pattern.search(line):
                return f"avrdude: {line}"
    return f"avrdude: {lines[-1]}" if lines else ""
