"""One compilation as a report: the prediction, the compiler's word, and where the two differ.

The report of a compilation as lines for people.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firmware_tools.child import Progress
from firmware_tools.compile.compiler_log import CompilerLog
from firmware_tools.compile.prediction import AFTER, Prediction, predict
from protos.errors import ModelError
from protos.model.bundle import open_bundle

__all__ = []

_MEMORY = {
    "cached": "parameters stay on the chip",
    "uncertain": "parameters may not all stay on the chip: some may be sent for each inference",
    "streamed": "parameters do not fit on the chip: the host sends the rest for each inference",
}


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the report of `firmware_tools.compile.report`, with `compiled`, `twin` and `bundle` where they are."""
    yield f"model      {report['file']}, {_size(report['size_bytes'])}"
    yield from _prediction(report)
    if "compiled" in report:
        yield from _compiled(report["compiled"], report["differences"])
    if "twin" in report:
        yield from _twin(report["twin"])
    if "bundle" in report:
        yield f"bundle     {report['bundle']['path']} holds it as {report['bundle']['file']}"
        yield f"  id       {report['bundle']['bundle_id']}"


def _prediction(report: Mapping[str, Any]) -> Iterator[str]:
    if report["refusal"]:
        yield f"REFUSED    {report['refusal']}"
    yield f"predicted  {report['mapped']} of {report['total']} operators run on the Edge TPU"
    operators = report["operators"]
    if mapped := Counter(operator["name"] for operator in operators if operator["mapped"]):
        yield f"  maps     {', '.join(f'{count} {name}' for name, count in sorted(mapped.items()))}"
    if not report["refusal"]:
        yield from _left(operators)
    if after := sum(operator["reason"] == AFTER for operator in operators):
        yield f"  CPU      {after} more {'comes' if after == 1 else 'come'} after it"
    for name, doubt in sorted({(operator["name"], operator["doubt"]) for operator in operators if operator["doubt"]}):
        yield f"  perhaps  {name}: {doubt}"
    if report["mapped"]:
        yield f"  memory   {_size(report['parameter_bytes'])}: {_MEMORY[report['memory']]}"
    if report["subgraphs"] > 1:
        yield f"  note     the file has {report['subgraphs']} subgraphs; only the first is predicted"


def _left(operators: list[Mapping[str, Any]]) -> Iterator[str]:
    """Operators that stay on the CPU for a reason of their own, those of one name and reason in one line."""
    groups: dict[tuple[str, str], list[int]] = {}
    for operator in operators:
        if operator["reason"] not in (None, AFTER):
            groups.setdefault((operator["name"], operator["reason"]), []).append(operator["number"])
    for (name, reason), numbers in groups.items():
        places = f"{len(numbers)} {name}, the first is" if len(numbers) > 1 else f"{name},"
        yield f"  CPU      {places} operator {numbers[0]}: {reason}"


def _compiled(facts: Mapping[str, Any], differences: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"compiled   by version {facts['version'] or 'unknown'}, {facts['subgraphs']} part on the Edge TPU"
    for row in facts["operators"]:
        yield f"  says     {row['count']} {row['name']}: {row['status']}"
    if facts["on_chip_bytes"] is not None and facts["streamed_bytes"] is not None:
        kept, sent = _size(facts["on_chip_bytes"]), _size(facts["streamed_bytes"])
        yield f"  memory   {kept} of parameters on the chip, {sent} sent for each inference"
    if not facts["operators"]:
        yield "  differs  unknown: it printed no table of operators"
    elif not differences:
        yield "  differs  nowhere from the prediction"
    for difference in differences:
        yield f"  DIFFERS  {difference['name']}: {difference['compiled']} mapped, {difference['predicted']} predicted"


def _twin(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"twin       {facts['file']}, {_size(facts['size_bytes'])}: takes and gives what the model does"
    if facts["cpu_operators"]:
        yield f"  CPU      {', '.join(facts['cpu_operators'])}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


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
        "operators": [dataclasses.asdict(operator) for operator in prediction.operators],
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
    for operator in report["operators"]:
        # The compiler names every custom operator CUSTOM.
        predicted["CUSTOM" if operator["name"].startswith("custom:") else operator["name"]] += operator["mapped"]
    compiled = log.mapped_by_name()
    return [
        {"name": name, "predicted": predicted.get(name, 0), "compiled": compiled.get(name, 0)}
        for name in sorted({*predicted, *compiled})
        if predicted.get(name, 0) != compiled.get(name, 0)
    ]
