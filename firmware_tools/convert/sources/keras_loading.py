"""Loads a Keras file, whichever Keras wrote it, and makes it plain: float32 throughout, and of any batch size.

Files of Keras 3 are loaded by Keras 3. What that refuses (nested models in .h5, TensorFlow operators as layers,
``time_major``, Teachable Machine) is loaded by Keras 2, the package ``tf-keras``, where it is installed.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from protos.errors import EdgejouleError, ModelError, NonFiniteError

_OTHERS = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")
OWN_CODE = "for code of your own, export it with model.export(FOLDER) and convert that SavedModel"
KERAS_2 = "if Keras 2 wrote it: pip install 'edgejoule[keras2]' and try again; or export a SavedModel with that Keras"
# Losses of models whose output is a quantity and no score of a class.
_QUANTITIES = ("mse", "mae", "mape", "msle", "mean_squared_error", "mean_absolute_error", "huber", "log_cosh",
               "logcosh", "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "cosine_similarity",
               "poisson")  # fmt: skip


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """Keras 2 stored ``groups`` with this layer, always 1, and Keras 3 refuses the argument."""

    def __init__(self, *arguments: Any, groups: int = 1, **options: Any) -> None:
        if groups != 1:
            raise ValueError(f"DepthwiseConv2D with groups={groups} is not supported")
        super().__init__(*arguments, **options)


_OBJECTS = {"DepthwiseConv2D": _DepthwiseConv2D}


class OldKerasError(ModelError):
    """Keras 3 cannot load the file, and Keras 2 may."""


def load_keras(path: Path) -> Any:
    """A Functional model of Keras 3, float32, with finite weights.

    Raises:
        OldKerasError: it does not load here, and holds no code of its own.
        ModelError: it does not load, or is no Functional or built Sequential model.
        NonFiniteError: a weight is NaN or infinite.
    """
    where = path.name
    if _weights_alone(path):
        raise ModelError(
            "holds weights alone, and no model around them", where=where,
            fix="build the model, model.load_weights(FILE), model.save('MODEL.keras'), and give that",
        )  # fmt: skip
    try:
        model = keras.models.load_model(path, custom_objects=_OBJECTS, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises what its layers, h5py or zipfile raise
        raise _not_loaded(path, error) from error
    if not _is_graph(model):
        raise ModelError("is no Functional or built Sequential model", where=where,
                         fix="export it with model.export(FOLDER) and convert that SavedModel")  # fmt: skip
    check_weights(model, where=where)
    model = _plain(model, where)
    return model._functional if isinstance(model, keras.Sequential) else model


def _not_loaded(path: Path, error: Exception) -> ModelError:
    text = " ".join(str(error).split())
    short = text if len(text) <= 240 else text[:237] + "..."
    what = f"Keras cannot load it: {short or type(error).__name__}"
    lowered = text.lower()
    if holds_code(path):
        return ModelError("holds a Lambda layer, which is a program of its own and is not run", where=path.name,
                          fix=OWN_CODE)  # fmt: skip
    # The same is said of every layer around the one that matters, first; the name stands at the end.
    missing = re.search(r"[Cc]ould not locate (class|function|object) '([^']+)'", text)
    if missing is not None:
        what = f"its {missing[1]} {missing[2]!r} is none of Keras, and its code is not in the file"
    unknown = "could not locate" in lowered or "unknown layer" in lowered
    damaged = re.search(r"truncated|unable to (synchronously )?open|not a zip|bad magic|no such file|crc", lowered)
    if damaged:
        return ModelError(what, where=path.name, fix="the file is damaged: copy or save the model again")
    return OldKerasError(what, where=path.name, fix=OWN_CODE if unknown else KERAS_2)


def _is_graph(model: Any) -> bool:
    if isinstance(model, keras.Sequential):
        return bool(model.built) and getattr(model, "_functional", None) is not None
    return bool(getattr(model, "inputs", None)) and hasattr(model, "_nodes")


def has_keras_2() -> bool:
    """Whether Keras 2 is installed here."""
    return importlib.util.find_spec("tf_keras") is not None


def check_weights(model: Any, *, where: str) -> None:
    """Refuse NaN and infinity, by the name of the layer that holds them.

    Raises:
        NonFiniteError: a weight that is no number.
    """
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for weight in getattr(layer, "_trainable_variables", []) + getattr(layer, "_non_trainable_variables", []):
            values = np.asarray(weight)
            if values.dtype.kind not in "iub" and not np.isfinite(values.astype(np.float32)).all():
                bad = int((~np.isfinite(values.astype(np.float32))).sum())
                raise NonFiniteError(
                    f"weight {weight.name} of layer {layer.name} holds {bad} NaN or infinite values of {values.size}",
                    where=where, fix="take a checkpoint from before the loss became NaN, or train with a lower rate",
                )  # fmt: skip
        variance = getattr(layer, "moving_variance", None)
        if variance is not None and not (low := float(np.min(np.asarray(variance)) + layer.epsilon)) > 0:
            raise NonFiniteError(
                f"moving_variance of layer {layer.name} goes down to {low:.3g}, and its root is no number", where=where,
                fix="the file is damaged, or its weights are in another order: save the model again",
            )  # fmt: skip


def _plain(model: Any, where: str) -> Any:
    """The same model as float32 and of any batch size; itself where it is that already."""
    config = model.get_config()
    wanted = _plain_config(copy.deepcopy(config))
    if json.dumps(wanted, default=str, sort_keys=True) == json.dumps(config, default=str, sort_keys=True):
        return model
    try:
        rebuilt = type(model).from_config(wanted, custom_objects=_OBJECTS)
        rebuilt.set_weights([_as_float32(weight) for weight in model.get_weights()])
    except Exception as error:  # Keras raises what its layers raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"cannot be rebuilt as float32 with a free batch: {text}", where=where,
            fix="save it with the policy float32 and a batch of None",
        ) from error  # fmt: skip
    return rebuilt


def _as_float32(weight: Any) -> Any:
    values = np.asarray(weight)
    return values.astype(np.float32) if values.dtype.kind not in "iub" else values


def _plain_config(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy" and (value.get("config") or {}).get("name") in _OTHERS:
            value["config"]["name"] = "float32"
        for key, item in value.items():
            if key in ("dtype", "dtype_policy") and item in _OTHERS:
                value[key] = "float32"
            elif key == "stateful" and item is True:
                value[key] = False  # every example is judged by itself
            elif key in ("batch_shape", "batch_input_shape") and isinstance(item, (list, tuple)) and item:
                value[key] = [None, *item[1:]]
            else:
                value[key] = _plain_config(item)
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_plain_config(item) for item in value)
    return value


def stored_config(path: Path) -> dict[str, Any]:
    """What a .keras or .h5 file says of itself, as ``{"model": ..., "compile": ...}``; empty where it is unreadable."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                whole = json.loads(archive.read("config.json"))
            return {"model": whole, "compile": whole.get("compile_config") or {}}
        import h5py

        with h5py.File(path, "r") as file:
            texts = {name: file.attrs.get(name) for name in ("model_config", "training_config")}
        model, training = (json.loads(text) if text is not None else {} for text in texts.values())
        return {"model": model, "compile": training or {}}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EdgejouleError):
        return {}


def _weights_alone(path: Path) -> bool:
    """Whether an HDF5 file came of ``save_weights``: it opens, and holds no configuration."""
    if zipfile.is_zipfile(path):
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "model_config" not in file.attrs
    except OSError:
        return False


def is_stateful(path: Path) -> bool:
    """Whether a recurrent layer keeps its state from one batch to the next."""
    return '"stateful": true' in json.dumps(stored_config(path).get("model", {}))


def holds_code(path: Path) -> bool:
    """Whether a file holds a Lambda layer, whose bytes Keras 2 would run as a program."""
    return '"Lambda"' in json.dumps(stored_config(path).get("model", {}))


def quantity_loss(path: Path) -> str | None:
    """The loss that a model was trained with, where it says that the output is a quantity and no score of a class."""
    loss = stored_config(path).get("compile", {}).get("loss")
    name = loss.get("class_name", "") if isinstance(loss, dict) else loss
    if not isinstance(name, str):
        return None
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return name if plain in _QUANTITIES else None


def several_labels(path: Path) -> bool:
    """Whether a model was trained with a binary cross-entropy for each unit: labels that do not exclude each other."""
    loss = stored_config(path).get("compile", {}).get("loss")
    name = loss.get("class_name", "") if isinstance(loss, dict) else loss
    return isinstance(name, str) and name.replace("_", "").lower() in ("binarycrossentropy", "binaryfocalcrossentropy")
