"""Any key of a plan from a command line, ``SECTION.KEY=VALUE``, and whole files, over what the demo writes itself."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protos.errors import PlanError, UsageError
from protos.plan.schedule import KEYS

Document = dict[str, Any]

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
# What the demo makes itself: another bundle or other data would not be those that its devices hold.
_OWN = (("run", "bundle"), ("evaluate", "data"), ("round", "devices"))


def read_settings(words: Sequence[str]) -> Document:
    """``KEY=VALUE`` words as a document. A value is TOML, or text where it is none: ``train.method=closed_form`` needs
    no quotes.

    Raises:
        UsageError: no key, no section, or a key that the demo sets itself.

    >>> read_settings(["train.rate=0.1", "train.method=closed_form", "budget.device.device-1=2"])
    {'train': {'rate': 0.1, 'method': 'closed_form'}, 'budget': {'device': {'device-1': 2}}}
    """
    made: Document = {}
    for word in words:
        key, equals, text = word.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or len(path) < 2 or not all(path):
            fix = "such as train.method=closed_form"
            raise UsageError(f"{word!r} is no SECTION.KEY=VALUE", where="--set", fix=fix)
        made = laid_over(made, _nested(path, _value(text.strip())))
    _refuse_own(made, "--set")
    return made


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(path: Sequence[str], value: Any) -> Document:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def read_file(path: Path) -> Document:
    """A plan file as a document; bundle and data that it names, and when it starts, are the business of the demo, and
    left out.

    Raises:
        PlanError: it cannot be read, or is not TOML.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlanError(f"cannot be read ({reason})", where=str(path), fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"not TOML: {error}", where=str(path)) from error
    for section, key in (*_OWN, *(("run", key) for key in KEYS)):
        if isinstance(document.get(section), dict):
            document[section].pop(key, None)
    return document


def _refuse_own(document: Mapping[str, Any], where: str) -> None:
    for key in KEYS:
        if key in document.get("run", {}):
            raise UsageError("the demo runs once", where=f"{where} run.{key}", fix="leave it out")
    options = {"bundle": "--bundle", "data": "--data", "devices": "--devices"}
    for section, key in _OWN:
        if key in document.get(section, {}):
            raise UsageError(f"{section}.{key} is made by the demo", where=where, fix=f"see {options[key]}")


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Document:
    """``below`` with every key of ``above`` in its place; tables are merged."""
    made = dict(below)
    for key, value in above.items():
        before = made.get(key)
        made[key] = laid_over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return made


def as_toml(document: Mapping[str, Any]) -> str:
    """A document of tables as TOML text: a file that a reader can take, change, and start again."""
    lines: list[str] = []
    for name, table in document.items():
        _write(lines, [name], table)
    return "\n".join(lines).lstrip("\n") + "\n"


def _write(lines: list[str], path: list[str], table: Any) -> None:
    if not isinstance(table, dict):
        # A section that is a value: the parser says so, in its own words.
        lines.insert(0, f"{_key(path[-1])} = {_literal(table)}")
        return
    scalars = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if scalars or not table:
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
        lines += [f"{_key(key)} = {_literal(value)}" for key, value in scalars.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            _write(lines, [*path, key], value)


def _key(name: str) -> str:
    return name if _BARE.match(name) else json.dumps(name, ensure_ascii=False)


def _literal(value: Any) -> str:
    # JSON's strings, numbers and lists are TOML's as well, but for the escaped surrogates that stand for an emoji.
    return json.dumps(value, ensure_ascii=False, default=str)
