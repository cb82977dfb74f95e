"""Does the exported model say what the float head says? Answered by running it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.export.quantise import Affine
from protos.errors import ShapeError
from protos.model.engine import open_interpreter


@dataclass(frozen=True)
class Parity:
    """An exported model beside the float head, on the same N examples.

    Attributes:
        count: N.
        agreement: share of examples with the same winning class, 0..1.
        error_steps: root mean square difference of the logits, in steps of the exported output's scale.
        float_correct, exported_correct: examples whose winner is the label; None without labels.
        lost: examples that the float head has right and the exported model wrong; None without labels.
        gained: the reverse; None without labels.
    """

    count: int
    agreement: float
    error_steps: float
    float_correct: int | None
    exported_correct: int | None
    lost: int | None
    gained: int | None

    @property
    def drop(self) -> float:
        """Accuracy that the export lost, as a share; negative when it gained.

        >>> Parity(451, 0.97, 1.0, 411, 405, 8, 2).drop * 451
        6.0
        """
        return ((self.lost or 0) - (self.gained or 0)) / self.count

    @property
    def drop_error(self) -> float:
        """Standard error of the drop. Both are run on the same examples, so only those count on which they differ
        (McNemar): sqrt(lost + gained - (lost - gained)^2 / N) / N.

        >>> round(Parity(451, 0.97, 1.0, 411, 405, 8, 2).drop_error, 5)
        0.00698
        """
        lost, gained = self.lost or 0, self.gained or 0
        return math.sqrt(max(0.0, lost + gained - (lost - gained) ** 2 / self.count)) / self.count


def run_model(model: bytes, examples: Iterable[NDArray[Any]]) -> tuple[NDArray[Any], Affine]:
    """Outputs of a one-input, one-output integer model, example by example.

    Args:
        model: the .tflite file.
        examples: already quantised, of the input's dtype, in any shape that has the input's size; an array
            [N, ...], or a generator where N quantised photos would not fit into memory.

    Returns:
        [N, C] of the output's dtype, and what it stands for.

    Raises:
        ModelError: the runtime refuses the model.
        ShapeError: examples of another size or dtype.
    """
    interpreter = open_interpreter(model)
    given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = tuple(int(size) for size in given["shape"])
    rows = []
    for example in examples:
        if example.dtype != given["dtype"] or example.size != math.prod(shape):
            raise ShapeError(
                f"an example is {example.dtype} {list(example.shape)}, the model takes "
                f"{np.dtype(given['dtype'])} {list(shape)}",
                where="exported model",
                fix="quantise the examples with the bundle's preprocessing",
            )
        interpreter.set_tensor(given["index"], example.reshape(shape))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(got["index"]).reshape(-1))
    out = np.stack(rows) if rows else np.empty((0, math.prod(got["shape"])), got["dtype"])
    scale, zero_point = got["quantization"]
    return out, Affine(np.dtype(got["dtype"]).name, float(scale), int(zero_point))


def parity(
    model: bytes,
    examples: Iterable[NDArray[Any]],
    float_logits: NDArray[np.floating[Any]],
    y: NDArray[np.int32] | None = None,
) -> Parity:
    """Run the exported model and compare.

    Args:
        model: an exported file that ends with logits.
        examples: N quantised inputs, N >= 1, as for `run_model`.
        float_logits: [N, C] of the float head on the embeddings of the same examples.
        y: int32 [N] labels.

    Raises:
        ModelError, ShapeError: the model does not run, or counts differ.
    """
    out, affine = run_model(model, examples)
    if out.shape != float_logits.shape or not len(out) or (y is not None and y.shape != (len(out),)):
        raise ShapeError(
            f"{list(out.shape)} exported and {list(float_logits.shape)} float logits"
            + (f" for {len(y)} labels" if y is not None else ""),
            where="exported model",
            fix="compare one or more of the same examples",
        )
    exported, wanted = out.argmax(axis=1), float_logits.argmax(axis=1)
    right = None if y is None else (wanted == y, exported == y)
    error = (affine.real(out) - float_logits) / affine.scale
    return Parity(
        count=len(out),
        agreement=float((exported == wanted).mean()),
        error_steps=float(np.sqrt(np.square(error).mean())),
        float_correct=None if right is None else int(right[0].sum()),
        exported_correct=None if right is None else int(right[1].sum()),
        lost=None if right is None else int((right[0] & ~right[1]).sum()),
        gained=None if right is None else int((right[1] & ~right[0]).sum()),
    )
