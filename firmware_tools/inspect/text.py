"""The report of a bundle as lines for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of at most about 100 columns for the dict of `inspect_bundle.report` or `report_model`."""
    if "bundle" not in report:
        yield f"model      {report['model']}"
        yield from _backbone(report["backbone"])
        yield from _signatures(report["signatures"])
        return
    yield f"bundle     {report['bundle']}"
    yield f"name       {report['name']}"
    yield f"id         {report['bundle_id']}"
    yield f"classes    {_shortened(report['classes'])}"
    rule = report["preprocessing"]
    channels = rule.get("per_channel")
    also = f", then per channel ({len(channels['multiply'])}) a factor and an offset" if channels else ""
    if (words := report.get("vocabulary")) is not None:
        yield f"input      token ids, 0 to {words - 1}"
    else:
        yield f"input      real = raw x {rule['multiply']:.6g} + {rule['add']:.6g}{also}"
    for name, record in report["files"].items():
        yield f"file       {name:<16} {_size(record['size_bytes']):>9}   sha256 {record['sha256'][:16]}... as declared"
    yield from _backbone(report["backbone"])
    if report.get("edge_tpu"):
        yield from _twin(report["edge_tpu"])
    yield from _head(report["head"])
    yield from _origin(report["provenance"])
    engine = report["engine"]
    yield f"runs on    {engine['name']} {engine['version']}, {engine['delegate']}"
    for warning in report.get("warnings", ()):
        yield f"warning    {warning}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _shortened(names: list[str]) -> str:
    text = ", ".join(names[:8])
    return f"{len(names)}: {text}{', ...' if len(names) > 8 else ''}"


def _end(end: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, end["shape"]))
    if end["scale"] is None:
        return f"{end['dtype']} {shape}"
    return f"{end['dtype']} {shape}, scale {end['scale']:.6g}, zero point {end['zero_point']}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _wrapped(label: str, text: str, width: int = 88) -> Iterator[str]:
    line = ""
    for part in text.split(", "):
        if line and len(line) + len(part) >= width:
            yield f"{label:<10} {line},"
            label, line = "", part
        else:
            line = f"{line}, {part}" if line else part
    yield f"{label:<10} {line}"


def _backbone(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"backbone   {_size(facts['size_bytes'])}, {facts['macs'] / 1e6:.2f} M multiply-accumulates an example"
    for end in facts["inputs"]:
        yield f"  takes    {_end(end)}"
    for end in facts["outputs"]:
        yield f"  gives    {_end(end)}"
    yield from _wrapped("  holds", _counts(facts["operators"]))
    if facts["float_operators"]:
        yield f"  FLOAT    {_counts(facts['float_operators'])}: not fully integer"
    else:
        yield "  float    no float operator inside"
    if facts["convolutions"]:
        yield f"  scales   per channel in {facts['convolutions_per_channel']} of {facts['convolutions']} convolutions"


def _twin(facts: Mapping[str, Any]) -> Iterator[str]:
    version = facts["compiler_version"] or "of unknown version"
    yield f"Edge TPU   {facts['file']}, {_size(facts['size_bytes'])}, by compiler {version}"
    yield f"  from     the backbone, sha256 {facts['made_from_sha256'][:16]}..."
    yield from _wrapped("  holds", _counts(facts["operators"]))


def _head(facts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"head       {_size(facts['size_bytes'])}, {facts['parameters']} parameters, {facts['objective']} by "
        f"{facts['optimiser']}, batch {facts['batch_size']}"
    )
    yield from _wrapped("  tensors", ", ".join(f"{name} {shape}" for name, shape in facts["tensors"].items()))
    if (sums := facts["class_sums"]) is not None:
        yield f"  sums     of {sums:,} examples by class, for heads of single devices"
    for one in facts["inputs"]:
        yield (
            f"  input    {one['name']} = {one['default']:g}  ({one['minimum']:g}..{one['maximum']:g}) {one['meaning']}"
        )
    yield from _signatures(facts["signatures"])
    yield from _wrapped("  holds", _counts(facts["operators"]))


def _score(score: Mapping[str, Any]) -> Iterator[str]:
    """How good the head of a regression or of anomalies starts, float and int8."""
    shown = ("cannot be told" if score[name] is None else f"{score[name]:.4f}" for name in ("float", "int8"))
    yield f"{score['measure']:10} float {next(shown)}, int8 {next(shown)} ({score['examples']} examples)"
    if score.get("rmse_float"):
        both = zip(score["rmse_float"], score["rmse_int8"], strict=True)
        yield "RMSE       " + "; ".join(f"float {a:.4g}, int8 {b:.4g}" for a, b in both)


def _lost(lost: Mapping[str, Any]) -> Iterator[str]:
    """What integers lose: of the embeddings, and of each layer where that was asked for."""
    for key, label in (("equalisation", "equalised"), ("bias_correction", "biases")):
        if isinstance(done := lost.get(key), dict):
            count = f"{done['pairs']} pairs of layers" if "pairs" in done else f"{done['layers']} layers"
            yield f"{label:<10} {count}: {_db(done['plain'])} before, {_db(done['loss'])} after" + (
                "" if done["kept"] else ", not kept"
            )
    if isinstance(done := lost.get("fine_tuning"), dict):
        right = f"; int8 accuracy {100 * done['accuracy']:.2f} % before" if "accuracy" in done else ""
        yield (
            f"fine-tuned on {done['examples']} examples: loss on {done['judged_on']} others {done['plain']:.4g} "
            f"before, {done['loss']:.4g} after{'' if done['kept'] else ', not kept'}{right}"
        )
    if isinstance(done := lost.get("sixteen_bits"), dict):
        yield f"16 bits    activations between the ends: {_db(done['plain'])} with 8, {_db(done['loss'])} now"
    yield f"integers   embeddings keep {_db(lost['loss'])} over quantisation noise"
    for layer in lost["layers"]:
        yield f"  {layer['sqnr_db']:6.1f} dB  {layer['operator']:<18} {layer['layer']}"


def _trainable(deeper: Mapping[str, Any]) -> Iterator[str]:
    """What trains in front of the head, and what each choice costs a step."""
    try:
        chosen, choices = deeper["chosen"], deeper["choices"]
        blocks = int(chosen.get("blocks", 1))
        batch = f"{deeper['batch']}" + (f" in {blocks} blocks" if blocks > 1 else "")
        yield (
            f"trains     {deeper['mode']}: {chosen['biases']} biases and {chosen['kernels']} kernels behind "
            f"{str(chosen['cut']).split(';')[0]}, {_size(chosen['memory_bytes'])} a step of {batch}, measured"
        )
        yield f"           biases kernels  memory a step  joules a step on {deeper['board']} (estimates)"
        for choice in choices:
            mark = "*" if choice["cut"] == chosen["cut"] else " "
            yield (
                f"         {mark} {choice['biases']:6} {choice['kernels']:7}  {_size(choice['memory_bytes']):>13}  "
                f"{choice['joules']:.3g}"
            )
    except (KeyError, TypeError, ValueError):
        yield "trains     recorded in a form unknown here"


def _db(share: float) -> str:
    return f"{-10 * math.log10(share):.1f} dB" if share > 0 else "all"


def _signatures(signatures: Mapping[str, Any]) -> Iterator[str]:
    def ends(tensors: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {tensor['dtype']}{tensor['shape']}" for name, tensor in tensors.items()) or "nothing"

    for name, signature in signatures.items():
        yield from _wrapped("  offers", f"{name}({ends(signature['inputs'])}) -> {ends(signature['outputs'])}")


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Provenance is free-form: show what is known, and only if it is of the form that convert writes."""
    source = provenance.get("source")
    if isinstance(source, dict):
        digest = str(source.get("sha256", "unknown"))
        yield f"made from  {source.get('file')} ({source.get('kind')}, sha256 {digest[:16]}...)"
    for label, key in (("  cut", "cut"), ("  head", "head")):
        if isinstance(provenance.get(key), str):
            yield f"{label:<10} {provenance[key]}"
    for label, key in (("  ranges", "calibration"), ("  judged", "evaluation")):
        data = provenance.get(key)
        if isinstance(data, dict):
            yield f"{label:<10} on {data.get('file')}, {data.get('examples')} examples"
    if isinstance(deeper := provenance.get("trainable"), dict):
        yield from _trainable(deeper)
    agreement, accuracy = provenance.get("agreement"), provenance.get("accuracy")
    try:
        if agreement:
            yield (
                f"agreement  embedding cosine, float against int8: mean {agreement['cosine_mean']:.5f}, least "
                f"{agreement['cosine_min']:.5f} ({agreement['examples']} {agreement['on']} examples)"
            )
        if accuracy:
            yield (
                f"accuracy   float {100 * accuracy['float']:.2f} %, int8 {100 * accuracy['int8']:.2f} % "
                f"({accuracy['examples']} examples)"
            )
        if isinstance(lost := provenance.get("quantisation"), dict):
            yield from _lost(lost)
        if isinstance(score := provenance.get("score"), dict):
            yield from _score(score)
    except (KeyError, TypeError, ValueError):
        yield "agreement  recorded in a form unknown here"
