"""What integer weights are trained on (``--qat``): drawn, looked at, and left in its file until a batch is wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.convert import agreement as agree
from firmware_tools.convert.examples import Examples, chosen_rows, digest, load_tuning
from firmware_tools.convert.job import ConvertJob
from firmware_tools.convert.ranges import Tuning
from firmware_tools.convert.sources.source import FloatModel
from protos.datafiles import dataset
from protos.datafiles.stored import taken
from protos.errors import DataError
from protos.model.head_algebra import Array

# Drawn of the file; the model's own last layer is held against so many of them.
_DRAWN, _JUDGED = 10_000, 2000


def tuning_of(
    job: ConvertJob, source: FloatModel, data: Examples, real: Callable[[Any], Array], *, own_tail: bool
) -> tuple[Tuning, tuple[str, ...], dict[str, Any]]:
    """The examples that weights are trained on, what is to be remarked of them, and what the bundle says of them.

    Args:
        data: what is calibrated and judged on, for the names of classes.
        real: raw examples to what the float model takes.
        own_tail: the model's own last layer teaches, too, and labels are read.

    Raises:
        EdgejouleError: the data cannot be read or do not fit the model.
        DataError: there are too few, or the model's own last layer guesses on them.
    """
    assert job.qat is not None
    whole, remarked = load_tuning(
        job.qat, source.input_shape, data, renames=job.renames, front_end=job.front_end, vocabulary=source.vocabulary
    )
    tail = source.tail if own_tail else None
    found = whole.select(np.arange(len(whole))[chosen_rows(len(whole), _DRAWN, job.seed)])
    where = Path(whole.source).name
    said = {"qat": {"file": where, "sha256": digest(whole), "examples": len(whole), "drawn": len(found),
                    "steps": job.qat_steps, "rate": job.qat_rate}}  # fmt: skip
    if tail is not None:
        dataset.check(dataclasses.replace(whole, source=where), source.input_shape, len(tail["out_bias"]))
        some = np.arange(len(found))[chosen_rows(len(found), _JUDGED, job.seed)]
        labels = found.y[some]
        right = agree.plain_accuracy(tail, source.embed_all(taken(found.held, some), real), labels)
        if right <= (usual := agree.guessing(labels)):
            raise DataError(
                f"the model's own last layer is right on {right:.1%} of the examples of --qat, no better than a "
                f"guess ({usual:.1%} with luck)", where=where,
                fix="are the classes in the model's order, and --preprocess its own? With --fresh-head labels are "
                "not read",
            )  # fmt: skip
    return Tuning(found.held, found.y, where, tail, job.qat_steps, job.qat_rate, job.seed), remarked, said
