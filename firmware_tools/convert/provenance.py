"""What a bundle says of how it was made: its model, its data, its seed, and the versions of what made it."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from firmware_tools.convert.examples import Examples, digest
from firmware_tools.convert.job import STRAIGHT, ConvertJob
from firmware_tools.convert.sources.recognise import fingerprint
from firmware_tools.convert.sources.source import FloatModel
from firmware_tools.convert.sources.tflite_source import Extractor
from firmware_tools.convert.trainable.parting import Parted
from firmware_tools.inspect.model import ModelFacts
from protos.datafiles.dataset import Dataset
from protos.datafiles.front_end import KEY as FRONT_END

_TOOLS = ("edgejoule", "tensorflow-cpu", "tensorflow", "keras", "numpy", "ai-edge-litert")


def provenance_of(
    job: ConvertJob, source: FloatModel | Extractor, facts: ModelFacts, data: Examples, start: str, *, ranges_from: int
) -> dict[str, Any]:
    """Everything that is known before it is judged.

    Args:
        facts: of the backbone.
        start: how the head starts, in words.
        ranges_from: examples that ranges were measured on.
    """

    def described(dataset: Dataset | None) -> dict[str, Any] | None:
        if dataset is None:
            return None
        return {"file": Path(dataset.source).name, "sha256": digest(dataset), "examples": len(dataset)}

    calibration = described(data.calibration)
    if calibration is not None:
        drawn = 0 if isinstance(source, Extractor) else min(calibration["examples"], job.calibration_examples)
        calibration |= {"drawn": drawn, "ranges_from": ranges_from}
    path = Path(job.model)
    return {
        "source": {"file": path.name, "kind": job.kind, "sha256": fingerprint(path)},
        "cut": source.cut or "none: an integer extractor, taken as it is",
        "head": start,
        "preprocess": job.preprocess or (STRAIGHT if isinstance(source, Extractor) else "none"),
        "seed": job.seed,
        "calibration": calibration,
        "evaluation": described(data.evaluation),
        "operators": facts.operator_counts(),
        "tools": _tool_versions(),
        **({} if job.front_end is None else {FRONT_END: job.front_end}),
    }


def trainable_of(job: ConvertJob, parted: Parted | None) -> dict[str, Any]:
    """What trains in front of the head, what a step of it costs, and what else could have been chosen."""
    if parted is None:
        return {}
    return {
        "trainable": {
            "mode": job.trainable, "board": job.board, "batch": job.batch_size,
            "chosen": parted.choice.row() | {"memory_bytes": parted.measured_bytes},
            "choices": [one.row() for one in parted.offered],
        }
    }  # fmt: skip


def _tool_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
