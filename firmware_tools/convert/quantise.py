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

from firmware_tools.child import Progress
from firmware_tools.convert.converter_words import converter_words
from firmware_tools.convert.source import FloatModel, listed_layers
from firmware_tools.convert.static_graph import StaticFunction, static_function
from firmware_tools.convert.tflite_source import describe
from firmware_tools.inspect.model import ModelFacts, read_bytes
from protos.errors import EdgejouleError, ModelError
from protos.model.head_algebra import Array

# A message that the child process died while it did this blames the converter and not the file.
CONVERTING = "running the TFLite converter"


def static_backbone(model: FloatModel, *, where: str) -> StaticFunction:
    """The cut model for one example, rewritten for int8 kernels; see `firmware_tools.convert.static_graph`.

    Raises:
        ModelError: it has a loop that cannot be written out, or works on integers.
    """
    spec = tf.TensorSpec([1, *model.input_shape], model.takes, name="x")
    traced = tf.function(lambda x: model.embed(x), input_signature=[spec], autograph=False).get_concrete_function()
    try:
        return static_function(traced, model.input_shape, where=where)
    except EdgejouleError:
        raise
    except (ValueError, TypeError, KeyError, NotImplementedError, tf.errors.OpError) as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(f"its graph cannot be made static: {words}", where=where, fix=_way_on(model)) from error


def quantise_backbone(
    model: FloatModel,
    static: StaticFunction,
    examples: npt.NDArray[Any],
    preprocess: Callable[[Any], Array],
    *,
    where: str,
    progress: Progress,
) -> tuple[bytes, ModelFacts]:
    """The integer .tflite of a cut model, and what is in it.

    Args:
        model: the cut float model.
        static: the same, by `static_backbone`.
        examples: raw calibration examples [N, *input_shape], N >= 1.
        preprocess: raw values to what ``static`` takes.
        where: name of the model for errors.
        progress: told now and then how far calibration is.

    Raises:
        ModelError: the converter cannot handle the model, or a float operator is left inside.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([static.function], static.function)

    def representative() -> Iterator[list[Array]]:
        for index in range(len(examples)):
            if index % 100 == 0:
                progress(f"measuring ranges: example {index} of {len(examples)}")
            yield [preprocess(examples[index : index + 1])]
        progress(CONVERTING)

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    # Plain builtins are allowed so that the converter finishes and the float operators can be named below.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    progress(CONVERTING)
    try:
        content = bytes(converter.convert())
    except Exception as error:  # the converter raises what its passes, written in C++, report
        raise ModelError(
            f"the TFLite converter cannot handle it: {converter_words(str(error))}", where=where, fix=_way_on(model)
        ) from error
    facts = read_bytes(content, where="backbone.tflite")
    if inside := facts.float_operator_counts():
        raise ModelError(
            f"float operators are left inside the backbone: {describe(inside)}", where=where,
            fix=f"cut before them, or replace these layers by ones with an int8 kernel{listed_layers(model.layers)}",
        )  # fmt: skip
    ends = (*facts.inputs, *facts.outputs)
    if len(ends) != 2 or any(one.dtype != "int8" or len(one.scales) != 1 for one in ends):
        raise ModelError(f"the converted ends are {[one.dtype for one in ends]}, not int8 and int8", where=where,
                         fix=_way_on(model))  # fmt: skip
    # A scale that is denormal means a constant output: nothing was learned, or the data are all alike.
    if not all(np.isfinite(one.scales[0]) and one.scales[0] > 1e-30 for one in ends):
        raise ModelError("the calibration data give a constant input or embedding", where=where,
                         fix="calibrate with varied, real examples")  # fmt: skip
    return content, facts


def _way_on(model: FloatModel) -> str:
    return f"cut before what it cannot handle with --cut LAYER{listed_layers(model.layers)}"
