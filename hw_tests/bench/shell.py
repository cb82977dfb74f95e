"""Commands of an environment file: run to their end, said when they fail."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping

from hw_tests.bench.diary import Diary
from protos.errors import ConfigError, EdgejouleError

__all__ = ["run_command"]


def run_command(
    line: str, *, what: str, timeout_s: float, diary: Diary, values: Mapping[str, float] | None = None
) -> str:
    """Run a command line without a shell, ``{name}`` replaced by ``values``; what it printed.

    Args:
        what: what it is to do, for the messages.

    Raises:
        ConfigError: the line cannot be split, names a value that is not there, or a program that is not there.
        EdgejouleError: it failed, or did not end in time.
    """
    where = f"{what}: {line}"
    try:
        words = [word.format_map({k: f"{v:g}" for k, v in (values or {}).items()}) for word in shlex.split(line)]
    except (ValueError, KeyError, IndexError) as cause:
        known = ", ".join(f"{{{name}}}" for name in values or {}) or "no values"
        raise ConfigError(f"cannot be used ({cause})", where=where, fix=f"known here: {known}") from cause
    diary.note(f"{what}: {shlex.join(words)}")
    try:
        # In a session of its own: Ctrl-C on a terminal must not reach the command that switches off.
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
            start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as cause:
        raise EdgejouleError(f"did not end in {timeout_s:g} s", where=where, fix="run it by hand") from cause
    except OSError as cause:
        raise ConfigError(f"does not start: {cause.strerror}", where=where, fix="correct the command") from cause
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise EdgejouleError(f"left with {done.returncode}: {said}", where=where, fix="run it by hand")
    return done.stdout
