"""Reading and writing .tflite files without running them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protos.errors import ModelError
from protos.model.engine import open_interpreter
from protos.model.flatbuffer import OperatorCount, float_operators, operators, pack, parse


def test_operators_are_counted_with_the_types_they_touch(pooling: Callable[..., bytes]) -> None:
    assert operators(pooling("uint8")) == (OperatorCount("AVERAGE_POOL_2D", 1, 0, ("uint8",)),)


def test_what_is_no_model_is_refused_with_its_name(pooling: Callable[..., bytes]) -> None:
    with pytest.raises(ModelError, match=r"^odd\.tflite: is no \.tflite file"):
        operators(b"hello", where="odd.tflite")
    with pytest.raises(ModelError, match="damaged"):
        operators(pooling("int8")[:40])


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_give_counts_or_a_model_error_and_nothing_else(pooling: Callable[..., bytes], seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = bytearray(pooling("int8"))
    for place in rng.integers(8, len(model), 6):
        model[place] = rng.integers(256)
    try:
        found = operators(bytes(model))
    except ModelError:
        return
    assert all(entry.count >= 1 for entry in found)


@pytest.mark.reference_data
def test_operators_of_real_models_are_what_they_are_known_to_be(reference: Path) -> None:
    def read(name: str) -> bytes:
        return (reference / name).read_bytes()

    quantised = {
        entry.name: entry.count for entry in operators(read("models_mlperf_tiny/pretrainedResnet_quant.tflite"))
    }
    assert quantised["CONV_2D"] == 9
    assert quantised["FULLY_CONNECTED"] == 1
    assert float_operators(read("models_mlperf_tiny/pretrainedResnet_quant.tflite")) == ()
    assert "CONV_2D" in float_operators(read("models_mlperf_tiny/pretrainedResnet.tflite"))
    twin = operators(read("models_coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite"))
    assert [entry.name for entry in twin] == ["custom:edgetpu-custom-op"]


@pytest.mark.reference_data
@pytest.mark.parametrize("name", ["kws_ref_model", "ad01_int8", "vww_96_int8", "kws_ref_model_float32"])
def test_a_model_written_again_computes_the_same(reference: Path, name: str) -> None:
    model = (reference / f"models_mlperf_tiny/{name}.tflite").read_bytes()
    outputs = []
    for version in (model, pack(parse(model))):
        interpreter = open_interpreter(version)
        given = interpreter.get_input_details()[0]
        rng = np.random.default_rng(1)
        x = rng.integers(-128, 128, given["shape"]) if given["dtype"] == np.int8 else rng.normal(0, 1, given["shape"])
        interpreter.set_tensor(given["index"], x.astype(given["dtype"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy())
    np.testing.assert_array_equal(*outputs)
