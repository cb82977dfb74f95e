"""The prediction of whole models: one part, parameter memory, damaged files, and what the real compiler made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_tools.compile.graph import read_graph
from firmware_tools.compile.prediction import AFTER, ENTRY, predict
from firmware_tools.compile.twin import check_twin
from protos.errors import ModelError

IMAGE = (1, 4, 4, 8)
TWINS = ("mobilenet_v1_0.25_128_quant", "mobilenet_v1_1.0_224_quant_embedding_extractor")


def test_all_that_follows_the_first_operator_on_the_cpu_stays_there(sketch: Callable[[], Any]) -> None:
    one = sketch()
    at = [one.tensor(IMAGE) for _ in range(5)]
    for number, name in enumerate(("TANH", "HARD_SWISH", "TANH", "LEAKY_RELU")):
        one.node(name, [at[number]], [at[number + 1]])
    told = predict(one.file([at[0]], [at[-1]]), where="one.tflite")
    assert [forecast.mapped for forecast in told.operators] == [True, False, False, False]
    assert told.operators[2].reason == AFTER
    assert told.operators[3].reason == "is no operator of the Edge TPU"
    assert not told.is_complete


def test_float_ends_stay_on_the_cpu_and_what_is_between_them_maps(sketch: Callable[[], Any]) -> None:
    one = sketch()
    before, first = one.tensor(IMAGE, "float32"), one.tensor(IMAGE)
    second, after = one.tensor(IMAGE), one.tensor(IMAGE, "float32")
    one.node("QUANTIZE", [before], [first])
    one.node("TANH", [first], [second])
    one.node("DEQUANTIZE", [second], [after])
    told = predict(one.file([before], [after]), where="one.tflite")
    assert [forecast.mapped for forecast in told.operators] == [False, True, False]
    assert told.operators[0].reason == ENTRY


@pytest.mark.parametrize(("mebibytes", "memory"), [(1, "cached"), (7, "uncertain"), (9, "streamed")])
def test_parameters_are_held_against_the_memory_of_the_chip(
    sketch: Callable[[], Any], mebibytes: int, memory: str
) -> None:
    one = sketch()
    given, result = one.tensor((1, 1024)), one.tensor((1, 1024 * mebibytes))
    weights = one.tensor((1024 * mebibytes, 1024), data=1)
    one.node("FULLY_CONNECTED", [given, weights, -1], [result])
    told = predict(one.file([given], [result]), where="one.tflite")
    assert told.is_complete
    assert told.parameter_bytes == mebibytes << 20
    assert told.memory == memory


def test_a_constant_that_two_operators_share_counts_once(sketch: Callable[[], Any]) -> None:
    one = sketch()
    first, second, third, weights = (*(one.tensor((1, 8)) for _ in range(3)), one.tensor((8, 8), data=1))
    one.node("FULLY_CONNECTED", [first, weights, -1], [second])
    same_bytes = one.tensor((8, 8))
    one.graph.tensors[same_bytes].buffer = one.graph.tensors[weights].buffer
    one.node("FULLY_CONNECTED", [second, same_bytes, -1], [third])
    assert predict(one.file([first], [third]), where="one.tflite").parameter_bytes == 64


def test_a_model_without_operators_is_not_complete(sketch: Callable[[], Any]) -> None:
    one = sketch()
    end = one.tensor(IMAGE)
    assert not predict(one.file([end], [end]), where="one.tflite").is_complete


def test_what_is_compiled_already_and_what_is_no_model_is_refused(small_twin: Callable[..., bytes]) -> None:
    with pytest.raises(ModelError, match=r"^twin\.tflite: is compiled for the Edge TPU already"):
        predict(small_twin(), where="twin.tflite")
    with pytest.raises(ModelError, match=r"is no \.tflite file"):
        predict(b"hello", where="odd")


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_give_a_prediction_or_a_model_error_and_nothing_else(small_model: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = bytearray(small_model)
    for place in rng.integers(8, len(model), 4):
        model[place] = rng.integers(256)
    try:
        told = predict(bytes(model), where="odd.tflite")
    except ModelError:
        return
    assert 0 <= told.mapped <= len(told.operators)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scale": 0.5}, r"output 0 has scale \[0\.5\], the CPU model has \[0\.25\]"),
        ({"zero_point": 1}, r"output 0 has zero point \[1\], the CPU model has \[0\]"),
        ({"dtype": "uint8"}, "output 0 has dtype uint8, the CPU model has int8"),
        ({"operator": "TANH"}, "holds no Edge TPU operator"),
    ],
)
def test_a_twin_with_another_end_is_no_twin(
    small_model: bytes, small_twin: Callable[..., bytes], change: dict[str, Any], complaint: str
) -> None:
    model = read_graph(small_model, where="model")
    check_twin(model, read_graph(small_twin(), where="twin"), where="twin")
    with pytest.raises(ModelError, match=complaint):
        check_twin(model, read_graph(small_twin(**change), where="twin"), where="twin")


def test_a_twin_of_another_number_of_ends_is_no_twin(sketch: Callable[[], Any], small_model: bytes) -> None:
    one = sketch()
    given, other, result = one.tensor(IMAGE), one.tensor(IMAGE), one.tensor((1, 8), scale=0.25)
    one.node("custom:edgetpu-custom-op", [given, other], [result])
    twin = read_graph(one.file([given, other], [result]), where="twin")
    with pytest.raises(ModelError, match="has 2 inputs, the CPU model has 1"):
        check_twin(read_graph(small_model, where="model"), twin, where="twin")


@pytest.mark.reference_data
@pytest.mark.parametrize("name", TWINS)
def test_all_of_a_model_is_predicted_where_the_real_compiler_mapped_all(coral_models: Path, name: str) -> None:
    model = (coral_models / f"{name}.tflite").read_bytes()
    twin = read_graph((coral_models / f"{name}_edgetpu.tflite").read_bytes(), where="twin")
    assert [node.name for node in twin.nodes] == ["custom:edgetpu-custom-op"]
    assert predict(model, where=name).is_complete
    check_twin(read_graph(model, where=name), twin, where="twin")


@pytest.mark.reference_data
def test_the_twin_of_another_model_is_refused(coral_models: Path) -> None:
    model, twin = (
        read_graph((coral_models / file).read_bytes(), where=file)
        for file in (f"{TWINS[0]}.tflite", f"{TWINS[1]}_edgetpu.tflite")
    )
    with pytest.raises(ModelError, match="input 0 has shape"):
        check_twin(model, twin, where="twin")
