"""What a Keras model is as an integer one: bytes of the file, and milliseconds of an inference here, on one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import ModelError
from protos.model.engine import open_interpreter, try_in_subprocess

_CALIBRATION, _WARM = 100, 5
# Shorter than what a busy machine gives a process at a time: most of a model's turns are its own, whatever the load.
_BLOCK_S, _TURNS, _LEAST_TURNS, _MOST_S = 3e-4, 1001, 21, 10.0


def integer_model(model: Any, x: Any, *, where: str) -> bytes:
    """The model as int8 .tflite; ranges from the first examples, float32 [N, ...] as the model takes them.

    Raises:
        ModelError: TensorFlow cannot convert it.
    """
    import tensorflow as tf

    from firmware_tools.convert.frozen_graph import frozen_function

    shape = [1, *x.shape[1:]]
    concrete = tf.function(lambda value: model(value, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.float32)
    )
    # Variables of a Keras 3 model would stay variables, which the calibration does not set.
    frozen = frozen_function(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([one[None].astype(np.float32)] for one in x[:_CALIBRATION])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        return bytes(converter.convert())
    except Exception as error:  # the converter raises what its passes raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot be made integer: {text}", where=where) from error


@dataclass(frozen=True, slots=True)
class Timed:
    """Of one model among several that took turns.

    Attributes:
        ms: an inference, median over turns.
        share: of what the first model took in the same turn, median over turns: what else the machine does slows both.
    """

    ms: float
    share: float


def timed_in_turn(contents: Sequence[bytes], *, tried: bool = False) -> list[Timed] | None:
    """Inferences of integer models, one thread, with the engine that devices run; the first is what others compare to.

    A turn is a third of a millisecond of each, or one inference, after one that is not timed. At a load of 11 on two
    cores shares were the same within 1 % again and again; with turns of three milliseconds they were off by a tenth.

    Args:
        tried: models of the same layers have been timed here before: no process of its own tries these first.

    Returns:
        None where the engine refuses one of them, or dies of it.
    """
    with tempfile.TemporaryDirectory(prefix="edgejoule-latency-") as folder:
        invoked = []
        for number, content in enumerate(contents):
            path = Path(folder) / f"{number}.tflite"
            path.write_bytes(content)
            try:
                if not tried:
                    # There are models that kill who opens them.
                    try_in_subprocess(path)
                invoked.append(_prepared(path))
            except ModelError:
                return None
        for invoke in invoked:
            _seconds(invoke, _WARM)
        counts = [max(1, round(_BLOCK_S / min(_seconds(invoke, 1) for _ in range(9)))) for invoke in invoked]
        turns: list[list[float]] = []
        started = time.perf_counter()
        while len(turns) < _TURNS and (len(turns) < _LEAST_TURNS or time.perf_counter() - started < _MOST_S):
            turns.append([_warm_seconds(invoke, count) / count for invoke, count in zip(invoked, counts, strict=True)])
    return in_turn(turns)


def in_turn(turns: Sequence[Sequence[float]]) -> list[Timed]:
    """Of seconds of an inference, by turn and model."""
    models = list(zip(*turns, strict=True))
    shares = [[own / first for own, first in zip(each, models[0], strict=True)] for each in models]
    return [
        Timed(1e3 * statistics.median(each), statistics.median(of_first))
        for each, of_first in zip(models, shares, strict=True)
    ]


def _prepared(path: Path) -> Callable[[], None]:
    interpreter = open_interpreter(path)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
    invoke: Callable[[], None] = interpreter.invoke
    return invoke


def _warm_seconds(invoke: Callable[[], None], count: int) -> float:
    invoke()
    return _seconds(invoke, count)


def _seconds(invoke: Callable[[], None], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        invoke()
    return time.perf_counter() - started
