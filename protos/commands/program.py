"""What our three command lines have in common: ``--version``, ``completion``, and the tree of their verbs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = [
    "HelpFormatter",
    "Verbs",
    "add_completion",
    "children",
    "example",
    "program",
    "run_completion",
    "version",
    "walk",
]

Verbs = Any
"""What ``add_subparsers`` gives; argparse has no public name for it."""
SHELLS = ("bash", "zsh")


def version() -> str:
    """Version of this distribution; ``unknown`` when it runs from a folder that was never installed."""
    # Here: it brings in a dozen modules of the standard library, and no other start needs them.
    import importlib.metadata

    try:
        return importlib.metadata.version("edgejoule")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help whose paragraphs fit the terminal; those with indented lines, such as examples, stay as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # Here, as argparse does: few starts show help.
        import textwrap

        made = []
        for part in text.split("\n\n"):
            lines = part.splitlines()
            if any(len(line) > width for line in lines) and not any(line.startswith(" ") for line in lines):
                lines = textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
            made.append("\n".join(indent + line for line in lines))
        return "\n\n".join(made)


def program(name: str, description: str, epilog: str, *, allow_abbrev: bool = True) -> argparse.ArgumentParser:
    """The parser of a program, with ``--version``; its help ends with ``epilog``, examples."""
    made = _Program(
        prog=name,
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=allow_abbrev,
    )
    made.add_argument("--version", action=_Version, nargs=0, help="show the version, and end")
    told = made._option_string_actions["--schema"]
    told.help = "print commands, arguments, JSON and exit codes as JSON, and end; of one command after its name"
    return made


def example(line: str) -> dict[str, Any]:
    """Arguments of a verb's parser whose help ends with an example."""
    return {"epilog": f"example:\n  {line}", "formatter_class": HelpFormatter}


class _Schema(argparse.Action):
    """Prints what a command takes and gives, for programs."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        # Here: no other start needs them.
        import json

        from protos.commands.described import described
        from protos.commands.json_document import document

        print(json.dumps(document("commands", described(parser)), indent=2))
        parser.exit()


class _Program(argparse.ArgumentParser):
    """A parser that describes itself, and so does each of its verbs."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.add_argument("--schema", action=_Schema, nargs=0, help=argparse.SUPPRESS)


class _Version(argparse.Action):
    """Asks for the version only when it is wanted."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(f"{parser.prog} {version()}")
        parser.exit()


def add_completion(commands: Verbs, name: str) -> argparse.ArgumentParser:
    """Add ``completion`` to the verbs of the program called ``name``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "completion",
        help="print what makes a shell complete this command",
        description="Prints a script for the shell, made from the options of this version.",
        epilog=f'example:\n  eval "$({name} completion bash)"\n'
        f"  {name} completion bash > ~/.local/share/bash-completion/completions/{name}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


def run_completion(top: argparse.ArgumentParser, shell: str) -> int:
    """Print the script for a shell."""
    from protos.commands.completion import script

    print(script(top, shell), end="")
    return 0


def children(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The verbs of a parser by name; empty for one that has none. One without a help is not for people."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = {
                each_action.dest for each_action in action._choices_actions if each_action.help != argparse.SUPPRESS
            }
            return {name: child for name, child in action.choices.items() if name in shown}
    return {}


def walk(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The parser and every verb below it, each with the words that lead there."""
    yield path, parser
    for name, child in children(parser).items():
        yield from walk(child, (*path, name))
