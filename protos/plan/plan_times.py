"""The text of a plan with times, and of each run that these times start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from protos.errors import PlanError
from protos.plan.plan import RunPlan, parse
from protos.plan.schedule import KEYS, times_of

__all__ = ["at_once", "with_times"]

_SECTION = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")
_KEY = re.compile(rf"\s*({'|'.join(KEYS)})\s*=")


def at_once(text: str, plan: RunPlan, where: str = "plan") -> tuple[str, RunPlan]:
    """The plan of one run of a scheduled plan, text and values: the same without its times.

    Args:
        text: of ``plan``.

    Raises:
        PlanError: the times stand where they cannot be told from the rest, such as in an inline table.
    """
    made = "".join(line for line, is_times in _lines(text) if not is_times)
    wanted = replace(plan, run=replace(plan.run, schedule=None, every=None))
    if _reads(made) != wanted:
        fix = "write it as a line of its own below [run]"
        raise PlanError("run.schedule or run.every cannot be told from the rest", where=where, fix=fix)
    return made, parse(made, where=where)


def with_times(text: str, *, schedule: str | None = None, every: str | None = None, where: str = "plan") -> str:
    """A plan's text with these times in place of those that it has.

    Raises:
        PlanError: it has no line ``[run]`` to put them under, or they cannot be read.
    """
    times_of(schedule, every, where)
    key, value = ("schedule", schedule) if schedule is not None else ("every", every)
    made, put = [], False
    for line, is_times in _lines(text):
        if is_times:
            continue
        found = _SECTION.fullmatch(line.rstrip("\r\n"))
        made.append(line)
        if found is not None and found[1].strip() == "run" and not put:
            made[-1] = line if line.endswith("\n") else f"{line}\n"
            made.append(f'{key} = "{value}"\n')
            put = True
    if not put:
        what = "has no line [run] to write the times under"
        raise PlanError(what, where=where, fix=f'write {key} = "{value}" into the plan')
    return "".join(made)


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a plan, each with whether it is one of its times."""
    section = ""
    for line in text.splitlines(keepends=True):
        found = _SECTION.fullmatch(line.rstrip("\r\n"))
        if found is not None:
            section = found[1].strip()
        yield line, section == "run" and _KEY.match(line) is not None


def _reads(text: str) -> RunPlan | None:
    try:
        return parse(text)
    except PlanError:
        return None
