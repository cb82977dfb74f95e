"""What a Keras model is as an integer one: bytes of the file, and milliseconds of an inference here, on one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import ModelError
from protos.model.engine import open_interpreter, try_in_subprocess

_CALIBRATION, _WARM, _TIMED, _REPEATS = 100, 5, 30, 7


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


def latency_ms(content: bytes, *, tried: bool = False) -> float | None:
    """Median over repeats of the mean time of an inference, one thread, with the engine that devices run; None where
    that refuses the model, or dies of it.

    Args:
        tried: a model of the same layers has been timed here before: no process of its own tries this one first.
    """
    with tempfile.TemporaryDirectory(prefix="edgejoule-latency-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        try:
            if not tried:
                # There are models that kill who opens them.
                try_in_subprocess(path)
            interpreter = open_interpreter(path)
        except ModelError:
            return None
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()[0]
        interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        for _ in range(_WARM):
            interpreter.invoke()
        found = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            for _ in range(_TIMED):
                interpreter.invoke()
            found.append((time.perf_counter() - started) / _TIMED)
    return 1e3 * statistics.median(found)
