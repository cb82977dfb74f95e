"""What applications ask of the model at work: predictions, what it is, and to be told when it changes.

One object for all ways in (:mod:`edge_runtime.model.socket_server`, :mod:`edge_runtime.model.http_server`). A
prediction takes the predictor that is there when it begins, and names its version: a switch in the middle of it is a
matter of the next. Predictions go one after the other, before training (:mod:`edge_runtime.model.gate`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.model.current import Model, open_current
from edge_runtime.model.gate import Gate
from edge_runtime.model.predictor import Predictor
from edge_runtime.power.meters.shared_meter import SharedMeter
from edge_runtime.systemd.logging_setup import log
from protos.commands.json_document import document
from protos.datafiles.formats.pixels import decode_image
from protos.energy.trace import PhaseEnergy
from protos.errors import DataError, EdgejouleError, UsageError

__all__ = ["Intake", "ModelService", "NoModelError"]

_DTYPES = ("uint8", "float32")


class NoModelError(UsageError):
    """There is no model at work yet."""


class Intake(Protocol):
    """Takes examples for the board's own data."""

    def add(self, x: npt.NDArray[Any] | bytes, label: str | None) -> str:
        """Keep one example, raw or as the bytes of an image file; its name."""
        ...


class ModelService:
    """The model at work, for any number of threads.

    Args:
        state: the state folder, whose model is taken up at the first question.
        gate: between predictions and training.
        meter: whose phase INFER predictions are; None where nothing meters them.
        threads: CPU threads of the backbone.
        intake: for examples; None where none are taken.
    """

    def __init__(
        self,
        state: Path,
        gate: Gate,
        meter: SharedMeter | None = None,
        *,
        threads: int = 1,
        intake: Intake | None = None,
    ) -> None:
        self._state, self._gate, self._meter, self._threads = state, gate, meter, threads
        self._intake = intake
        self._changed = threading.Condition()
        self._predictor: Predictor | None = None
        self._model: Model | None = None
        self._looked = self._closed = False
        self._switches = 0

    # ------------------------------------------------------------ the model

    def switch(self, model: Model) -> None:
        """From now on this is the model at work. Predictions that have begun end with the one before."""
        with self._changed:
            self._looked, self._model = True, model
            if self._predictor is not None:
                # Loaded anew by the next question when the bundle is another.
                self._predictor = self._predictor.with_head(model)
            self._switches += 1
            self._changed.notify_all()

    def catch_up(self, model: Model) -> None:
        """The same for a model that is on disk as the one at work, and may be it here already."""
        with self._changed:
            behind = self._model is None or self._model.about != model.about
        if behind:
            self.switch(model)

    def close(self) -> None:
        """Whoever waits for news waits no longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _current(self) -> Model:
        with self._changed:
            if not self._looked:
                self._model, self._looked = open_current(self._state), True
            if self._model is None:
                raise NoModelError(
                    "there is no model at work yet",
                    where=str(self._state),
                    fix="a head comes when a run of this board's coordinator has finished",
                )
            return self._model

    def _loaded(self) -> Predictor:
        """Called by who has the gate: the interpreter of a backbone is one thread's at a time."""
        model = self._current()
        with self._changed:
            if self._predictor is None or self._predictor.model is not model:
                known = self._predictor.with_head(model) if self._predictor is not None else None
                self._predictor = known or Predictor(model, threads=self._threads)
            return self._predictor

    # ------------------------------------------------------------ questions

    def predict(self, x: npt.NDArray[Any], top: int | None = None, *, energy: bool = False) -> dict[str, Any]:
        """Predict some examples.

        Args:
            x: uint8 or float32 [N, ...].
            top: how many classes of each; None for the scores of all, in the order of the classes.
            energy: settle the joules of this very call, which waits for the sensor's samples of it.

        Returns:
            JSON values: version, and per example scores or the top classes; `latency_s`, and with `energy` the joules
            of the call, None when they are not known.

        Raises:
            NoModelError; ShapeError, NonFiniteError: the examples do not fit; ModelError.
        """
        begun_s = time.perf_counter()
        used: PhaseEnergy | None = None
        with self._gate.predicting():
            predictor = self._loaded()
            meter = self._meter
            if energy and meter is not None:
                meter.settle_predictions()
            work_s = time.perf_counter()
            if meter is None:
                found = predictor.predict(x)
            else:
                with meter.inferring():
                    found = predictor.predict(x)
            latency_s = time.perf_counter() - work_s
            if energy and meter is not None:
                used = meter.settle_predictions()
        answer: dict[str, Any] = {
            "version": found.version,
            "latency_s": latency_s,
            "waited_s": work_s - begun_s,
        }
        if top is None:
            answer["classes"], answer["scores"] = list(found.classes), found.scores.tolist()
        else:
            answer["top"] = [[{"class": name, "score": score} for name, score in one] for one in found.top(max(1, top))]
        if energy:
            answer["energy"] = in_json(used)
        return document("prediction", answer)

    def predict_image(self, data: bytes, top: int | None = None, *, energy: bool = False) -> dict[str, Any]:
        """Predict one image, from the bytes of its file.

        Raises:
            DataError: they are no image; and as :meth:`predict`.
        """
        shape = self._current().bundle.manifest.backbone.input_shape
        return self.predict(decode_image(data, shape)[None], top, energy=energy)

    def info(self) -> dict[str, Any]:
        """What is at work, and what its predictions took so far."""
        totals = self._meter.totals if self._meter is not None else None
        answer: dict[str, Any] = {"predictions": 0 if totals is None else totals.calls, "energy": None}
        if totals is not None and totals.calls and self._meter is not None:
            self._meter.settle_predictions()
            answer["energy"] = in_json(totals.energy)
        try:
            model = self._current()
        except NoModelError:
            return document("model-info", {"version": None, **answer})
        about, spec = model.about, model.bundle.manifest.backbone
        return document(
            "model-info",
            {
                "version": about.version,
                "classes": list(model.classes),
                "input_shape": list(spec.input_shape),
                "bundle_id": about.bundle_id,
                "run_id": about.run_id,
                "run": about.run,
                "round": about.round,
                "personal": about.personal,
                "bits": about.bits,
                "accuracy": about.accuracy,
                "loss": about.loss,
                "own_accuracy": None if about.own is None else about.own.accuracy,
                "own_examples": 0 if about.own is None else about.own.examples,
                **answer,
            },
        )

    def add(self, x: npt.NDArray[Any] | bytes, label: str | None) -> dict[str, Any]:
        """Keep an example for training.

        Raises:
            UsageError: this board takes none; DataError, LabelError, StoreError: as the store of examples says.
        """
        if self._intake is None:
            raise UsageError(
                "takes no examples", where="this board", fix="let `data` name a store: see edge-runtime data --help"
            )
        return document("example", {"name": self._intake.add(x, label), "label": label})

    def wait_for_switch(self, seen: int, timeout_s: float, given_up: Callable[[], bool] = lambda: False) -> int | None:
        """How many switches there were, as soon as that is another number than ``seen``; None when it is not in time,
        the service closes, or :meth:`wake` was called and it is given up."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._switches != seen or given_up(), timeout_s)
            return None if self._closed or self._switches == seen else self._switches

    def wake(self) -> None:
        """Let who waits look whether it is given up."""
        with self._changed:
            self._changed.notify_all()

    @property
    def switches(self) -> int:
        """How many heads were taken to work since the start."""
        return self._switches

    @property
    def closed(self) -> bool:
        """Whether it is closing."""
        return self._closed


def raw_example(data: bytes, dtype: str, shape: list[int]) -> npt.NDArray[Any]:
    """Raw values as an application sends them, little-endian and in C order.

    Raises:
        DataError: another type, or another number of bytes than the shape needs.
    """
    if dtype not in _DTYPES:
        raise DataError(f"{dtype!r} is no type of examples", where="request", fix=f"send {' or '.join(_DTYPES)}")
    kind = np.dtype(dtype).newbyteorder("<")
    if not 1 <= len(shape) <= 8 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise DataError(f"{shape} is no shape", where="request", fix="send one to eight positive sizes")
    if len(data) != kind.itemsize * int(np.prod(shape, dtype=np.float64)):
        raise DataError(f"{len(data)} bytes are not {shape} of {dtype}", where="request", fix="send all of them")
    return np.frombuffer(data, kind).reshape(shape).astype(dtype)


def in_json(record: PhaseEnergy | None) -> dict[str, Any] | None:
    """Joules with their interval and flags; None when nothing was metered."""
    if record is None:
        return None
    known = record.energy_j is not None and record.uncertainty_j is not None
    low_high = [record.energy_j - record.uncertainty_j, record.energy_j + record.uncertainty_j] if known else None  # type: ignore[operator]
    return {
        "energy_j": record.energy_j,
        "interval_j": low_high,
        "method": record.method,
        "seconds": record.covered_s + record.uncovered_s,
        "coverage": record.coverage,
        "flags": list(record.flags),
    }


def failure(error: BaseException) -> dict[str, Any]:
    """An error as an answer."""
    if isinstance(error, EdgejouleError):
        return {"error": error.what, "where": error.where, "fix": error.fix}
    log().warning("a question to the model failed: %s: %s", type(error).__name__, error)
    return {"error": f"internal error: {type(error).__name__}", "where": None, "fix": None}
