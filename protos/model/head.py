"""The trainable head, run through the compiled signatures of ``head.tflite``.

All signatures share their variables inside one interpreter: ``write`` sets them, the proximal reference with them,
and clears the optimiser; ``correct`` sets what is added to each gradient; ``train`` moves them; ``read``, ``infer``
and ``evaluate`` look at them. The batch is fixed at conversion: what is left over is padded and masked by a weight of
zero.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import LabelError, ModelError, ShapeError, UsageError
from protos.model.bundle import Bundle
from protos.model.engine import open_interpreter
from protos.model.head_algebra import Array, Tree, check_tree
from protos.model.head_kinds import diffusion
from protos.model.manifest import CORRECTION, Manifest, TrainInput
from protos.model.task import (
    ANOMALY,
    CLASSIFICATION,
    DIFFUSION,
    REGRESSION,
    judged_quantities,
    judged_scores,
    scores_of,
)

SIGNATURES = ("evaluate", "infer", "read", "train", "write")


def signatures_of(manifest: Manifest) -> tuple[str, ...]:
    """What the head's file offers: only a classifier counts right answers; the distance from what is normal has a
    closed form alone, and no training step."""
    if manifest.task == CLASSIFICATION:
        found: tuple[str, ...] = SIGNATURES
    elif manifest.task in (REGRESSION, DIFFUSION) or manifest.head.hidden_units is not None:
        found = ("infer", "read", "train", "write")
    else:
        found = ("infer", "read", "write")
    # Heads of an earlier release take no corrections.
    return (*found, "correct") if any(tensor.name == CORRECTION for tensor in manifest.head.inputs) else found


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a head is over ``count`` examples.

    Attributes:
        loss: mean cross-entropy in nats; of other tasks see :class:`protos.model.task.Judgement`.
        accuracy: share of right answers; of other tasks what heads are ranked by: R2, or AUC, which is NaN where the
            examples cannot tell.
        rmse: root mean squared error of each quantity of a regression, in its own unit.
    """

    loss: float
    accuracy: float
    count: int
    rmse: tuple[float, ...] = ()


class Head:
    """The head of a bundle, holding the bundle's starting values at first.

    Raises:
        ModelError: the model does not load, or its signatures are not those of the manifest.
    """

    def __init__(self, bundle: Bundle) -> None:
        spec = bundle.manifest.head
        self.batch_size = spec.batch_size
        self.embedding_width = bundle.manifest.backbone.embedding_width
        self.class_count = len(bundle.manifest.classes)
        self.outputs = bundle.manifest.outputs
        self._task = bundle.manifest.task
        # Layers in front of the head take the backbone's integers as they are, a quarter of the memory.
        self._codes = bundle.manifest.backbone if spec.tail is not None else None
        self._signatures = signatures_of(bundle.manifest)
        self.inputs: dict[str, TrainInput] = {tensor.name: tensor for tensor in spec.inputs}
        self._shapes = spec.shapes()
        self._where = str(bundle.head_path)
        # Of a denoiser: latents are where noise has the size of the signal.
        self._affine = bundle.feature_affine() if self._task == DIFFUSION else None
        self._random: np.random.Generator | None = None
        self._run = self._runners(bundle.head_path)
        self._defaults = {name: np.array([tensor.default], np.float32) for name, tensor in self.inputs.items()}
        self.write(bundle.initial_head())

    def _runners(self, path: Path) -> dict[str, Any]:
        # Runners hold only borrowed pointers into the interpreter: it must live as long as they do.
        self._interpreter = open_interpreter(path)
        found = self._interpreter.get_signature_list()
        batch, width = self.batch_size, self.embedding_width
        labels: dict[str, tuple[int, ...]] = {"y": (batch,)}
        if self._task == REGRESSION:
            labels = {"y": (batch, self.outputs)}
        elif self._task == ANOMALY:
            labels = {}  # what is normal is all that a device trains on
        examples = {"x": (batch, width), **labels, "weight": (batch,)}
        given: dict[str, tuple[int, ...]] = {"x": (batch, width)}
        if self._task == DIFFUSION:
            examples |= {"noise": (batch, width), "moment": (batch,)}
            given |= {"y": (batch,), "moment": (batch,)}
        expected: dict[str, Mapping[str, tuple[int, ...]]] = {
            "train": {**examples, **dict.fromkeys(self.inputs, (1,))},
            "evaluate": examples,
            "infer": given,
            "read": {},
            "write": self._shapes,
            "correct": self._shapes,
        }
        runners = {}
        for name in self._signatures:
            if name not in found:
                raise ModelError(f"has no signature {name!r}", where=self._where)
            runners[name] = self._interpreter.get_signature_runner(name)
            details = runners[name].get_input_details()
            shapes = {key: tuple(int(n) for n in detail["shape"]) for key, detail in details.items()}
            if shapes != dict(expected[name]):
                raise ModelError(
                    f"signature {name} takes {shapes}, the manifest says {dict(expected[name])}", where=self._where
                )
        return runners

    def write(self, tree: Mapping[str, npt.ArrayLike]) -> None:
        """Set the head and the proximal reference to ``tree``, and clear the optimiser's state and the correction.

        Raises:
            ShapeError, NonFiniteError: not a tree of this head.
        """
        self._run["write"](**check_tree(tree, self._shapes))

    def correct(self, tree: Mapping[str, npt.ArrayLike]) -> None:
        """Set what each step adds to its gradient, times its input ``correction``, until the head is written again.

        Raises:
            ShapeError, NonFiniteError: not a tree of this head.
            UsageError: the bundle's train step takes none.
        """
        if "correct" not in self._run:
            fix = "convert the model again with this release"
            raise UsageError("this head's train step takes no corrections", where=self._where, fix=fix)
        self._run["correct"](**check_tree(tree, self._shapes))

    def read(self) -> Tree:
        """The head as it is now: fresh float32 arrays, names sorted. May hold NaN after a diverged training."""
        return check_tree(self._run["read"](), self._shapes, finite=False)

    def train_step(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        weight: npt.NDArray[np.float32] | None = None,
        **inputs: float,
    ) -> float:
        """One optimiser step on one batch.

        Args:
            x: float32 [n, D] embeddings (dequantised, not standardised), n <= the batch size; or integers, where the
                head takes them.
            y: int32 [n] class indices in 0..C-1; of a regression float32 [n, K].
            weight: float32 [n], share of each example in the mean loss; ones by default, 0 masks.
            inputs: hyper-parameters by name; what is not given takes the manifest's default.

        Returns:
            The objective before the step, mean over the weighted examples.

        Raises:
            ShapeError: wrong shapes.
            UsageError: an input that this head does not have, a value outside its range, or a head without steps.
        """
        if "train" not in self._run:
            raise UsageError(
                "this head has a closed form and no training step", where=self._where,
                fix='let the plan say [train] method = "closed_form"',
            )  # fmt: skip
        values = self._padded(x, y, weight)
        if self.draws:
            if self._random is None:
                raise UsageError("a step of this head draws noise, and has nothing to draw from", where=self._where)
            values["noise"], values["moment"] = diffusion.draws(self._random, self.batch_size, self.embedding_width)
        for name, default in self._defaults.items():
            values[name] = self._checked(name, inputs[name]) if name in inputs else default
        if strange := set(inputs) - set(self.inputs):
            raise self._unknown_input(sorted(strange)[0])
        return float(self._run["train"](**values)["loss"][0])

    def evaluate(self, x: npt.NDArray[np.float32], y: npt.NDArray[Any]) -> Evaluation:
        """Loss and accuracy over any number of examples.

        Args:
            x: float32 [N, D] embeddings, N >= 1.
            y: [N] class indices; of a regression real [N, K].

        Raises:
            ShapeError: wrong shapes, or no example.
            LabelError: a label outside the classes.
        """
        if len(x) == 0 or len(x) != len(y):
            raise ShapeError(f"evaluation needs as many labels as examples, at least one; got {len(x)} and {len(y)}")
        if self._task == REGRESSION:
            found = judged_quantities(self.infer(x), np.asarray(y))
            return Evaluation(found.loss, math.nan if found.score is None else found.score, len(x), found.rmse)
        if int(np.min(y)) < 0 or int(np.max(y)) >= self.class_count:
            raise LabelError(f"labels {int(np.min(y))}..{int(np.max(y))} in data for {self.class_count} classes")
        if self._task == DIFFUSION:
            return self._explained(x, np.asarray(y, np.int32))
        if self._task == ANOMALY:
            found = judged_scores(scores_of(self.infer(x)), np.asarray(y))
            return Evaluation(found.loss, math.nan if found.score is None else found.score, len(x))
        loss = correct = 0.0
        for piece in self._pieces(len(x)):
            result = self._run["evaluate"](**self._padded(x[piece], y[piece], None))
            loss += float(result["loss_sum"][0])
            correct += float(result["correct"][0])
        return Evaluation(loss / len(x), correct / len(x), len(x))

    @property
    def takes_integers(self) -> bool:
        """Whether embeddings may be given as the backbone gives them; real numbers are made integers again."""
        return self._codes is not None

    @property
    def draws(self) -> bool:
        """Whether a step draws noise."""
        return self._task == DIFFUSION

    def draw_from(self, random: np.random.Generator) -> None:
        """Where the noise and moments of the next steps come from; other heads than denoisers draw nothing."""
        self._random = random

    def denoise(self, z: Array, y: npt.NDArray[np.int32], moments: npt.NDArray[np.int32]) -> Array:
        """The noise in latents at their moments, [N, D]: :func:`protos.model.head_kinds.diffusion.guess`, compiled.

        Raises:
            UsageError: the head is no denoiser.
        """
        if not self.draws:
            raise UsageError("this head finds no noise in latents", where=self._where)
        found = np.empty((len(z), self.embedding_width), np.float32)
        for piece in self._pieces(len(z)):
            values = {
                "x": self._batch(z[piece], (self.embedding_width,), np.float32),
                "y": self._batch(y[piece], (), np.int32),
                "moment": self._batch(moments[piece], (), np.int32),
            }
            found[piece] = self._run["infer"](**values)["logits"][: len(z[piece])]
        return found

    def _explained(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int32]) -> Evaluation:
        """Mean squared error of the guessed noise, and 1 less it: noise and moments are the same for every head."""
        assert self._affine is not None
        noise, moments = diffusion.draws(np.random.default_rng([0, 0xE7A1]), len(x), self.embedding_width)
        z = diffusion.noised(diffusion.latents_of(x, *self._affine), noise, moments)
        loss = float(np.square(self.denoise(z, y, moments).astype(np.float64) - noise).mean())
        return Evaluation(loss, 1.0 - loss, len(x))

    def infer(self, x: npt.NDArray[Any]) -> Array:
        """Class scores (logits), quantities or deviations, float32 [N, K], of any embeddings, float32 [N, D], or
        integers where the head takes them.

        Raises:
            UsageError: the head is a denoiser, which says nothing of an example.
        """
        if self.draws:
            raise UsageError(
                "this head makes new examples, and says nothing of one that is there", where=self._where,
                fix="sample it: coordinator export RUN -o denoiser.npz, then firmware-tools sample",
            )  # fmt: skip
        logits = np.empty((len(x), self.outputs), np.float32)
        for piece in self._pieces(len(x)):
            logits[piece] = self._run["infer"](x=self._given(x[piece]))["logits"][: len(x[piece])]
        return logits

    def _pieces(self, count: int) -> Iterator[slice]:
        return (slice(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size))

    def _batch(self, value: npt.NDArray[Any], shape: tuple[int, ...], dtype: type[Any]) -> npt.NDArray[Any]:
        """``value`` itself when it is a full batch of the right type, else a copy padded with zeros."""
        value = np.asarray(value, dtype)
        if value.shape[1:] != shape or len(value) > self.batch_size:
            raise ShapeError(
                f"a batch of shape {list(value.shape)}; the head takes {[self.batch_size, *shape]} or fewer examples"
            )
        if len(value) == self.batch_size:
            return value
        padded = np.zeros((self.batch_size, *shape), dtype)
        padded[: len(value)] = value
        return padded

    def _given(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A batch of embeddings as the file takes it."""
        spec = self._codes
        if spec is None:
            return self._batch(x, (self.embedding_width,), np.float32)
        dtype = np.dtype(spec.output_dtype).type
        if x.dtype.kind == "f":
            limits = np.iinfo(dtype)
            x = np.clip(np.rint(x / np.float32(spec.output_scale)) + spec.output_zero_point, limits.min, limits.max)
        return self._batch(x, (self.embedding_width,), dtype)

    def _padded(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], weight: npt.NDArray[Any] | None
    ) -> dict[str, npt.NDArray[Any]]:
        weight = np.ones(len(x), np.float32) if weight is None else weight
        if not len(x) == len(y) == len(weight):
            raise ShapeError(f"a batch of {len(x)} examples, {len(y)} labels and {len(weight)} weights")
        batch = {
            "x": self._given(x),
            "weight": self._batch(weight, (), np.float32),
        }
        if self._task == REGRESSION:
            batch["y"] = self._batch(y, (self.outputs,), np.float32)
        elif self._task in (CLASSIFICATION, DIFFUSION):
            batch["y"] = self._batch(y, (), np.int32)
        return batch

    def _checked(self, name: str, value: float) -> npt.NDArray[np.float32]:
        known = self.inputs[name]
        if not known.minimum <= value <= known.maximum:
            raise UsageError(
                f"training input {name} = {value} is outside {known.minimum:g}..{known.maximum:g} ({known.meaning})"
            )
        return np.array([value], np.float32)

    def _unknown_input(self, name: str) -> UsageError:
        near = difflib.get_close_matches(name, self.inputs, n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.inputs)}"
        return UsageError(f"this head has no training input {name!r}", where=self._where, fix=fix)
