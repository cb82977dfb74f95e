"""Layers of a Keras model that are random in training: what they do when the model is used."""

from __future__ import annotations

from typing import Any

import keras

# Augmentation of pictures. RandomCrop is none of them: it cuts and resizes whenever the model runs.
_NAMES = {name for name in dir(keras.layers) if name.startswith("Random") and name != "RandomCrop"}
_NAMES |= {"RandAugment", "AugMix", "MixUp", "CutMix"}
_AUGMENTATION = tuple(getattr(keras.layers, name) for name in sorted(_NAMES) if hasattr(keras.layers, name))


def still_augmentation(model: Any) -> None:
    """Make the layers of a model that change pictures in training pass them on, nested ones too.

    That is what they give when a model is used. Some draw their random numbers all the same, and leave generators in
    the graph that no integer kernel has.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, _AUGMENTATION):
            layer.call = _pass_on(layer)


def _pass_on(layer: Any) -> Any:
    def call(data: Any, training: bool = False) -> Any:
        return keras.ops.cast(data, layer.compute_dtype)

    return call


def notes_of(model: Any) -> tuple[str, ...]:
    """A word on layers that were called with ``training=True``, of nested models too; none where there is no such."""
    names = _always_training(model)
    if not names:
        return ()
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    what = f"{listed} {'works' if len(names) == 1 else 'work'} as in training whenever the model runs (training=True)"
    return (f"{what}; here it does not, and an example always gets the same scores",)


def _always_training(model: Any) -> list[str]:
    names: list[str] = []
    for node in (one for depth in model._nodes_by_depth.values() for one in depth):
        layer = node.operation
        inner = layer._functional if isinstance(layer, keras.Sequential) else layer
        if hasattr(inner, "_nodes_by_depth"):
            names += _always_training(inner)
        elif node.arguments.kwargs.get("training") is True and not isinstance(layer, _AUGMENTATION):
            names.append(layer.name)  # those of augmentation say so of themselves
    return names
