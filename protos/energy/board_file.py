"""A board's row as a file: what `edge-runtime calibrate-board` writes, and what `estimate:FILE.toml` reads.

The keys are those of a :class:`~protos.energy.boards.BoardProfile`; each figure is a table with its kind and source.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from protos.atomic import write_whole
from protos.energy.boards import BoardProfile, Figure
from protos.errors import DataError, StoreError

SUFFIX = ".toml"
_KINDS = ("dc", "wall", "assumed")
_FIGURES = ("idle", "core", "ethernet", "radio", "accelerator", "inference_j")
# key -> type, lowest, highest
_PLAIN: dict[str, tuple[type[int] | type[float], float, float]] = {
    "cores": (int, 1, 1024),
    "supply_v": (float, 1.0, 60.0),
    "shunt_ohm": (float, 1e-4, 10.0),
}
_MOST_W = 1000.0


def written(profile: BoardProfile) -> str:
    """A profile as TOML."""
    lines = [f"name = {json.dumps(profile.name)}"]
    lines += [f"{key} = {getattr(profile, key)!r}" for key in _PLAIN]
    for name, figure in profile.figures.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in dataclasses.asdict(figure).items()]
    return "\n".join(lines) + "\n"


def write_board(path: Path, profile: BoardProfile) -> None:
    """Write a profile; the file is there whole afterwards.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        with write_whole(path) as file:
            file.write(written(profile).encode())
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path), fix="give another file") from error


def read_board(path: Path) -> BoardProfile:
    """The profile in a file.

    Raises:
        DataError: it cannot be read, or is no profile; it names the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"cannot be read ({reason})", where=str(path), fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not TOML: {error}", where=str(path)) from error
    if unknown := sorted(set(document) - {"name", *_PLAIN, *_FIGURES}):
        raise DataError(f"a board has no {unknown[0]!r}", where=str(path), fix=f"it has name, {', '.join(_PLAIN)}")
    name = document.get("name")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64:
        raise DataError("name is no text of 1 to 64 characters", where=str(path))
    plain = {key: _number(document.get(key), *rule, f"{path}: {key}") for key, rule in _PLAIN.items()}
    figures = {key: _figure(document[key], f"{path}: {key}") for key in _FIGURES if key in document}
    for key in ("idle", "core"):
        if key not in figures:
            raise DataError(f"[{key}] is missing", where=str(path))
    parts = {key: figures.get(key) for key in _FIGURES if key not in ("idle", "core")}
    return BoardProfile(
        name, figures["idle"], figures["core"], int(plain["cores"]), plain["supply_v"], plain["shunt_ohm"], **parts
    )


def _number(value: Any, kind: type[int] | type[float], lowest: float, highest: float, where: str) -> float:
    number = float(value) if isinstance(value, (int, kind)) and not isinstance(value, bool) else None
    if number is None or not lowest <= number <= highest:
        raise DataError(f"{value!r} is no {kind.__name__} from {lowest:g} to {highest:g}", where=where)
    return number


def _figure(given: Any, where: str) -> Figure:
    if not isinstance(given, dict) or set(given) != {"value", "kind", "source"}:
        raise DataError("is not a table of value, kind and source", where=where)
    value = _number(given["value"], float, 1e-6, _MOST_W, where)
    if given["kind"] not in _KINDS:
        raise DataError(f"no kind is called {given['kind']!r}", where=where, fix=f"take {', '.join(_KINDS)}")
    if not isinstance(given["source"], str):
        raise DataError("its source is no text", where=where)
    return Figure(value, given["kind"], given["source"])
