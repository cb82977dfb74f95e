"""Export: a bundle and a fine-tuned head become one integer .tflite, checked by running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.export.assemble import assemble
from coordinator.export.outputs import meaning, measured, plain_head, require_kept
from coordinator.export.parity import Parity, parity
from coordinator.export.quantise import DenseLayer
from coordinator.export.tail import assemble_with_tail
from coordinator.operator.status import Measured
from protos.atomic import write_whole
from protos.errors import CheckFailed, StoreError, UsageError
from protos.model.backbone import Backbone, quantise
from protos.model.bundle import Bundle
from protos.model.flatbuffer import OperatorCount, operators
from protos.model.head import Head
from protos.model.head_algebra import Tree, check_tree, logits_of
from protos.model.manifest import Preprocessing
from protos.model.task import CLASSIFICATION

NOTES_SCHEMA = "edgejoule.export/1"
# How much accuracy an export may lose against the float head: one point.
DEFAULT_LIMIT = 0.01
# So many of them above the limit is more than chance explains, 19 times of 20.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how good it is.

    Attributes:
        path: the file.
        size_bytes: its size.
        operators: its operators; none of them touches a float, unless layers in front of the head were trained: these
            stay in real numbers.
        float_accuracy: of the float head on the integer backbone, 0..1; None when nothing was tested.
        exported_accuracy: of the file, by running it; None when nothing was tested.
        agreement: share of test examples on which both name the same class; None when nothing was tested.
        note: what a reader must know of the figures: a drop over the limit that chance may explain; empty: nothing.
        measured: the figures of a head that is no classifier; None of a classifier, and when nothing was tested.
    """

    path: Path
    size_bytes: int
    operators: tuple[OperatorCount, ...]
    float_accuracy: float | None
    exported_accuracy: float | None
    agreement: float | None
    note: str = ""
    measured: Measured | None = None


def export_model(
    bundle: Bundle,
    tree: Mapping[str, NDArray[Any]],
    calibration_q: NDArray[Any],
    out_path: str | Path,
    *,
    test_x: NDArray[Any] | None = None,
    test_y: NDArray[np.int32] | None = None,
    limit: float = DEFAULT_LIMIT,
    softmax: bool = False,
) -> ExportReport:
    """Write the integer backbone and this head as one model, whole or not at all.

    Args:
        bundle: whose backbone and feature standardisation the head was trained with.
        tree: the head as it travels, in standardised space.
        calibration_q: [N, D] integer embeddings of this backbone, N >= 1; the ranges of the head follow from
            them. A few hundred examples of all classes are enough.
        out_path: where the file goes; its folder must exist.
        test_x: [M, ...] raw held-out examples, uint8 or float32, M >= 1. With them the file is run before it is
            written. Without them nothing is checked.
        test_y: int32 [M]; of a regression float32 [M, K].
        limit: accuracy (R2, AUC) that may be lost against the float head, as a share. A drop of accuracy counts as
            beyond it when it is so by more than two standard errors: what so few examples cannot tell from chance is
            no reason to refuse. One example more is never too many, however few there are.
        softmax: end with probabilities instead of logits. The check is made on logits.

    Raises:
        CheckFailed: the exported model is worse than the limit allows; nothing is written.
        UsageError: test_x without test_y, or the reverse.
        ModelError, ShapeError, NonFiniteError: backbone, head, calibration or test data do not fit together.
        StoreError: the file cannot be written.
    """
    path = Path(out_path)
    if (test_x is None) != (test_y is None):
        raise UsageError("test examples and labels go together", where="export", fix="give both or neither")
    task = bundle.manifest.task
    if softmax and task != CLASSIFICATION:
        raise UsageError(f"a head for {task} gives no probabilities", where="export", fix="leave softmax out")
    checked_tree = check_tree(tree, bundle.manifest.head.shapes(), where="head")
    plain = plain_head(bundle, checked_tree)
    backbone = _read(bundle.backbone_path)
    layers, notes = layers_of(plain), _notes(bundle)

    # Once, whether the file ends in scores alone or in probabilities, too.
    scores = None if bundle.manifest.head.tail is None else _scores(bundle, checked_tree, calibration_q)

    def assembled(*, softmax: bool) -> bytes:
        if scores is None:
            return assemble(backbone, layers, calibration_q, softmax=softmax, notes=notes)
        return assemble_with_tail(bundle, checked_tree, plain, scores, softmax=softmax, notes=notes)

    model = assembled(softmax=False)
    checked: Parity | None = None
    found: Measured | None = None
    if test_x is not None and test_y is not None and task != CLASSIFICATION:
        found = measured(bundle, plain, model, test_x, test_y)
        require_kept(found, limit, str(path))
    elif test_x is not None and test_y is not None:
        checked = _check(bundle, checked_tree, plain, model, test_x, np.asarray(test_y, np.int32), limit, path)
    if softmax:
        model = assembled(softmax=True)
    try:
        with write_whole(path) as file:
            file.write(model)
    except OSError as cause:
        raise StoreError(
            f"cannot be written ({cause.strerror or cause})", where=str(path), fix="choose another folder"
        ) from cause
    return ExportReport(
        path=path,
        size_bytes=len(model),
        operators=operators(model),
        float_accuracy=_share(checked.float_correct, checked) if checked else None,
        exported_accuracy=_share(checked.exported_correct, checked) if checked else None,
        agreement=checked.agreement if checked else None,
        note=_remark(checked, limit) if checked else "",
        measured=found,
    )


def layers_of(plain: Tree) -> list[DenseLayer]:
    """The layers of a plain head (standardisation folded in), from embedding to logits."""
    last = DenseLayer(plain["out_kernel"], plain["out_bias"])
    if "hidden_kernel" not in plain:
        return [last]
    return [DenseLayer(plain["hidden_kernel"], plain["hidden_bias"], relu=True), last]


def _scores(bundle: Bundle, tree: Tree, codes: NDArray[Any]) -> NDArray[Any]:
    """Logits of a head behind a tail, by the compiled file that it was trained in."""
    head = Head(bundle)
    head.write(tree)
    return head.infer(codes)


def _check(
    bundle: Bundle,
    tree: Tree,
    plain: Tree,
    model: bytes,
    test_x: NDArray[Any],
    test_y: NDArray[np.int32],
    limit: float,
    path: Path,
) -> Parity:
    manifest = bundle.manifest
    runner = Backbone(bundle)
    codes = runner.embed(test_x)
    tail = manifest.head.tail
    logits = logits_of(plain, runner.dequantise(codes)) if tail is None else _scores(bundle, tree, codes)
    shape = manifest.backbone.input_shape
    examples = (quantise(x.reshape(shape), manifest.backbone, manifest.preprocessing) for x in test_x)
    found = parity(model, examples, logits, test_y)
    assert found.float_correct is not None
    assert found.exported_correct is not None
    beyond = found.drop - limit > _STANDARD_ERRORS * found.drop_error
    if beyond and found.float_correct - found.exported_correct > 1:
        raise CheckFailed(
            f"the exported model is right on {_share(found.exported_correct, found):.2%}, the float head on "
            f"{_share(found.float_correct, found):.2%} of {found.count} examples (drop {found.drop:.2%}, "
            f"standard error {found.drop_error:.2%}), more than {limit:.2%} apart",
            where=str(path),
            fix="calibrate with more examples of all classes, or allow more with --max-drop",
        )
    return found


def _remark(found: Parity, limit: float) -> str:
    """A drop over the limit that was let pass, in one line."""
    if found.drop <= limit:
        return ""
    return (
        f"a drop of {found.drop:.2%} is more than the {limit:.2%} that may be lost, and within two standard errors of "
        f"it ({found.drop_error:.2%} each, {found.count} examples): more held-out examples would tell"
    )


def _share(correct: int | None, found: Parity) -> float:
    return (correct or 0) / found.count


def _notes(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "schema": NOTES_SCHEMA,
        "bundle_id": bundle.bundle_id,
        "name": manifest.name,
        "classes": list(manifest.classes),
        "preprocessing": _preprocessing(manifest.preprocessing),
        **({} if manifest.backbone.vocabulary is None else {"vocabulary": manifest.backbone.vocabulary}),
        **meaning(bundle),
    }


def _preprocessing(rule: Preprocessing) -> dict[str, Any]:
    values = dataclasses.asdict(rule)
    return values if rule.per_channel is not None else {"multiply": rule.multiply, "add": rule.add}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise StoreError(f"cannot be read ({cause.strerror})", where=str(path), fix="copy the bundle again") from cause
