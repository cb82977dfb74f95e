"""Docstrings for the site's reference: roles of Sphinx become plain code, and sessions at the prompt become blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """A docstring as Markdown: a block of code from a prompt to the next empty line.

    >>> plain("See :class:`~a.b.Meter`.")
    'See `Meter`.'
    """
    lines: list[str] = []
    indent: str | None = None
    for line in [*_ROLE.sub(r"`\1`", text).split("\n"), ""]:
        if indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        elif indent is None and line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}```pycon")
        lines.append(line)
    return "\n".join(lines[:-1])
