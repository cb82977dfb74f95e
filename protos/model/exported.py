"""Runs an exported model as it is meant: raw values in, what the head means out.

An exported .tflite takes and gives 8-bit integers. What scales them, and what the outputs are, stands in its metadata
(`edgejoule`, JSON), so that nobody who deploys the file needs the bundle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import DataError, ModelError, NonFiniteError, ShapeError
from protos.model import flatbuffer
from protos.model.engine import open_interpreter
from protos.model.task import ANOMALY, CLASSIFICATION, REGRESSION, scores_of

METADATA = "edgejoule"
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What a model says of N examples.

    Attributes:
        task: classification, regression or anomaly.
        names: of the classes, or of the quantities.
        values: float64 [N, C] class scores, [N, K] quantities in their own units, or [N, 1] anomaly scores.
    """

    task: str
    names: tuple[str, ...]
    values: Reals


class Exported:
    """An exported model.

    Raises:
        ModelError: it cannot be read or run, or was exported by something else.
    """

    def __init__(self, path: Path) -> None:
        where = str(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot be read ({error.strerror})", where=where) from error
        self.notes = notes_of(content, where=where)
        self._interpreter = open_interpreter(content)
        self._given = self._interpreter.get_input_details()[0]
        self._got = self._interpreter.get_output_details()[0]
        self._where = where

    def predict(self, x: npt.NDArray[Any]) -> Predictions:
        """What the model says of raw examples.

        Args:
            x: uint8 or real [N, ...] (of texts: token ids), as the bundle was calibrated on them, in the size of the
                model's input.

        Raises:
            ShapeError: examples of another size.
            NonFiniteError: NaN or infinity in them.
            DataError: a token id outside the vocabulary.
        """
        shape = tuple(int(size) for size in self._given["shape"])
        if x[:1].size not in (0, int(np.prod(shape))):
            raise ShapeError(f"an example has shape {list(x.shape[1:])}, the model takes {list(shape[1:])}",
                             where=self._where, fix="resize the examples")  # fmt: skip
        scale, zero = self._got["quantization"]
        rows = []
        for place, one in enumerate(x):
            if not np.isfinite(one).all():
                raise NonFiniteError(f"example {place} holds NaN or infinity", where=self._where)
            self._interpreter.set_tensor(self._given["index"], self._codes(one.reshape(shape)))
            self._interpreter.invoke()
            integers = self._interpreter.get_tensor(self._got["index"]).reshape(-1)
            rows.append((integers.astype(np.float64) - zero) * scale)
        outputs = np.stack(rows) if rows else np.empty((0, int(np.prod(self._got["shape"]))))
        return self._meant(outputs)

    def _codes(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The integers that the model takes: the rule of :func:`protos.model.backbone.quantise`."""
        rule = self.notes["preprocessing"]
        real = raw.astype(np.float64) * rule["multiply"] + rule["add"]
        if (channels := rule.get("per_channel")) is not None:
            real = real * channels["multiply"] + channels["add"]
        if self.notes.get("vocabulary") is not None:
            bad = real[(real < 0) | (real >= self.notes["vocabulary"]) | (real != np.floor(real))]
            if bad.size:
                raise DataError(
                    f"{bad.flat[0]:g} is no token id from 0 to {self.notes['vocabulary'] - 1}", where=self._where,
                    fix="number the words as the model's tokeniser does",
                )  # fmt: skip
            ids: npt.NDArray[Any] = real.astype(self._given["dtype"])
            return ids
        scale, zero = self._given["quantization"]
        steps = real / scale
        limits = np.iinfo(self._given["dtype"])
        rounded = np.trunc(steps + np.copysign(0.5, steps)) + zero
        codes: npt.NDArray[Any] = np.clip(rounded, limits.min, limits.max).astype(self._given["dtype"])
        return codes

    def _meant(self, outputs: Reals) -> Predictions:
        task, names = self.notes.get("task", CLASSIFICATION), tuple(self.notes["classes"])
        if task == ANOMALY:
            return Predictions(task, ("score",), scores_of(outputs)[:, None])
        if task == REGRESSION:
            rule = self.notes["quantities"]
            return Predictions(task, names, outputs * rule["multiply"] + rule["add"])
        return Predictions(task, names, outputs)


def notes_of(content: bytes, *, where: str) -> dict[str, Any]:
    """The metadata of an exported model.

    Raises:
        ModelError: there are none.
    """
    model = flatbuffer.parse(content, where=where)
    for entry in model.metadata or []:
        name = entry.name.decode() if isinstance(entry.name, bytes) else entry.name
        if name == METADATA:
            notes: dict[str, Any] = json.loads(bytes(model.buffers[entry.buffer].data))
            return notes
    raise ModelError("was not exported by edgejoule", where=where, fix="make one with: coordinator export RUN -o FILE")
