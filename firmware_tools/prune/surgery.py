"""A Keras model without some of its channels: the same layers with fewer filters, and the weights that are left.

The configuration is edited, a new model is built of it, and every weight is cut along each axis that is made of
channels. On the channels that are left the new model computes what the old one computed with the others set to zero
behind their batch normalisation.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np

from firmware_tools.prune.channels import Channels, Mask
from protos.errors import ModelError


def without(model: Any, channels: Channels, removed: Collection[int]) -> Any:
    """The model without these channels, roots of ``channels``, and whatever falls with them.

    Raises:
        ModelError: a layer would be left with no channel, or cannot be built with fewer.
    """
    gone = set(removed)
    read = {use.layer: channels.mask(use.read, gone) for use in channels.uses}
    made = {use.layer: channels.mask(use.made, gone) for use in channels.uses}
    for layer, mask in (*read.items(), *made.items()):
        if not mask.any():
            raise ModelError(f"layer {layer!r} would be left with no channel", where=channels.where,
                             fix="remove less")  # fmt: skip
    config = copy.deepcopy(model.get_config())
    for row in config["layers"]:
        settings, name = row["config"], row["config"]["name"]
        # A layer that remembers the shape it was built for would be built for it again.
        row.pop("build_config", None)
        if row["class_name"] in ("Conv1D", "Conv2D"):
            settings["filters"] = int(made[name].sum()) if name in made else settings["filters"]
        elif row["class_name"] == "Dense":
            settings["units"] = int(made[name].sum()) if name in made else settings["units"]
        elif row["class_name"] == "Reshape":
            mask = channels.mask(channels.ends[name], gone)
            shape = list(settings["target_shape"])
            shape[-1] = int(mask.sum()) if shape[-1] != -1 else -1
            settings["target_shape"] = shape
    try:
        small = type(model).from_config(config)
        for layer in model.layers:
            if layer.weights:
                cut = _cut(layer, read.get(layer.name), made.get(layer.name))
                small.get_layer(layer.name).set_weights(cut)
    except Exception as error:  # Keras raises what its layers raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot be built with fewer channels: {text}", where=channels.where) from error
    return small


def _cut(layer: Any, read: Mask | None, made: Mask | None) -> list[Any]:
    weights = [np.asarray(weight) for weight in layer.get_weights()]
    if read is None or made is None:
        return weights
    kind = type(layer).__name__.lstrip("_")
    if kind == "DepthwiseConv2D":
        # [h, w, channels, multiplier]: all of a channel's own filters stay or go with it.
        return [weights[0][:, :, read], *(weight[made] for weight in weights[1:])]
    if kind in ("BatchNormalization", "PReLU"):
        return [weight[..., made] for weight in weights]
    return [weights[0][..., read, :][..., made], *(weight[made] for weight in weights[1:])]
