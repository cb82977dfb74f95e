"""What a bundle is, read back from its files: hashes, operators, signatures, quantisation, provenance.

`report` runs in a child process, since it opens the models. It needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from firmware_tools.child import Progress
from firmware_tools.inspect.model import ModelFacts, Tensor, read_model
from protos.errors import ModelError
from protos.model.backbone import Backbone
from protos.model.bundle import BY_CLASS, Bundle, open_bundle
from protos.model.head import Head

SCHEMA = "edgejoule.inspect/1"


def report(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Facts of the bundle in folder ``job["bundle"]``, all read from its files after their hashes were checked.

    Raises:
        ModelError: the bundle or a model in it is malformed, or is not what the manifest says.
        IntegrityError: a file is missing or changed.
    """
    bundle = open_bundle(job["bundle"])
    progress("hashes are as declared; reading the models")
    backbone, head = read_model(bundle.backbone_path), read_model(bundle.head_path)
    if scalars := head.zero_dimensional_inputs() + backbone.zero_dimensional_inputs():
        raise ModelError(f"has 0-D inputs ({', '.join(scalars)}), on which the aarch64 runtime crashes",
                         where=str(bundle.head_path))  # fmt: skip
    Head(bundle)
    if bundle.tail_path is not None:
        read_model(bundle.tail_path)
    engine = Backbone(bundle).engine
    manifest = bundle.manifest
    return {
        "schema": SCHEMA,
        "bundle": str(bundle.path),
        "bundle_id": bundle.bundle_id,
        "name": manifest.name,
        "classes": list(manifest.classes),
        "preprocessing": dataclasses.asdict(manifest.preprocessing),
        "vocabulary": manifest.backbone.vocabulary,
        "files": {name: dataclasses.asdict(record) for name, record in sorted(manifest.files.items())},
        "backbone": _backbone_facts(backbone),
        "edge_tpu": _twin_facts(bundle),
        "head": _head_facts(bundle, head),
        "provenance": manifest.provenance,
        "engine": dataclasses.asdict(engine),
    }


def report_model(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Facts of one .tflite file, ``job["model"]``, that is in no bundle."""
    facts = read_model(Path(job["model"]))
    return {
        "schema": SCHEMA,
        "model": job["model"],
        "backbone": _backbone_facts(facts),
        "signatures": _signature_facts(facts),
    }


def _end(tensor: Tensor) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": tensor.scales[0] if tensor.scales else None,
        "zero_point": tensor.zero_points[0] if tensor.zero_points else None,
    }


def _backbone_facts(facts: ModelFacts) -> dict[str, Any]:
    per_channel, convolutions = facts.convolutions_per_channel()
    return {
        "size_bytes": facts.size_bytes,
        "inputs": [_end(tensor) for tensor in facts.inputs],
        "outputs": [_end(tensor) for tensor in facts.outputs],
        "operators": facts.operator_counts(),
        "float_operators": facts.float_operator_counts(),
        "macs": facts.macs(),
        "convolutions": convolutions,
        "convolutions_per_channel": per_channel,
    }


def _twin_facts(bundle: Bundle) -> dict[str, Any] | None:
    """The Edge TPU twin: which file, what made it, and which operators are left to the CPU; None without a twin."""
    twin, path = bundle.manifest.edge_tpu, bundle.twin_path
    if twin is None or path is None:
        return None
    facts = read_model(path)
    return {
        "file": twin.file,
        "size_bytes": facts.size_bytes,
        "made_from_sha256": twin.made_from_sha256,
        "compiler_version": twin.compiler_version,
        "operators": facts.operator_counts(),
    }


def _signature_facts(facts: ModelFacts) -> dict[str, Any]:
    def ends(tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {name: {"shape": list(tensor.shape), "dtype": tensor.dtype} for name, tensor in sorted(tensors.items())}

    return {
        name: {"inputs": ends(signature.inputs), "outputs": ends(signature.outputs)}
        for name, signature in facts.signatures.items()
    }


def _head_facts(bundle: Bundle, facts: ModelFacts) -> dict[str, Any]:
    spec = bundle.manifest.head
    tree, sums = bundle.initial_head(), bundle.class_sums()
    return {
        "size_bytes": facts.size_bytes,
        "objective": spec.objective,
        "optimiser": spec.optimiser,
        "batch_size": spec.batch_size,
        "hidden_units": spec.hidden_units,
        "tensors": {name: list(array.shape) for name, array in tree.items()},
        "parameters": sum(array.size for array in tree.values()),
        "class_sums": None if sums is None else int(sums[BY_CLASS][:, -1].sum()),
        "inputs": [dataclasses.asdict(tensor) for tensor in spec.inputs],
        "signatures": _signature_facts(facts),
        "operators": facts.operator_counts(),
    }
