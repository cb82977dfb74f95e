"""Makes man pages from the parsers of the three programs: one for each program, and one for each of its verbs.

    .venv/bin/python packaging/man_pages.py dist/man

The same version of this tree and of Python makes the same bytes.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from protos import errors  # noqa: E402
from protos.commands.program import children, walk  # noqa: E402

_SECTIONS = {"examples:": "EXAMPLES", "example:": "EXAMPLES"}


def pages(tops: Iterable[argparse.ArgumentParser], version: str) -> Mapping[str, str]:
    """The text of each page by its file name."""
    made = {}
    for top in tops:
        helps = _helps(top)
        for path, parser in walk(top):
            name = "-".join((top.prog, *path))
            made[f"{name}.1"] = _page(name, path, parser, top, helps, version)
    return made


def _helps(top: argparse.ArgumentParser) -> dict[str, str]:
    """One line about each verb, by the words that lead there."""
    found = {top.prog: (top.description or "").splitlines()[0].rstrip(".")}
    for path, parser in walk(top):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in action._choices_actions:
                    found["-".join((top.prog, *path, one.dest))] = one.help or one.dest
    return found


def _page(
    name: str,
    path: tuple[str, ...],
    parser: argparse.ArgumentParser,
    top: argparse.ArgumentParser,
    helps: Mapping[str, str],
    version: str,
) -> str:
    lines = [f'.TH {name.upper()} 1 "" "edgejoule {version}" "edgejoule"', ".SH NAME"]
    lines.append(f"{_text(name)} \\- {_text(helps[name])}")
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines += [".SH SYNOPSIS", ".nh", _line(usage), ".hy"]
    if parser.description:
        lines += [".SH DESCRIPTION", *_paragraphs(parser.description)]
    verbs = children(parser)
    if verbs:
        lines.append(".SH COMMANDS")
        for verb in verbs:
            lines += [".TP", f".BR {_text(f'{name}-{verb}')} (1)", _line(helps[f"{name}-{verb}"])]
    for title, actions in _groups(parser):
        lines.append(f".SH {title}")
        for action in actions:
            lines += [".TP", _invocation(action), _line(_meaning(action, parser))]
    lines += _epilog(parser.epilog or "")
    lines += [".SH EXIT STATUS", "0 when done; else the code of the mistake:"]
    kinds = {one.exit_code: inspect.getdoc(one) or "" for one in vars(errors).values() if _is_error(one)}
    for code, meaning in sorted(kinds.items()):
        lines += [".TP", str(code), _line(meaning.splitlines()[0])]
    lines += [".TP", "130, 143", "ended by SIGINT, by SIGTERM", ".TP", "141", "the reader of stdout has gone"]
    others = [top.prog] if path else []
    others += ["-".join((top.prog, *path[:-1]))] if len(path) > 1 else []
    if others:
        lines += [".SH SEE ALSO", ", ".join(f"\\fB{_text(one)}\\fR(1)" for one in dict.fromkeys(others))]
    return "\n".join(lines) + "\n"


def _is_error(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, errors.EdgejouleError)


def _groups(parser: argparse.ArgumentParser) -> Iterable[tuple[str, list[argparse.Action]]]:
    for group in parser._action_groups:
        actions = [
            one
            for one in group._group_actions
            if one.help != argparse.SUPPRESS and not isinstance(one, argparse._SubParsersAction)
        ]
        if actions:
            title = {"positional arguments": "ARGUMENTS", "options": "OPTIONS"}.get(group.title or "", group.title)
            yield (title or "OPTIONS").upper(), actions


def _invocation(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if metavar is None and action.choices is not None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    value = metavar or action.dest.upper()
    if not action.option_strings:
        return f"\\fI{_text(value)}\\fR"
    names = ", ".join(f"\\fB{_text(one)}\\fR" for one in action.option_strings)
    return names if action.nargs == 0 else f"{names} \\fI{_text(value)}\\fR"


def _meaning(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    words = {**vars(action), "prog": parser.prog}
    return (action.help or "") % words if action.help else "-"


def _epilog(text: str) -> list[str]:
    lines: list[str] = []
    title, block = "NOTES", []

    def close() -> None:
        if any(one.strip() for one in block):
            verbatim = title == "EXAMPLES"
            lines.append(f".SH {title}")
            lines.extend([".nf", *(_line(one, indent=True) for one in block), ".fi"] if verbatim else map(_line, block))

    for line in text.splitlines():
        if line.strip() in _SECTIONS or (title == "EXAMPLES" and line and not line.startswith(" ")):
            close()
            title, block = _SECTIONS.get(line.strip(), "NOTES"), []
            if line.strip() in _SECTIONS:
                continue
        block.append(line)
    close()
    return lines


def _paragraphs(text: str) -> list[str]:
    lines = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines += [".PP"] if number else []
        lines += map(_line, paragraph.splitlines())
    return lines


def _line(text: str, *, indent: bool = False) -> str:
    shown = _text(text.rstrip() if indent else text.strip())
    # A dot or a quote at the beginning would be a request.
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def _text(text: str) -> str:
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "".join(one if ord(one) < 128 else f"\\[u{ord(one):04X}]" for one in plain)


def main(folder: Path) -> int:
    import coordinator.cli
    import edge_runtime.cli
    import firmware_tools.cli
    from protos.commands.program import version

    tops = (coordinator.cli.parser(), edge_runtime.cli.parser(), firmware_tools.cli._parser())
    folder.mkdir(parents=True, exist_ok=True)
    made = pages(tops, version())
    for name, text in made.items():
        (folder / name).write_text(text)
    print(f"{len(made)} pages in {folder}; read one with: man -l {folder / 'coordinator.1'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist/man")))
