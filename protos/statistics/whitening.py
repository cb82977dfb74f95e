"""Features in which gradient descent is well conditioned: every direction of the fleet's data varies alike.

The head of a frozen backbone is trained on standardised features x. Their covariance S = U diag(v) U^T has eigenvalues
that differ by a factor of thousands, and gradient descent needs as many steps. In

    w = (x - middle) T,      T = rest I + U diag(gains - rest) U^T,     gains = a / sqrt(v + EPSILON v_1)

all directions of U vary alike; those past the first :data:`MAX_RANK` share one gain, ``rest``. ``a`` makes the mean
squared length of w that of standardised features, so that one learning rate suits both. It is the same head in other
coordinates:  x K + b = w K_w + b_w   with  K = T K_w,  b = b_w - middle T K_w.

Both ends compute with the vectors as they travel, rounded to float16: T is what it is, not quite an eigenbasis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update import trees
from protos.update.quantised.grid import Float16, Float32
from protos.update.tensors import EncodedTensor, Values, decode
from protos.update.trees import Tree

Reals = npt.NDArray[np.float64]

EPSILON = 1e-3
MAX_RANK = 128
KERNEL, BIAS = "out_kernel", "out_bias"
# Of standardised features: protos/model/head_algebra.py.
MEAN_SQUARE_LENGTH = 64.0
# A gain beyond this is no ratio of deviations that a standardised feature can have.
_MAX_GAIN = 1e6


@dataclass(frozen=True, eq=False)
class Basis:
    """The transform T as a tree: what travels, and what is kept.

    Attributes:
        tree: middle [D], vectors [D, R] (values of float16), gains [R + 1], the last of which is ``rest``.
    """

    tree: Tree

    @cached_property
    def version(self) -> str:
        """Made of the content."""
        return trees.version(self.tree)

    @property
    def _parts(self) -> tuple[Reals, Reals, Reals, float]:
        gains = self.tree["gains"].astype(np.float64)
        return (
            self.tree["middle"].astype(np.float64),
            self.tree["vectors"].astype(np.float64),
            gains[:-1] - gains[-1],
            float(gains[-1]),
        )

    def _times(self, rows: Reals) -> Reals:
        """``rows T``, [N, D]. T is symmetric."""
        _, vectors, surplus, rest = self._parts
        made: Reals = rest * rows + ((rows @ vectors) * surplus) @ vectors.T
        return made

    def features(self, x: npt.NDArray[Any]) -> Reals:
        """Standardised features [N, D] in this basis."""
        return self._times(x.astype(np.float64) - self._parts[0])

    def into(self, head: Tree) -> Tree:
        """A head of standardised features as the same head in this basis.

        T^-1 = (I - U (rest I + S U^T U)^-1 S U^T) / rest with S = diag(gains - rest) (Woodbury), which holds for
        vectors that are not quite orthogonal.
        """
        middle, vectors, surplus, rest = self._parts
        kernel = head[KERNEL].astype(np.float64)
        inner = rest * np.eye(len(surplus)) + surplus[:, None] * (vectors.T @ vectors)
        solved = np.linalg.solve(inner, surplus[:, None] * (vectors.T @ kernel))
        turned = (kernel - vectors @ solved) / rest
        bias = head[BIAS].astype(np.float64) + middle @ kernel
        return {BIAS: bias.astype(np.float32), KERNEL: turned.astype(np.float32)}

    def back(self, change: Tree) -> Tree:
        """A change, or a head, of this basis as one of standardised features. Linear: what is summed here may be summed
        there."""
        kernel = self._times(change[KERNEL].astype(np.float64).T).T
        bias = change[BIAS].astype(np.float64) - self._parts[0] @ kernel
        return {BIAS: bias.astype(np.float32), KERNEL: kernel.astype(np.float32)}

    def tensors(self) -> tuple[EncodedTensor, ...]:
        """As it travels."""
        coded: dict[str, Values] = {
            "gains": Float32(self.tree["gains"].astype("<f4").tobytes()),
            "middle": Float32(self.tree["middle"].astype("<f4").tobytes()),
            "vectors": Float16(self.tree["vectors"].astype("<f2").tobytes()),
        }
        return tuple(EncodedTensor(name, tuple(self.tree[name].shape), coded[name]) for name in sorted(coded))


def received(tensors: tuple[EncodedTensor, ...], width: int) -> Basis:
    """A basis as it came, for features of this width.

    Raises:
        UpdateError: not as declared, or no transform that can be undone.
    """
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    rank = shapes.get("vectors", (0, 0))[-1]
    if not 1 <= rank <= min(width, MAX_RANK):
        raise UpdateError(f"a basis of {rank} directions for features of width {width}")
    tree = decode(tensors, {"middle": (width,), "vectors": (width, rank), "gains": (rank + 1,)})
    gains, vectors = tree["gains"], tree["vectors"]
    if not ((gains > 0) & (gains <= _MAX_GAIN)).all() or float(np.abs(vectors).max()) > 1.01:
        raise UpdateError("a basis whose gains or directions are none")
    return Basis(tree)


def basis_of(middle: Reals, covariance: Reals) -> Basis:
    """The basis of features with this mean [D] and covariance [D, D], in standardised space."""
    width = len(middle)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    rank = min(width, MAX_RANK)
    floor = EPSILON * float(values[0]) if values[0] > 0 else 1.0
    # The rest vary by what they do on average; with none left, like the last.
    others = float(values[rank:].mean()) if rank < width else float(values[-1])
    shared = np.concatenate([values[:rank], np.full(width - rank, others)]) + floor
    # E |w|^2 = a^2 sum of v / (v + floor)
    length = float((values / shared).sum())
    size = np.sqrt(MEAN_SQUARE_LENGTH / length) if length > 0 else 1.0
    gains = size / np.sqrt(np.append(shared[:rank], others + floor))
    rounded = vectors[:, :rank].astype(np.float16).astype(np.float32)
    return Basis({
        "gains": gains.astype(np.float32), "middle": middle.astype(np.float32), "vectors": rounded,
    })  # fmt: skip
