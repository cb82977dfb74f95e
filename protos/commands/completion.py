"""Completion for shells, made from a parser: verbs, options, choices, and files where files are meant.

The script holds everything as text, so that pressing a key starts no program of ours. zsh runs it by its own
``bashcompinit``.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path

from protos.commands.program import children, walk

__all__ = ["script"]

_FILES = ("FILE", "DIR", "PATH", "FOLDER", "BUNDLE", "MODEL", "DATA", "OUT", "RECORDING", "IMAGE")
_BODY = """\
# Completion for {name}: {name} completion {shell}
{zsh}{function}() {{
    local IFS=$'\\n' current="${{COMP_WORDS[COMP_CWORD]}}" previous="" path="" word at
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        word="${{COMP_WORDS[at]}}"
        case "$path $word" in
            {paths}) path="$path $word" ;;
        esac
    done
    previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    # --option=value comes as three words.
    if [ "$current" = "=" ]; then
        current=""
    elif [ "$previous" = "=" ] && [ "$COMP_CWORD" -gt 1 ]; then
        previous="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    case "$path $previous" in
{values}
    esac
    case "$current" in
        -*)
            case "$path" in
{options}
            esac
            return ;;
    esac
    case "$path" in
{words}
    esac
}}
complete -o filenames -F {function} {name}
"""


def script(top: argparse.ArgumentParser, shell: str) -> str:
    """What a shell reads to complete the program of a parser.

    Args:
        shell: ``bash`` or ``zsh``.
    """
    paths, values, options, words = [], [], [], []
    for path, parser in walk(top):
        here = "".join(f" {word}" for word in path)
        if path:
            paths.append(here)
        longs: list[str] = []
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            longs += [option_string for option_string in action.option_strings if option_string.startswith("--")]
            if action.option_strings and action.nargs != 0:
                values.append(
                    _arm([f"{here} {option_string}" for option_string in action.option_strings], _offer(action), 8)
                )
        options.append(_arm([here], _words(longs), 16))
        verbs = children(parser)
        positional = [action for action in parser._actions if not action.option_strings and action.nargs != 0]
        if verbs:
            words.append(_arm([here], _words(verbs), 8))
        elif positional:
            words.append(_arm([here], _offer(positional[0]), 8))
    function = f"_{top.prog.replace('-', '_')}_completion"
    return _BODY.format(
        name=top.prog,
        shell=shell,
        zsh="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        function=function,
        paths="|".join(map(_quoted, paths)),
        values="\n".join(values),
        options="\n".join(options),
        words="\n".join(words),
    )


def _arm(patterns: Iterable[str], body: str, indent: int) -> str:
    return f"{' ' * indent}{'|'.join(map(_quoted, patterns))}) {body} ;;"


def _offer(action: argparse.Action) -> str:
    """What may stand for a value: its choices, files, or nothing that could be guessed."""
    if action.choices is not None:
        return _words(map(str, action.choices))
    metavar = action.metavar[0] if isinstance(action.metavar, tuple) else action.metavar or ""
    if action.type is Path or metavar in _FILES or "." in metavar:
        return 'COMPREPLY=($(compgen -f -- "$current")); return'
    return "return"


def _words(words: Iterable[str]) -> str:
    listed = shlex.quote("\n".join(words))
    return f'COMPREPLY=($(compgen -W {listed} -- "$current")); return'


def _quoted(text: str) -> str:
    return f'"{text}"'
