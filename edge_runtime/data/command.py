"""``edge-runtime data``: the store of own examples, from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.data.store import Bounds, ExampleStore, with_bounds
from edge_runtime.model.settings_of import settings_from
from protos.commands.json_document import document
from protos.datafiles import dataset
from protos.datafiles.formats.collected import NPY, is_store
from protos.datafiles.formats.folder import is_image
from protos.datafiles.formats.npy import array_at
from protos.errors import DataError, UsageError

__all__ = ["in_words", "run"]

# The verbs that make a store where there is none.
_MAKING = ("add", "keep")


def run(given: argparse.Namespace) -> int:
    """Do one verb."""
    store = ExampleStore(_folder(given))
    match given.verb:
        case "add":
            print(f"{_add(store, given)} examples added to {store.folder}")
        case "list":
            _list(store, given)
        case "label":
            print(f"{store.label(given.names, given.label)} examples labelled")
        case "drop":
            print(f"{store.drop(given.names)} examples dropped")
        case "stats":
            _stats(store, as_json=given.json)
        case "keep":
            most_bytes = None if given.mb is None else int(given.mb * 1e6)
            bounds = with_bounds(
                store.bounds(), most_count=given.count, most_days=given.days, most_bytes=most_bytes,
                reservoir=None if given.reservoir is None else given.reservoir == "on",
            )  # fmt: skip
            gone = store.keep(bounds)
            print(f"kept: {in_words(bounds)}; {gone} examples went")
    return 0


def in_words(bounds: Bounds) -> str:
    """The limits of a store."""
    found = [f"{value:g} {word}" for value, word in (
        (bounds.most_count, "examples"), (bounds.most_days, "days"),
        (None if bounds.most_bytes is None else bounds.most_bytes / 1e6, "MB")) if value is not None]  # fmt: skip
    kind = "a fair sample of all that ever came" if bounds.reservoir else "the newest"
    return f"at most {', '.join(found)}, {kind}" if found else "everything"


def _folder(given: argparse.Namespace) -> Path:
    if given.store is not None:
        folder = Path(given.store).expanduser()
    else:
        data = settings_from(given).data
        if data is None:
            raise UsageError(
                "no store is named", where="data", fix="give --store DIR, and let the device's `data` name it"
            )
        folder = Path(data).expanduser()
    if folder.is_file() or (folder.is_dir() and not is_store(folder) and any(folder.iterdir())):
        fix = "give --store DIR of a new folder, add these data to it, and let the device's `data` name it"
        raise UsageError("is no store of examples", where=str(folder), fix=fix)
    if given.verb not in _MAKING and not folder.is_dir():
        fix = "check the path; `edge-runtime data add` makes a new one"
        raise DataError("no such store", where=str(folder), fix=fix)
    return folder


def _add(store: ExampleStore, given: argparse.Namespace) -> int:
    count = 0
    for name in given.files:
        path = Path(name).expanduser()
        for x, label, held_out, kind in _examples(path, given.label):
            store.add(x, label, held_out=held_out or given.held_out, kind=kind)
            count += 1
    return count


def _examples(path: Path, label: str | None) -> Iterator[tuple[npt.NDArray[Any] | bytes, str | None, bool, str | None]]:
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="check the path")
    if path.suffix.lower() == ".npz":
        data = dataset.load(path)
        names = data.class_names
        for row, number in enumerate(data.y.tolist()):
            own = label or (names[number] if names is not None and 0 <= number < len(names) else str(number))
            yield np.asarray(data.held[row : row + 1])[0], own, bool(data.is_test[row]), None
    elif path.suffix.lower() == NPY:
        yield array_at(path), label, False, None
    elif is_image(path):
        yield path.read_bytes(), label, False, path.suffix.lower()
    else:
        raise DataError("is of an unknown kind", where=str(path), fix="give images, .npy or .npz")


def _list(store: ExampleStore, given: argparse.Namespace) -> None:
    for entry in store.entries():
        if given.unlabelled and entry.label is not None:
            continue
        if given.json:
            print(json.dumps(document("stored-example", dataclasses.asdict(entry))))
            continue
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.unix_s))
        held = "  held out" if entry.held_out else ""
        print(f"{entry.name}  {entry.label or '?'}  {entry.size_bytes} B  {when}{held}")


def _stats(store: ExampleStore, *, as_json: bool) -> None:
    found, bounds = store.stats(), store.bounds()
    if as_json:
        print(json.dumps(document("data", {**dataclasses.asdict(found), "bounds": dataclasses.asdict(bounds)})))
        return
    for label, count in found.by_label.items():
        print(f"{label}  {count}")
    print(
        f"held out {found.held_out}, without a label {found.unlabelled}, {found.size_bytes / 1e6:.1f} MB; "
        f"{found.seen} ever added; keeps {in_words(bounds)}"
    )
