"""``edge-runtime predict``: the classes of images or stored examples, by the model at work on this board.

The daemon need not run. With ``--energy`` one that runs is asked, since it has the sensor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edge_runtime.client import Client, ModelError
from edge_runtime.config import Settings
from edge_runtime.model.limits import MOST_EXAMPLE_BYTES
from edge_runtime.model.settings_of import model_at, settings_from, socket_of
from protos.commands.json_document import document
from protos.datafiles.formats.folder import is_image
from protos.datafiles.formats.npz import examples_alone
from protos.datafiles.formats.pixels import decode_image
from protos.datafiles.formats.sound import is_recording, recording, told_of
from protos.datafiles.front_end import FrontEnd, LogMel, declared, log_mel
from protos.errors import DataError, EdgejouleError, NonFiniteError, RefusedError, ShapeError, UsageError

if TYPE_CHECKING:
    from edge_runtime.model.predictor import Predictor

__all__ = ["run"]

# What is wrong with one example, or one file, and says nothing of the others.
_OF_AN_EXAMPLE = (DataError, ShapeError, NonFiniteError)
Named = tuple[str, npt.NDArray[Any]]
Ask = Callable[[npt.NDArray[Any]], dict[str, Any]]


def run(given: argparse.Namespace) -> int:
    """Predict; exit code 0 when everything was predicted. What cannot be is said, and the rest is predicted.

    Raises:
        UsageError: no model, or nothing to predict. DataError, ShapeError, NonFiniteError: of the only example; of
        several, at the end, of the kind of the first that could not be predicted.
    """
    if given.top < 1:
        raise UsageError(f"{given.top} classes cannot be shown", where="--top", fix="give 1 or more")
    settings = settings_from(given)
    model = model_at(settings)
    shape, before = model.bundle.manifest.backbone.input_shape, declared(model.bundle.manifest.provenance)
    with contextlib.ExitStack() as stack:
        ask = _asking(settings, given.top, stack, energy=given.energy)
        count, failed = 0, list[EdgejouleError]()
        sources = list(_files(given.what, before))

        def refuse(error: EdgejouleError) -> None:
            failed.append(error)
            if len(sources) > 1 or count or len(failed) > 1:
                print(f"edge-runtime: {error}", file=sys.stderr)

        for source in sources:
            try:
                for name, x in _examples(source, shape, before):
                    try:
                        _say(name, ask(x), as_json=given.json)
                        count += 1
                    except _OF_AN_EXAMPLE as error:
                        refuse(type(error)(error.what, where=name, fix=error.fix))
            except _OF_AN_EXAMPLE as error:
                refuse(error)
    if len(failed) == 1 and not count and len(sources) == 1:
        raise failed[0]
    if failed:
        raise type(failed[0])(
            f"{len(failed)} of {count + len(failed)} could not be predicted", where=" ".join(given.what),
            fix="look at what was said of each",
        )  # fmt: skip
    if not count:
        raise UsageError("holds nothing to predict", where=" ".join(given.what), fix="give images, or an .npz file")
    return 0


def _asking(settings: Settings, top: int, stack: contextlib.ExitStack, *, energy: bool) -> Ask:
    """How one example is predicted: here, or by the daemon that has the sensor."""
    if energy:
        with contextlib.suppress(OSError):
            client = stack.enter_context(Client(socket_of(settings)))

            def by_daemon(x: npt.NDArray[Any]) -> dict[str, Any]:
                try:
                    return client.predict(x[None], top=top, energy=True)
                except ModelError as error:
                    raise RefusedError(str(error), where=str(client.path)) from error

            return by_daemon
    from edge_runtime.model.predictor import Predictor

    predictor = Predictor(model_at(settings), threads=settings.threads)
    if not energy:
        return lambda x: _answer(predictor, x, top)
    from edge_runtime.api import Meter

    meter = stack.enter_context(Meter(settings.sensor))

    def measured(x: npt.NDArray[Any]) -> dict[str, Any]:
        with meter.window("infer") as window:
            answer = _answer(predictor, x, top)
        keys = ("energy_j", "interval_j", "method", "coverage", "flags")
        found = window.as_dict()
        return {**answer, "energy": {key: found[key] for key in keys} | {"seconds": found["duration_s"]}}

    return measured


def _answer(predictor: Predictor, x: npt.NDArray[Any], top: int) -> dict[str, Any]:
    found = predictor.predict(x[None])
    return {
        "version": found.version,
        "top": [[{"class": name, "score": score} for name, score in one] for one in found.top(top)],
    }


def _files(given: list[str], before: FrontEnd | None) -> Iterator[str]:
    """What was named, and of a folder each image and, where the model hears, each recording."""
    for what in given:
        path = Path(what).expanduser()
        if what == "-" or not path.is_dir():
            yield what
            continue
        for each_path in sorted(path.rglob("*")):
            if each_path.is_file() and (
                is_image(each_path) or (isinstance(before, LogMel) and is_recording(each_path))
            ):
                yield str(each_path)


def _examples(what: str, shape: tuple[int, ...], before: FrontEnd | None) -> Iterator[Named]:
    """Name and raw values of each example, one at a time."""
    if what == "-":
        data = sys.stdin.buffer.read(MOST_EXAMPLE_BYTES + 1)
        if len(data) > MOST_EXAMPLE_BYTES:
            raise DataError(f"more than {MOST_EXAMPLE_BYTES >> 20} MiB", where="stdin", fix="send one image file")
        yield "-", decode_image(data, shape)
        return
    path = Path(what).expanduser()
    if not path.is_file():
        raise DataError("no such file or folder", where=what, fix="check the path")
    if path.suffix.lower() == ".npz":
        for index, x in enumerate(examples_alone(path)):
            yield f"{what}[{index}]", x
        return
    if isinstance(before, LogMel) and is_recording(path):
        if told := told_of(path):
            print(f"edge-runtime: {what}: {told}", file=sys.stderr)
        yield what, log_mel(recording(path, before.rate), before)
        return
    if path.stat().st_size > MOST_EXAMPLE_BYTES:
        raise DataError(f"more than {MOST_EXAMPLE_BYTES >> 20} MiB", where=what, fix="give an image file")
    try:
        yield what, decode_image(path.read_bytes(), shape)
    except DataError as error:
        raise DataError(error.what, where=what, fix=error.fix) from error


def _say(name: str, answer: dict[str, Any], *, as_json: bool) -> None:
    best, used = answer["top"][0], answer.get("energy")
    if as_json:
        row = {"source": name, "version": answer["version"], "top": best}
        row |= {} if "energy" not in answer else {"energy": used}
        print(json.dumps(document("prediction", row)), flush=True)
        return
    words = ", ".join(f"{one['class']} {one['score']:.3f}" for one in best)
    if "energy" in answer:
        joules = None if used is None else used["energy_j"]
        words += f", {'? J' if joules is None else f'{joules:.3g} J'}"
    print(f"{name}: {words}", flush=True)
