"""Opens a file of Keras 2 through the package ``tf-keras``, and cuts it as a SavedModel is cut: in its frozen graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from firmware_tools.convert.sources.keras_loading import check_weights
from firmware_tools.convert.sources.saved_model_source import cut_function
from firmware_tools.convert.sources.source import FloatModel, checked_input
from protos.errors import EdgejouleError, ModelError


def open_keras_2(
    path: Path, *, cut: str | None, input_shape: tuple[int, ...] | None, residual: bool = False
) -> FloatModel:
    """Load a model of Keras 2 and cut it. The file must hold no Lambda: Keras 2 would run it.

    Raises:
        ModelError: Keras 2 cannot load it either, or it cannot be cut.
        NonFiniteError: a weight is NaN or infinite.
    """
    import tf_keras

    where = path.name
    try:
        model = tf_keras.models.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:  # Keras raises what its layers, h5py or zipfile raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"neither Keras 3 nor Keras 2 can load it: {text or type(error).__name__}", where=where,
            fix="export it as a SavedModel with the Keras that wrote it, and convert that folder",
        ) from error  # fmt: skip
    check_weights(model, where=where)
    inputs = list(model.inputs or [])
    if len(inputs) != 1:
        raise ModelError(f"has {len(inputs)} inputs; only models with one can be cut", where=where,
                         fix="export a SavedModel of the branch that sees the data, with one input")  # fmt: skip
    shape = checked_input(list(inputs[0].shape), input_shape, where=where)

    def call(x: Any) -> Any:
        return model(x, training=False)

    try:
        spec = tf.TensorSpec([None, *shape], inputs[0].dtype, name="x")
        concrete = tf.function(call, input_signature=[spec], autograph=False).get_concrete_function()
    except EdgejouleError:
        raise
    except Exception as error:  # what its layers raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"does not run on {list(shape)}: {text}", where=where, fix="see --input-shape") from error
    names = tuple(layer.name for layer in model.layers if not isinstance(layer, tf_keras.layers.InputLayer))
    return cut_function(concrete, model, cut=cut, input_shape=input_shape, where=where, layers=names, residual=residual)
