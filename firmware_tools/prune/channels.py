"""Which channels of a Keras model stand or fall together, and what each of them costs.

Every tensor's last axis is a list of channel numbers. Convolutions and dense layers make new ones; element-wise layers,
batch normalisation, pooling and depthwise convolutions hand them on; a residual add says that two lists are the same
channels; a concatenation puts lists behind each other; flattening repeats a list for every place, channel fastest. So
whatever reads a tensor knows which of its inputs a removed channel is, wherever that channel was made. What a layer
does to channels is a row of a table; a layer without one keeps all channels around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import ModelError

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_HANDED_ON = (
    "Activation", "AlphaDropout", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "Cropping1D",
    "Cropping2D", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "Identity", "LeakyReLU", "MaxPooling1D",
    "MaxPooling2D", "PReLU", "ReLU", "SpatialDropout1D", "SpatialDropout2D", "UpSampling1D", "UpSampling2D",
    "ZeroPadding1D", "ZeroPadding2D",
)  # fmt: skip
_MERGED = ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")
# Activations that mix the channels of a place.
_MIXING = ("softmax", "log_softmax", "sparsemax")


@dataclass(frozen=True)
class Use:
    """One layer that has weights along channels.

    Attributes:
        kind: "dense" (convolutions too), "depthwise" or "vector" (batch normalisation).
        read, made: channel numbers of its input and output.
        macs: multiply-accumulates for one input and one output channel (depthwise: for each output channel).
        weights: weights for the same; bias and others: weights for each output channel.
    """

    layer: str
    kind: str
    read: Ids
    made: Ids
    macs: int
    weights: int
    bias: int


@dataclass(frozen=True)
class Family:
    """Channels that are chosen among each other: made by the same layers.

    Attributes:
        layers: that make them; more than one where a residual add joins them.
        channels: one number of each; what falls with it is found by `Channels.root`.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]


class Channels:
    """The channels of a Functional model.

    Raises:
        ModelError: the model holds another model, or nothing of it can be removed.
    """

    def __init__(self, model: Any, *, where: str) -> None:
        self.where = where
        self._parent: list[int] = []
        self._locked: set[int] = set()
        self.uses: list[Use] = []
        self.ends: dict[str, Ids] = {}
        self.maker: dict[int, tuple[str, int]] = {}
        self.kept_whole: list[str] = []
        self._walk(model)
        self._lock_roots()

    def root(self, channel: int) -> int:
        """The number by which all that fall with a channel go."""
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def families(self) -> list[Family]:
        """Channels that may be removed, by the layers that make them, in the order of the model."""
        makers: dict[int, list[str]] = {}
        for channel, (layer, _) in sorted(self.maker.items()):
            makers.setdefault(self.root(channel), []).append(layer)
        found: dict[tuple[str, ...], list[int]] = {}
        for root, layers in makers.items():
            if root not in self._locked:
                found.setdefault(tuple(dict.fromkeys(layers)), []).append(root)
        return [Family(layers, tuple(roots)) for layers, roots in found.items()]

    def members(self) -> dict[int, list[tuple[str, int]]]:
        """For each root the filters that are it: layer and index."""
        found: dict[int, list[tuple[str, int]]] = {}
        for channel, made in self.maker.items():
            found.setdefault(self.root(channel), []).append(made)
        return found

    def mask(self, ids: Ids, removed: Iterable[int]) -> Mask:
        """Which of a list of channels stay."""
        gone = set(removed)
        return np.array([self.root(int(one)) not in gone for one in ids], np.bool_)

    def cost(self, removed: Iterable[int] = ()) -> tuple[int, int]:
        """Multiply-accumulates of one inference and weights of the model without these channels."""
        gone = frozenset(removed)
        macs = weights = 0
        for use in self.uses:
            made = int(self.mask(use.made, gone).sum())
            read = int(self.mask(use.read, gone).sum()) if use.kind == "dense" else 1
            macs += use.macs * read * made
            weights += use.weights * read * made + use.bias * made
        return macs, weights

    # ------------------------------------------------------------ the walk

    def _new(self, count: int, *, locked: bool) -> Ids:
        start = len(self._parent)
        self._parent += range(start, start + count)
        ids = np.arange(start, start + count)
        if locked:
            self._locked |= set(ids.tolist())
        return ids

    def _join(self, one: Ids, other: Ids) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            first, second = sorted((self.root(a), self.root(b)))
            self._parent[second] = first

    def _lock(self, *lists: Ids) -> None:
        for ids in lists:
            self._locked |= set(ids.tolist())

    def _lock_roots(self) -> None:
        self._locked = {self.root(channel) for channel in self._locked}

    def _walk(self, model: Any) -> None:
        nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
        calls: dict[str, int] = {}
        for node in nodes:
            calls[node.operation.name] = calls.get(node.operation.name, 0) + 1
        known: dict[int, Ids] = {}
        for node in nodes:
            layer = node.operation
            if type(layer).__name__ == "InputLayer":
                for tensor in node.output_tensors:
                    known[id(tensor)] = self._new(_last(tensor), locked=True)
                continue
            if hasattr(layer, "layers"):
                raise ModelError(
                    f"holds the model {layer.name!r} as a layer", where=self.where,
                    fix="build it of layers, model.layers one after the other, and save it again",
                )  # fmt: skip
            inputs = [known[id(tensor)] for tensor in node.input_tensors]
            made = None
            if calls[layer.name] == 1 and len(node.output_tensors) == 1:
                made = self._through(layer, inputs, node)
            if made is None:
                # Nothing is known of what it does to channels: all that it reads and gives stay.
                self.kept_whole.append(layer.name)
                self._lock(*inputs)
                for tensor in node.output_tensors:
                    known[id(tensor)] = self._new(_last(tensor), locked=True)
                    self.ends[layer.name] = known[id(tensor)]
                continue
            known[id(node.output_tensors[0])] = self.ends[layer.name] = made
        for tensor in model.outputs:
            self._lock(known[id(tensor)])

    def _through(self, layer: Any, inputs: list[Ids], node: Any) -> Ids | None:
        """Channels of a layer's output, or None where it is not known what it does to them."""
        kind, (source, *_) = _kind(layer), node.input_tensors
        target = node.output_tensors[0]
        ids = inputs[0]
        if getattr(layer, "data_format", "channels_last") not in (None, "channels_last"):
            return None
        mixing = getattr(getattr(layer, "activation", None), "__name__", "") in _MIXING
        if kind in ("Conv1D", "Conv2D") and getattr(layer, "groups", 1) == 1:
            made = self._new(int(layer.filters), locked=mixing)
            size = math.prod(layer.kernel_size)
            places = math.prod(target.shape[1:-1])
            self._made(layer, "dense", ids, made, places * size, size)
            return made
        if kind == "Dense":
            made = self._new(int(layer.units), locked=mixing)
            self._made(layer, "dense", ids, made, math.prod(target.shape[1:-1]), 1)
            return made
        if kind == "DepthwiseConv2D":
            made = np.repeat(ids, int(layer.depth_multiplier))
            size = math.prod(layer.kernel_size)
            macs, bias = math.prod(target.shape[1:-1]) * size, int(layer.use_bias)
            self.uses.append(Use(layer.name, "depthwise", ids, made, macs, size, bias))
            return made
        if mixing or kind in ("Softmax", "Rescaling"):
            # One factor for all is handed on; a vector of them is left alone.
            scalar = kind == "Rescaling" and np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
            return ids if scalar else None
        if kind == "BatchNormalization":
            axis = layer.axis if isinstance(layer.axis, int) else next(iter(layer.axis))
            if axis not in (-1, len(source.shape) - 1):
                return None
            self.uses.append(Use(layer.name, "vector", ids, ids, 0, 0, len(layer.weights)))
            return ids
        if kind == "PReLU":
            if set(layer.shared_axes or ()) != set(range(1, len(source.shape) - 1)):
                return None
            self.uses.append(Use(layer.name, "vector", ids, ids, 0, 0, 1))
            return ids
        if kind in _HANDED_ON:
            return ids
        if kind in _MERGED:
            if len({len(tensor) for tensor in inputs}) != 1:
                return None
            for other in inputs[1:]:
                self._join(ids, other)
            return ids
        if kind == "Concatenate":
            if layer.axis in (-1, len(source.shape) - 1):
                return np.concatenate(inputs)
            for other in inputs[1:]:
                self._join(ids, other)
            return ids
        if kind in ("Flatten", "Reshape"):
            return _reshaped(ids, source.shape, target.shape)
        return None

    def _made(self, layer: Any, kind: str, read: Ids, made: Ids, macs: int, weights: int) -> None:
        self.uses.append(Use(layer.name, kind, read, made, macs, weights, int(layer.use_bias)))
        for index, channel in enumerate(made.tolist()):
            self.maker[channel] = (layer.name, index)


def _kind(layer: Any) -> str:
    name = type(layer).__name__
    return name.lstrip("_")


def _last(tensor: Any) -> int:
    return int(tensor.shape[-1] or 1) if len(tensor.shape) > 1 else 1


def _reshaped(ids: Ids, before: Any, after: Any) -> Ids | None:
    """Flattened, or only places regrouped; None where channels would be torn apart."""
    if None in before[1:] or None in after[1:]:
        return None
    if after[-1] == before[-1]:
        return ids
    if len(after) == 2 and after[-1] == math.prod(before[1:]):
        return np.tile(ids, math.prod(before[1:-1]))
    return None


def counted(removed: Iterable[int], families: Iterable[Family]) -> Mapping[tuple[str, ...], tuple[int, int]]:
    """For each family how many channels stay, of how many."""
    gone = set(removed)
    return {family.layers: (sum(c not in gone for c in family.channels), len(family.channels)) for family in families}
