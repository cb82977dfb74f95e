"""The TFLite runtime: its identity, and models that must not take the process down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.errors import ModelError
from protos.model import engine
from protos.model.engine import engine_identity, open_interpreter, try_in_subprocess


def _changed(content: bytes, change: Any) -> bytes:
    flatbuffers = pytest.importorskip("flatbuffers")
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_identity_names_engine_version_and_delegate() -> None:
    identity = engine_identity()
    assert identity.name in ("ai-edge-litert", "tflite-runtime")
    assert identity.delegate in ("xnnpack", "builtin")
    assert str(identity) == f"{identity.name} {identity.version} ({identity.delegate})"


def test_the_probe_model_adds_a_tensor_to_itself() -> None:
    interpreter = open_interpreter(engine._PROBE_MODEL)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.arange(8, dtype=np.int8)[None])
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert output.tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]


def test_without_the_delegate_the_builtin_kernels_are_named() -> None:
    module = engine._engine()[1]
    if not hasattr(module, "OpResolverType"):
        pytest.skip("this engine cannot leave its delegate out")
    plain = module.Interpreter(
        model_content=engine._PROBE_MODEL,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    plain.allocate_tensors()
    assert engine.delegate_of(plain) == "builtin"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "model.tflite"),
        (b"hello, this is no model at all", "is no .tflite file"),
        (engine._PROBE_MODEL[:100], "is a damaged .tflite file"),
    ],
)
def test_what_is_no_model_is_an_error_that_names_the_file(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.tflite"):
        open_interpreter(path)
    with pytest.raises(ModelError, match=says):
        try_in_subprocess(path)


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone"):
        open_interpreter(tmp_path / "gone.tflite")


def test_a_sound_model_passes_its_trial(tmp_path: Path) -> None:
    path = tmp_path / "sound.tflite"
    path.write_bytes(engine._PROBE_MODEL)
    try_in_subprocess(path)


def test_a_scalar_input_fails_the_trial(tmp_path: Path) -> None:
    def scalar(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.shape = []

    path = tmp_path / "scalar.tflite"
    path.write_bytes(_changed(engine._PROBE_MODEL, scalar))
    with pytest.raises(ModelError, match="0-D"):
        try_in_subprocess(path)


@pytest.mark.workshop
def test_a_model_that_kills_its_process_is_an_error_here(workshop: Path, tmp_path: Path) -> None:
    def no_filter(model: Any) -> None:
        first = model.subgraphs[0].operators[0]
        first.inputs = [int(first.inputs[0]), -1, -1]

    path = tmp_path / "killer.tflite"
    path.write_bytes(_changed((workshop / "bundle" / "backbone.tflite").read_bytes(), no_filter))
    with pytest.raises(ModelError, match=r"killer\.tflite: .*(died of SIG|refuses)"):
        try_in_subprocess(path)


def test_of_several_the_one_that_fails_is_named_and_no_other_is_tried(tmp_path: Path) -> None:
    sound, endless, bad = (tmp_path / f"{name}.tflite" for name in ("sound", "endless", "bad"))
    sound.write_bytes(engine._PROBE_MODEL)
    bad.write_bytes(engine._PROBE_MODEL[:100])
    os.mkfifo(endless)
    try_in_subprocess(sound, sound)
    with pytest.raises(ModelError, match=r"bad\.tflite: .*is a damaged"):
        try_in_subprocess(sound, bad, endless)
    with pytest.raises(ModelError, match=r"endless\.tflite: .*did not load within 3 s"):
        try_in_subprocess(sound, endless, bad, timeout_s=3.0)


@pytest.mark.workshop
def test_of_several_the_one_that_kills_the_process_is_named(workshop: Path, tmp_path: Path) -> None:
    def no_filter(model: Any) -> None:
        first = model.subgraphs[0].operators[0]
        first.inputs = [int(first.inputs[0]), -1, -1]

    killer = tmp_path / "killer.tflite"
    killer.write_bytes(_changed((workshop / "bundle" / "backbone.tflite").read_bytes(), no_filter))
    with pytest.raises(ModelError, match=r"killer\.tflite: .*(died of SIG|refuses)"):
        try_in_subprocess(workshop / "bundle" / "head.tflite", killer)


@pytest.mark.workshop
def test_the_head_passes_its_trial(workshop: Path) -> None:
    try_in_subprocess(workshop / "bundle" / "head.tflite")


def test_a_trial_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    fifo = tmp_path / "endless.tflite"
    os.mkfifo(fifo)  # opening it waits for a writer that never comes
    with pytest.raises(ModelError, match="did not load within"):
        try_in_subprocess(fifo, timeout_s=1.5)
