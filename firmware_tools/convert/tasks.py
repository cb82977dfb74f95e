"""What a conversion for a regression or for anomalies does otherwise than one for classes: labels, where the head
starts, and how good it is then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_tools.convert.examples import Examples
from firmware_tools.convert.job import ConvertJob
from firmware_tools.convert.sources.source import FloatModel
from firmware_tools.convert.sources.tflite_source import Extractor
from protos.datafiles.dataset import Dataset
from protos.errors import ModelError, UsageError
from protos.model.head_algebra import (
    Array,
    Tree,
    apply_standardisation,
    fold_standardisation,
    fold_targets,
    outputs_of,
    untrained_head,
)
from protos.model.head_kinds import diffusion
from protos.model.task import (
    ANOMALY,
    CLASSIFICATION,
    DIFFUSION,
    MEASURES,
    NORMAL,
    REGRESSION,
    Judgement,
    judged_quantities,
    judged_scores,
    scores_of,
    task_of,
    whitened_head,
)

ANOMALY_CLASSES = ("normal", "anomaly")
# A head of width x width float32 numbers: 16 MB.
WIDEST_DISTANCE = 2048
# How much a covariance of calibration examples is shrunk; devices replace it by their own.
_SHRINKAGE = 0.1


@dataclasses.dataclass(frozen=True)
class Start:
    """A head before the first round.

    Attributes:
        tree: as it travels, in standardised space.
        note: how it starts, in a sentence.
        target_mean, target_scale: float32 [K] of a regression, None for other tasks.
        carried: it is the model's own last layer, or the score that the model was published with.
    """

    tree: Tree
    note: str
    target_mean: Array | None = None
    target_scale: Array | None = None
    carried: bool = False


def quantities_of(data: Examples, where: str) -> int:
    """K, how many quantities the examples have.

    Raises:
        UsageError: there are no examples, or two files of them differ.
    """
    counts = {int(dataset.y.shape[1]) for dataset in (data.calibration, data.evaluation) if dataset is not None}
    if not counts:
        raise UsageError("a regression learns the range of its quantities from examples, and none are given",
                         where=where, fix="give --calibrate DATA or --eval DATA with y [N, K]")  # fmt: skip
    if len(counts) > 1:
        raise UsageError(f"--calibrate and --eval have {' and '.join(map(str, sorted(counts)))} quantities")
    return counts.pop()


def output_names(job: ConvertJob, data: Examples, where: str) -> tuple[str, ...]:
    """Names of the quantities, or of the two classes of an anomaly head.

    Raises:
        UsageError: the options contradict the examples.
    """
    if task_of(job.objective) == ANOMALY:
        return job.class_names or ANOMALY_CLASSES
    count = quantities_of(data, where)
    if job.classes not in (None, count):
        raise UsageError(f"{job.classes} quantities are asked for, and the examples have {count}", where=where,
                         fix="leave --classes out, or give as many --class-names")  # fmt: skip
    return job.class_names or tuple(str(index) for index in range(count))


def only_normal(data: Dataset) -> Dataset:
    """What the statistics of an anomaly head are made of."""
    kept = data.select(np.flatnonzero(data.y == NORMAL))
    if not len(kept):
        raise UsageError("holds no normal example", where=data.source, fix="give examples of label 0, which are normal")
    return kept


def start_of(
    job: ConvertJob,
    source: FloatModel | Extractor,
    embeddings: Array,
    targets: npt.NDArray[Any],
    affine: tuple[Array, Array],
    classes: int,
) -> Start:
    """Where the head of a regression, of anomalies, or one that denoises, starts.

    Args:
        embeddings: float32 [N, D] of calibration examples; of anomalies, normal ones alone.
        targets: [N, K] of a regression.
        affine: mean and scale of the features, float32 [D] each.
        classes: that a denoiser is told of.
    """
    if task_of(job.objective) == REGRESSION:
        return _quantities(job, source, embeddings.shape[1], targets, affine)
    width = embeddings.shape[1]
    if task_of(job.objective) == DIFFUSION:
        tree = diffusion.untrained_denoiser(width, classes, job.hidden_units or diffusion.HIDDEN, seed=job.seed)
        return Start(tree, f"starts untrained: makes normal latents of {width} numbers")
    if job.hidden_units is not None:
        tree = untrained_head(width, width, job.hidden_units, seed=job.seed)
        return Start(tree, f"starts untrained: reconstructs {width} features through {job.hidden_units} units")
    if width > WIDEST_DISTANCE:
        raise ModelError(
            f"the distance of an embedding of {width} numbers from what is normal takes {width} x {width} weights, "
            f"and at most {WIDEST_DISTANCE} x {WIDEST_DISTANCE} fit",
            fix="give --hidden UNITS for a head that reconstructs, or --cut LAYER where fewer numbers come out",
        )
    if isinstance(source, FloatModel) and source.residual and not job.fresh_head:
        plain = {"out_kernel": np.eye(width, dtype=np.float32), "out_bias": np.zeros(width, np.float32)}
        note = "starts as the autoencoder's own score: the mean square of what it cannot reconstruct"
        return Start(apply_standardisation(plain, *affine), note, carried=True)
    values = embeddings.astype(np.float64)
    kernel, bias = whitened_head(values.mean(axis=0), np.cov(values.T, bias=True).reshape(width, width), _SHRINKAGE)
    tree = apply_standardisation({"out_kernel": kernel, "out_bias": bias}, *affine)
    return Start(tree, f"starts as the distance from {len(values)} normal calibration examples")


def _quantities(
    job: ConvertJob, source: FloatModel | Extractor, width: int, targets: npt.NDArray[Any], affine: tuple[Array, Array]
) -> Start:
    wanted = targets.astype(np.float64)
    mean, deviation = wanted.mean(axis=0).astype(np.float32), wanted.std(axis=0)
    # A quantity that is constant over the calibration keeps its own unit.
    scale = np.where(deviation > 0, deviation, 1.0).astype(np.float32)
    tail, note = _own_layer(job, source, wanted.shape[1])
    if tail is None:
        tree = untrained_head(width, wanted.shape[1], job.hidden_units, seed=job.seed)
        return Start(tree, note, mean, scale)
    standardised = apply_standardisation(fold_targets(tail, -mean / scale, 1.0 / scale), *affine)
    return Start(standardised, note, mean, scale, carried=True)


def _own_layer(job: ConvertJob, source: FloatModel | Extractor, count: int) -> tuple[Tree | None, str]:
    """The model's own last layer, plain, where it gives these quantities; and how the head starts."""
    tail = source.tail
    if tail is None:
        return None, f"starts untrained: {source.tail_note}"
    if job.fresh_head:
        return None, "starts untrained, as asked"
    if not source.linear:
        return None, "starts untrained: the model's output is squashed, and quantities are not"
    if source.one_number and tail["out_kernel"].shape[1] == 2:
        # `plain_tail` makes two scores of one.
        tail = {**tail, "out_kernel": tail["out_kernel"][:, 1:], "out_bias": tail["out_bias"][1:]}
    if len(tail["out_bias"]) != count:
        return None, f"starts untrained: the model gives {len(tail['out_bias'])} quantities, the examples have {count}"
    hidden = tail["hidden_kernel"].shape[1] if "hidden_kernel" in tail else None
    if hidden != job.hidden_units:
        return None, f"starts untrained: the model's own head has {hidden or 'no'} hidden units, asked for is "\
            f"{job.hidden_units or 'none'}"  # fmt: skip
    return tail, "starts from the pre-trained last layer"


def plain_outputs(start: Start, task: str, affine: tuple[Array, Array]) -> Callable[[Array], Array]:
    """From embeddings to the outputs of a head, in plain arithmetic."""
    mean, scale = affine
    residual = task == ANOMALY and "hidden_kernel" in start.tree

    def run(embeddings: Array) -> Array:
        if start.target_mean is not None and start.target_scale is not None:
            plain = fold_standardisation(fold_targets(start.tree, start.target_mean, start.target_scale), mean, scale)
            return outputs_of(plain, embeddings, residual=False)
        return outputs_of(start.tree, (embeddings - mean) * scale, residual=residual)

    return run


def judged(task: str, outputs: Array, labels: npt.NDArray[Any]) -> Judgement:
    """How good outputs [N, K] are."""
    return judged_quantities(outputs, labels) if task == REGRESSION else judged_scores(scores_of(outputs), labels)


def figures(task: str, original: Judgement, integer: Judgement, examples: int) -> dict[str, Any]:
    """Float and int8 beside each other, for the manifest's provenance."""
    made: dict[str, Any] = {
        "measure": MEASURES[task], "float": original.score, "int8": integer.score, "examples": examples,
    }  # fmt: skip
    if task == REGRESSION:
        made |= {"rmse_float": list(original.rmse), "rmse_int8": list(integer.rmse)}
    return made


def warning_of(task: str, start: Start, found: Judgement) -> str | None:
    """A head that is carried over and no better than a guess."""
    if task == CLASSIFICATION or not start.carried or found.score is None:
        return None
    if task == REGRESSION and found.score <= 0:
        return (
            f"the model's own last layer explains nothing of these quantities (R2 {found.score:.3g}): their mean would "
            "be nearer. Is --preprocess the one that it was trained with, and are quantities and units its own? Else "
            "say --fresh-head"
        )
    return None
