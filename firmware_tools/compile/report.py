"""One compilation as a report: the prediction, the compiler's word, and where the two differ."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from firmware_tools.child import Progress
from firmware_tools.compile.compiler_log import CompilerLog
from firmware_tools.compile.prediction import Prediction, predict
from protos.errors import ModelError
from protos.model.bundle import open_bundle

SCHEMA = "edgejoule.compile/1"


def predict_file(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Predict for ``job["model"]``, a .tflite file or a bundle folder; runs in a child process.

    Returns:
        the report without `compiled` and `twin`; ``file`` is the .tflite file that was read.

    Raises:
        ModelError: no bundle, no model, damaged, or compiled already.
        IntegrityError: a file of the bundle is missing or changed.
    """
    given = Path(job["model"])
    file = open_bundle(given).backbone_path if given.is_dir() else given
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(file)) from error
    return {"schema": SCHEMA, "model": str(given), "file": str(file), "size_bytes": len(data)} | _facts(
        predict(data, where=file.name)
    )


def _facts(prediction: Prediction) -> dict[str, Any]:
    return {
        "operators": [dataclasses.asdict(one) for one in prediction.operators],
        "total": len(prediction.operators),
        "mapped": prediction.mapped,
        "complete": prediction.is_complete,
        "refusal": prediction.refusal,
        "parameter_bytes": prediction.parameter_bytes,
        "memory": prediction.memory,
        "subgraphs": prediction.subgraphs,
    }


def compiled_facts(command: list[str], log: CompilerLog) -> dict[str, Any]:
    """What the compiler said, for the report's key `compiled`."""
    return {
        "command": command,
        "version": log.version,
        "on_chip_bytes": log.on_chip_bytes,
        "remaining_bytes": log.remaining_bytes,
        "streamed_bytes": log.streamed_bytes,
        "subgraphs": log.subgraphs,
        "operators": [dataclasses.asdict(row) for row in log.operators],
    }


def differences(report: dict[str, Any], log: CompilerLog) -> list[dict[str, Any]]:
    """Operators of which the compiler maps another number than was predicted; none when its log has no table."""
    if not log.operators:
        return []
    predicted: Counter[str] = Counter()
    for one in report["operators"]:
        # The compiler names every custom operator CUSTOM.
        predicted["CUSTOM" if one["name"].startswith("custom:") else one["name"]] += one["mapped"]
    compiled = log.mapped_by_name()
    return [
        {"name": name, "predicted": predicted.get(name, 0), "compiled": compiled.get(name, 0)}
        for name in sorted({*predicted, *compiled})
        if predicted.get(name, 0) != compiled.get(name, 0)
    ]
