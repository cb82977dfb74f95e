"""How much a channel matters: what no other channel could make up for, in the layers that read it.

A layer gives Z = A W, with A rows of its inputs (patches, for a convolution; a one for its bias). Without the columns c
of a channel, and with the rest fitted anew, the least that Z can be off by is (optimal brain surgeon, Hassibi and Stork
1993, for a group of weights; the layer's own output in place of the loss)

    e_c = tr(W_c^T [(H^-1)_cc]^-1 W_c),    H = A^T A / rows + lambda I,    lambda = 1e-3 of the mean of the diagonal

as a share of the variance of Z, summed over the layers that read the channel: one scale for all layers, and no label.
Two channels that tell the same can each be spared, and not both: so channels are removed one after the other, always
the one of the least e_c for each multiply-accumulate that it saves, and after each

    W <- W - H^-1_:c [(H^-1)_cc]^-1 W_c,    H^-1 <- H^-1 - H^-1_:c [(H^-1)_cc]^-1 H^-1_c:

which are the weights and the inverse of the layer that is left. The score of a channel is e_c when its turn came, made
to rise along that order. What `reconstruct` does afterwards is the fit that is foreseen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_tools.prune.channels import Channels, Use
from firmware_tools.prune.reconstruction import matrix_of, patches
from protos.errors import ModelError

Reals = npt.NDArray[np.float64]

_ROWS = 20_000
_SHRINKAGE = 1e-3


@dataclass
class _Reader:
    """One layer that reads channels: its inverse and weights as they are by now.

    Attributes:
        columns: of each root that it reads, rows of ``weights``.
        outputs: of each root that it makes, columns of ``weights``.
        whole: variance of what it gives, summed over its outputs.
    """

    inverse: Reals
    weights: Reals
    columns: dict[int, npt.NDArray[np.int64]]
    outputs: dict[int, npt.NDArray[np.int64]]
    whole: float

    def error(self, root: int) -> float:
        """Share of the variance that is lost with a channel."""
        at = self.columns[root]
        own = self.weights[at]
        return float((own * np.linalg.solve(self.inverse[np.ix_(at, at)], own)).sum()) / self.whole

    def drop(self, root: int) -> None:
        """The layer without a channel that it reads, the rest fitted anew."""
        at = self.columns.pop(root)
        beside = self.inverse[:, at]
        block = self.inverse[np.ix_(at, at)]
        self.weights = self.weights - beside @ np.linalg.solve(block, self.weights[at])
        self.inverse = self.inverse - beside @ np.linalg.solve(block, beside.T)


def least_squares(model: Any, channels: Channels, x: Any, *, seed: int = 0) -> dict[int, float]:
    """Score of each root that may go.

    Args:
        x: float32 [N, ...] examples as the model takes them.

    Raises:
        ModelError: a layer that reads channels is neither a Conv2D nor a Dense.
    """
    families = channels.families()
    whole = channels.cost()[0]
    saved = {
        channel: max(1, whole - channels.cost({family.channels[0]})[0])
        for family in families
        for channel in family.channels
    }
    readers = [_reader(model, channels, use, x, saved, seed) for use in channels.uses if use.kind == "dense"]
    of = {root: [reader for reader in readers if root in reader.columns] for root in saved}
    worth = {root: sum(reader.error(root) for reader in of[root]) / saved[root] for root in saved}
    found: dict[int, float] = {}
    least = 0.0
    left = {channel: family for family in families for channel in family.channels}
    counts = {family.layers: len(family.channels) for family in families}
    while worth:
        # The last channel of a family cannot be made up for: it goes after all others.
        root = min(worth, key=lambda one: (counts[left[one].layers] == 1, worth[one], one))
        least = max(least, worth.pop(root))
        found[root] = least * saved[root]
        counts[left[root].layers] -= 1
        touched: set[int] = set()
        for reader in readers:
            if root in reader.outputs:
                # What goes itself need not be made up for.
                reader.weights[:, reader.outputs[root]] = 0.0
                touched |= set(reader.columns)
            if root in reader.columns:
                if len(reader.columns) > 1:
                    reader.drop(root)
                touched |= set(reader.columns)
        for other in touched & set(worth):
            worth[other] = sum(reader.error(other) for reader in of[other] if other in reader.columns) / saved[other]
    return found


def _reader(model: Any, channels: Channels, use: Use, x: Any, may_go: dict[int, int], seed: int) -> _Reader:
    import keras

    layer = model.get_layer(use.layer)
    if type(layer).__name__ not in ("Conv2D", "Dense"):
        raise ModelError(f"what layer {use.layer!r} reads cannot be scored by least squares", where=channels.where,
                         fix="take --criterion taylor")  # fmt: skip
    random = np.random.default_rng([seed, 0x15])
    places = int(np.prod(layer.output.shape[1:-1]))
    examples = x[random.permutation(len(x))[: max(32, 2 * _ROWS // max(1, places))]]
    given = keras.Model(model.inputs, layer.input).predict(examples, batch_size=64, verbose=0)
    rows = np.sort(random.permutation(len(examples) * places)[:_ROWS])
    a, weights = patches(layer, given)[rows], matrix_of(layer)
    square = a.T @ a / len(a)
    square += _SHRINKAGE * float(np.trace(square)) / len(square) * np.eye(len(square))
    inverse = np.asarray(np.linalg.inv(square), np.float64)
    read = np.array([channels.root(int(one)) for one in use.read])
    made = np.array([channels.root(int(one)) for one in use.made])
    # A patch has all channels of a place behind each other, place by place.
    of_column = np.tile(read, (len(weights) - int(layer.use_bias)) // len(read))
    return _Reader(
        inverse,
        weights,
        {int(root): np.flatnonzero(of_column == root) for root in np.unique(read) if int(root) in may_go},
        {int(root): np.flatnonzero(made == root) for root in np.unique(made) if int(root) in may_go},
        max(float((a @ weights).var(axis=0).sum()), 1e-12),
    )
