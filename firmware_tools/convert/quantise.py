"""Float backbone to integer backbone: post-training quantisation on real examples.

Weights of convolutions get one scale per output channel; input, output and everything between are int8. Jacob et al.
2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from firmware_tools.child import Progress
from firmware_tools.convert.source import FloatModel
from firmware_tools.convert.tflite_source import describe
from firmware_tools.inspect.model import ModelFacts, read_bytes
from protos.errors import ModelError
from protos.model.head_algebra import Array


def quantise_backbone(
    model: FloatModel,
    examples: npt.NDArray[Any],
    preprocess: Callable[[Any], Array],
    *,
    where: str,
    progress: Progress,
) -> tuple[bytes, ModelFacts]:
    """The integer .tflite of a cut model, and what is in it.

    Args:
        model: the cut float model.
        examples: raw calibration examples [N, *input_shape], N >= 1.
        preprocess: raw values to what the float model takes.
        where: name of the model for errors.
        progress: told now and then how far calibration is.

    Raises:
        ModelError: the converter cannot handle the model, or a float operator is left inside.
    """
    signature = [tf.TensorSpec([1, *model.input_shape], tf.float32, name="x")]
    traced = tf.function(model.embed, input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])

    def representative() -> Iterator[list[Array]]:
        for index in range(len(examples)):
            if index % 100 == 0:
                progress(f"measuring ranges: example {index} of {len(examples)}")
            yield [preprocess(examples[index : index + 1])]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    # Plain builtins are allowed so that the converter finishes and the float operators can be named below.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    try:
        content = bytes(converter.convert())
    except Exception as error:  # the converter raises what its passes, written in C++, report
        text = " ".join(str(error).split())
        raise ModelError(f"the TFLite converter cannot handle it: {text[:240]}", where=where) from error
    facts = read_bytes(content, where="backbone.tflite")
    if inside := facts.float_operator_counts():
        raise ModelError(
            f"float operators are left inside the backbone: {describe(inside)}", where=where,
            fix="cut before them, or replace these layers by ones with an int8 kernel",
        )  # fmt: skip
    ends = (*facts.inputs, *facts.outputs)
    if len(ends) != 2 or any(one.dtype != "int8" or len(one.scales) != 1 for one in ends):
        raise ModelError(f"the converted ends are {[one.dtype for one in ends]}, not int8 and int8", where=where)
    # A scale that is denormal means a constant output: nothing was learned, or the data are all alike.
    if not all(np.isfinite(one.scales[0]) and one.scales[0] > 1e-30 for one in ends):
        raise ModelError("the calibration data give a constant input or embedding", where=where,
                         fix="calibrate with varied, real examples")  # fmt: skip
    return content, facts
