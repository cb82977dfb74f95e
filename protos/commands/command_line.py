"""What every command of ours does about its streams and its end: a mistake is one line, and never a traceback.

stdout may be full, closed, or a terminal that knows ASCII alone; none of it is the command's fault, and none of it may
hide what was to be said.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from protos.errors import EdgejouleError, StoreError
from protos.extras import EXTRA_OF, missing

# What our own texts have beyond ASCII; the rest is escaped, so that a name stays a name.
_PLAIN = {"±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "µ": "u", "°": " deg "}
_ERRORS = "edgejoule.plain"


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text)
    return plain, error.end


codecs.register_error(_ERRORS, _plainly)


def conduct(prefix: Callable[[], str], body: Callable[[], int | None]) -> int:
    """Do what a command line asks for, and return the exit code.

    Args:
        prefix: what stands before an error; asked when there is one.
        body: may raise what it likes; SystemExit, as argparse raises it, goes through.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)
    stdout = _Watched(sys.stdout)
    with contextlib.redirect_stdout(cast(TextIO, stdout)):
        return _conduct(prefix, body, stdout)


class _Watched:
    """stdout, which remembers that it failed: argparse swallows that, and an unbuffered stream shows it only once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.failure = error
            raise


def _conduct(prefix: Callable[[], str], body: Callable[[], int | None], stdout: _Watched) -> int:
    try:
        try:
            code = body()
        except SystemExit:
            stdout.flush()  # the help of argparse is printed, but not yet written
            if stdout.failure is None:
                raise
            raise stdout.failure from None
        stdout.flush()
        return int(code or 0)
    except EdgejouleError as error:
        return _complain(prefix(), error)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA_OF:
            raise
        return _complain(prefix(), missing(name))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`).
        _drop_stdout()
        return 141
    except OSError as error:
        if error is not stdout.failure:
            raise
        _drop_stdout()
        what = f"cannot be written ({error.strerror or error})"
        return _complain(prefix(), StoreError(what, where="stdout", fix="free space, or send it elsewhere"))


def _complain(prefix: str, error: EdgejouleError) -> int:
    # When stderr is full or closed as well, the exit code has to do.
    with contextlib.suppress(OSError):
        print(f"{prefix}: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def _drop_stdout() -> None:
    # Python would complain again when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
