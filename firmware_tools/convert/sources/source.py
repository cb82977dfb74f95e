"""What every kind of float model is reduced to: a function to the embedding, and the plain head behind it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import ModelError
from protos.model.head_algebra import Array, Tree

_POOL_FIRST = "cut after a pooling or flatten layer"


@dataclasses.dataclass(frozen=True, slots=True)
class FloatModel:
    """A float model that was cut.

    Attributes:
        input_shape: shape of one example.
        width: D, values in one embedding.
        embed: TensorFlow function, float32 [n, *input_shape] to float32 [n, D]; can be traced again.
        fixed_batch: 1 when ``embed`` takes one example at a time only, else None.
        cut: name of the layer or tensor that gives the embedding.
        tail: plain head that continues from the embedding exactly as the model does, or None.
        tail_note: why there is no tail, or what it is.
        classes: how many the model itself tells apart, by the shape of its output, or None.
        one_number: whether its output is one number that no sigmoid ends: a regression, unless somebody says that it
            is the logit of two classes.
        keep: what must stay alive while ``embed`` is used.
        takes: TensorFlow's name of the type that ``embed`` is traced with; whole numbers are cast to it.
        layers: names to cut at, in their order, for messages.
        linear: whether its output is that of an affine layer as it is, with nothing that squashes it.
        constant: whether its output is a softmax over one number, which is always 1.
        residual: whether ``embed`` gives the input less the output of an autoencoder.
        notes: what was changed in the model, for the user to know.
        vocabulary: how many token ids there are, where ``takes`` is int32; None of a model of real numbers.
        flat: the float .tflite that ``embed`` runs, where the model came as one; it is quantised as it is.
        no_classifier: why its output is no score of classes, as far as the file tells; None where it may be one.
    """

    input_shape: tuple[int, ...]
    width: int
    embed: Callable[[Any], Any]
    fixed_batch: int | None
    cut: str
    tail: Tree | None
    tail_note: str
    classes: int | None
    keep: Any
    takes: str = "float32"
    layers: tuple[str, ...] = ()
    no_classifier: str | None = None
    one_number: bool = False
    linear: bool = False
    constant: bool = False
    residual: bool = False
    notes: tuple[str, ...] = ()
    flat: bytes | None = None
    vocabulary: int | None = None

    def given(self, values: Array) -> npt.NDArray[Any]:
        """Preprocessed values as the converter's files take them: float32, or int32 of token ids."""
        return values if self.vocabulary is None else values.astype(np.int32)

    def embed_all(self, x: npt.NDArray[Any], preprocess: Callable[[Any], Array], *, batch: int = 64) -> Array:
        """Float embeddings [N, D] of raw examples [N, ...], in batches."""
        step = self.fixed_batch or batch
        result = np.empty((len(x), self.width), np.float32)
        for start in range(0, len(x), step):
            values = preprocess(x[start : start + step]).astype(self.takes)
            result[start : start + step] = np.asarray(self.embed(values))
        return result


def plain_tail(layers: list[tuple[Array, Array | None, bool]]) -> tuple[Tree | None, str]:
    """A head tree from the affine layers behind the cut.

    Args:
        layers: (kernel [in, out], bias [out] or None, followed by ReLU) in order.

    Returns:
        The plain tree, or None, and a note.
    """
    filled = [(kernel, np.zeros(kernel.shape[1], np.float32) if bias is None else bias) for kernel, bias, _ in layers]
    if not filled or len(filled) > 2 or layers[-1][2] or (len(filled) == 2 and not layers[0][2]):
        return None, "what follows the cut is no linear head, nor one with a ReLU hidden layer"
    kernel, bias = filled[-1]
    if kernel.shape[1] == 1:
        # One sigmoid unit z is the softmax of [0, z].
        kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    tree = {"out_kernel": kernel, "out_bias": bias}
    if len(filled) == 2:
        tree |= {"hidden_kernel": filled[0][0], "hidden_bias": filled[0][1]}
    return {name: np.asarray(tree[name], np.float32) for name in sorted(tree)}, "starts from the pre-trained last layer"


def vector_width(shape: Iterable[int | None], *, cut: str, where: str, layers: Sequence[str] = ()) -> int:
    """Width of the embedding of a cut tensor of this shape (batch included), which must be a vector per example.

    Args:
        layers: names to cut at, for the message.

    Raises:
        ModelError: more than one size beyond 1, or an unknown one.
    """
    sizes = list(shape)[1:]
    text = " x ".join("?" if size is None else str(size) for size in sizes) or "a single number"
    if any(size is None for size in sizes):
        raise ModelError(f"the cut at {cut!r} has the unknown shape {text} per example", where=where,
                         fix=f"{_POOL_FIRST}, or give --input-shape")  # fmt: skip
    if sum(size != 1 for size in sizes) > 1:
        raise ModelError(f"the cut at {cut!r} is {text} per example, not a vector", where=where,
                         fix=_POOL_FIRST + (f", with --cut LAYER{listed_layers(layers)} and --classes N" if layers else
                         ": put a GlobalAveragePooling2D behind it"))  # fmt: skip
    width = int(np.prod([1, *(size for size in sizes if size is not None)]))
    if not sizes or width < 2:
        raise ModelError(f"the cut at {cut!r} is {text} per example: too little to learn from", where=where)
    return width


RESIDUAL = "input less output"
"""Where an autoencoder is cut for an anomaly head: what it cannot reconstruct."""


def class_count(output_shape: Iterable[int | None]) -> int | None:
    """Classes of a model with an output of this shape (batch included): its width; one unit tells two apart."""
    sizes = list(output_shape)
    if len(sizes) != 2 or sizes[1] is None:
        return None
    return max(2, sizes[1])


def no_such_cut(cut: str, known: list[str], *, where: str) -> ModelError:
    """The error for a cut that does not exist, with the nearest name that does."""
    near = difflib.get_close_matches(cut, known, n=1, cutoff=0.4)
    fix = f"did you mean {near[0]!r}?" if near else f"the last ones are {', '.join(known[-6:])}"
    return ModelError(f"has no layer {cut!r} to cut at", where=where, fix=fix)


def checked_input(shape: list[int | None], asked: tuple[int, ...] | None, *, where: str) -> tuple[int, ...]:
    """Shape of one example, from the model's input shape (batch included) and ``--input-shape``.

    Raises:
        ModelError: they disagree, or sizes are unknown and none were given.
    """
    sizes = shape[1:]
    if asked is not None:
        if len(asked) != len(sizes) or any(a != b for a, b in zip(asked, sizes, strict=True) if b is not None):
            raise ModelError(f"takes {sizes} per example, --input-shape says {list(asked)}", where=where)
        return asked
    if not sizes or any(size is None for size in sizes):
        text = " x ".join("?" if size is None else str(size) for size in sizes)
        raise ModelError(f"takes examples of the unknown shape {text or 'scalar'}", where=where,
                         fix=f"give --input-shape, such as {'96,96,3' if len(sizes) > 1 else '96'}")  # fmt: skip
    return tuple(int(size) for size in sizes if size is not None)


def listed_layers(names: Sequence[str], *, shown: int = 6) -> str:
    """`` (such as pool, dense)`` of names to cut at, or nothing when none are known."""
    return f" (such as {', '.join(names[-shown:])})" if names else ""
