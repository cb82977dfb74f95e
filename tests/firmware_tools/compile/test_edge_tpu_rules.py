"""Each limit of the Edge TPU's table: one operator that maps, and the same with the one thing that keeps it off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from firmware_tools.compile.operators import TABLE, UNREADABLE_FROM
from firmware_tools.compile.prediction import Forecast, predict
from protos.model import flatbuffer

IMAGE = (1, 4, 4, 8)


@pytest.fixture
def forecast(sketch: Callable[[], Any]) -> Callable[..., Forecast]:
    """What is predicted for one operator; an input is a shape, or a shape with the value of a constant."""

    def tell(
        name: str, inputs: Sequence[Any], output: Any = IMAGE, *, version: int = 1, options: Any = None
    ) -> Forecast:
        one = sketch()
        numbers = [one.tensor(**given) if isinstance(given, dict) else one.tensor(given) for given in inputs]
        result = one.tensor(**output) if isinstance(output, dict) else one.tensor(output)
        one.node(name, numbers, [result], version=version, options=options)
        return predict(one.file([numbers[0]], [result]), where="one.tflite").operators[0]

    return tell


def constant(shape: Sequence[int], data: Any, dtype: str = "int32") -> dict[str, Any]:
    return {"shape": shape, "data": data, "dtype": dtype}


def test_every_row_names_an_operator_of_the_format() -> None:
    known = {name for name in vars(flatbuffer.schema.BuiltinOperator) if not name.startswith("_")}
    assert set(TABLE) <= known
    assert set(UNREADABLE_FROM) <= known


@pytest.mark.parametrize("name", ["ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"])
def test_elementwise_operators_map(forecast: Callable[..., Forecast], name: str) -> None:
    assert forecast(name, [IMAGE, IMAGE]).mapped


@pytest.mark.parametrize("name", ["LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "RSQRT", "L2_NORMALIZATION"])
def test_functions_of_one_tensor_map(forecast: Callable[..., Forecast], name: str) -> None:
    assert forecast(name, [IMAGE]).mapped


@pytest.mark.parametrize("name", ["HARD_SWISH", "LEAKY_RELU", "DEQUANTIZE", "custom:Mine"])
def test_what_is_not_in_the_table_does_not_map(forecast: Callable[..., Forecast], name: str) -> None:
    assert forecast(name, [IMAGE]).reason == "is no operator of the Edge TPU"


@pytest.mark.parametrize("name", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_a_pool_maps_without_an_activation(
    forecast: Callable[..., Forecast], options: Callable[..., Any], name: str
) -> None:
    assert forecast(name, [IMAGE], options=options("Pool2D")).mapped
    fused = forecast(name, [IMAGE], options=options("Pool2D", fusedActivationFunction=3))
    assert fused.reason == "has a fused RELU6"


@pytest.mark.parametrize(("name", "kind"), [("CONV_2D", "Conv2D"), ("DEPTHWISE_CONV_2D", "DepthwiseConv2D")])
def test_a_convolution_asks_for_one_dilation_and_constant_weights(
    forecast: Callable[..., Forecast], options: Callable[..., Any], name: str, kind: str
) -> None:
    kernel, bias = constant((8, 3, 3, 8), 1, "int8"), constant((8,), 0)
    even = options(kind, dilationWFactor=2, dilationHFactor=2)
    odd = options(kind, dilationWFactor=2, dilationHFactor=1)
    assert forecast(name, [IMAGE, kernel, bias], options=even).mapped
    assert forecast(name, [IMAGE, kernel, bias], options=odd).reason == "dilates by 2 in x and by 1 in y"
    assert forecast(name, [IMAGE, (1, 3, 3, 8), bias]).reason == "input 1 is computed, and must be a constant"


def test_concatenation_takes_a_constant_only_as_padding(
    forecast: Callable[..., Forecast], options: Callable[..., Any]
) -> None:
    zero = {**constant(IMAGE, 7, "int8"), "zero_point": 7}
    assert forecast("CONCATENATION", [IMAGE, IMAGE, IMAGE]).mapped
    assert forecast("CONCATENATION", [IMAGE, zero]).mapped
    assert "two inputs" in str(forecast("CONCATENATION", [IMAGE, IMAGE, zero]).reason)
    assert "not all zero" in str(forecast("CONCATENATION", [IMAGE, {**zero, "zero_point": 0}]).reason)
    fused = options("Concatenation", fusedActivationFunction=1)
    assert forecast("CONCATENATION", [IMAGE, IMAGE], options=fused).reason == "has a fused RELU"


def test_a_dense_layer_gives_one_vector_from_plain_weights(
    forecast: Callable[..., Forecast], options: Callable[..., Any]
) -> None:
    given = [(1, 8), constant((5, 8), 1, "int8"), constant((5,), 0)]
    assert forecast("FULLY_CONNECTED", given, (1, 5)).mapped
    assert "shuffled" in str(
        forecast("FULLY_CONNECTED", given, options=options("FullyConnected", weightsFormat=1)).reason
    )
    assert "shape [4, 5]" in str(forecast("FULLY_CONNECTED", [(4, 8), *given[1:]], (4, 5)).reason)


@pytest.mark.parametrize("name", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize("batch", [0, -4])
def test_a_reduction_leaves_the_batch_alone(forecast: Callable[..., Forecast], name: str, batch: int) -> None:
    assert forecast(name, [IMAGE, constant((2,), [1, 2])], (1, 8)).mapped
    assert forecast(name, [IMAGE, constant((1,), batch)], (4, 4, 8)).reason == "reduces the batch"


def test_a_mean_over_channels_needs_a_multiple_of_four(forecast: Callable[..., Forecast]) -> None:
    axes = constant((1,), -1)
    assert forecast("MEAN", [(1, 4, 4, 8), axes], (1, 4, 4)).mapped
    assert "6 channels" in str(forecast("MEAN", [(1, 4, 4, 6), axes], (1, 4, 4)).reason)
    assert forecast("SUM", [(1, 4, 4, 6), axes], (1, 4, 4)).mapped


def test_pack_pad_and_split_leave_the_batch_alone(
    forecast: Callable[..., Forecast], options: Callable[..., Any]
) -> None:
    assert forecast("PACK", [(1, 8)], (1, 2, 8), options=options("Pack", axis=1)).mapped
    assert forecast("PACK", [(1, 8)], (1, 1, 8), options=options("Pack", axis=-3)).reason == "packs along the batch"
    inside, outside = [[0, 0], [1, 1], [1, 1], [0, 0]], [[1, 0], [0, 0], [0, 0], [0, 0]]
    assert forecast("PAD", [IMAGE, constant((4, 2), inside)], (1, 6, 6, 8)).mapped
    assert forecast("PAD", [IMAGE, constant((4, 2), outside)]).reason == "pads the batch"
    assert forecast("SPLIT", [constant((1,), 3), IMAGE]).mapped
    assert forecast("SPLIT", [constant((1,), -4), IMAGE]).reason == "splits the batch"


def test_a_recurrent_layer_maps_one_way_only(forecast: Callable[..., Forecast]) -> None:
    steps, kernel, cell = (1, 4, 8), constant((8, 8), 1, "int8"), {"shape": (1, 8), "dtype": "int16"}
    assert forecast("UNIDIRECTIONAL_SEQUENCE_LSTM", [steps, kernel, cell], steps).mapped
    assert not forecast("BIDIRECTIONAL_SEQUENCE_LSTM", [steps, kernel, cell], steps).mapped
    assert forecast("ADD", [steps, cell], steps).reason == "input 1 is int16, not 8-bit"


def test_a_shape_that_is_computed_does_not_map(forecast: Callable[..., Forecast]) -> None:
    kernel, size = constant((8, 3, 3, 8), 1, "int8"), constant((4,), IMAGE)
    assert forecast("TRANSPOSE_CONV", [size, kernel, IMAGE]).mapped
    assert forecast("TRANSPOSE_CONV", [{**size, "data": None}, kernel, IMAGE]).reason == "input 0 is int32, not 8-bit"
    computed = forecast("RESHAPE", [IMAGE, {"shape": (2,), "dtype": "int8"}], (1, 128))
    assert computed.reason == "input 1 is computed, and must be a constant"


def test_a_slope_is_one_value_for_each_channel(forecast: Callable[..., Forecast]) -> None:
    assert forecast("PRELU", [IMAGE, constant((1, 1, 8), 1, "int8")]).mapped
    assert "shared_axes" in str(forecast("PRELU", [IMAGE, constant((4, 4, 8), 1, "int8")]).reason)


def test_softmax_takes_one_vector_of_limited_length(forecast: Callable[..., Forecast]) -> None:
    assert forecast("SOFTMAX", [(1, 16_000)], (1, 16_000)).mapped
    assert "16001 values" in str(forecast("SOFTMAX", [(1, 16_001)], (1, 16_001)).reason)
    assert "shape [4, 8]" in str(forecast("SOFTMAX", [(4, 8)], (4, 8)).reason)


def test_a_strided_slice_takes_every_value_of_plain_axes(
    forecast: Callable[..., Forecast], options: Callable[..., Any]
) -> None:
    start, ones = constant((4,), 0), constant((4,), 1)
    assert forecast("STRIDED_SLICE", [IMAGE, start, ones, ones]).mapped
    assert "stride" in str(forecast("STRIDED_SLICE", [IMAGE, start, ones, constant((4,), [1, 2, 1, 1])]).reason)
    for mask in ("ellipsisMask", "newAxisMask"):
        masked = forecast("STRIDED_SLICE", [IMAGE, start, ones, ones], options=options("StridedSlice", **{mask: 1}))
        assert masked.reason == "has an ellipsis or a new axis"


@pytest.mark.parametrize("name", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RESHAPE"])
def test_what_coral_leaves_open_is_a_doubt_and_not_a_refusal(forecast: Callable[..., Forecast], name: str) -> None:
    told = forecast(name, [IMAGE, constant((2,), 8)], (1, 8, 8, 8))
    assert told.mapped
    assert told.doubt is not None


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({"shape": IMAGE, "dtype": "float32"}, "input 0 is float32, not 8-bit"),
        ({"shape": IMAGE, "dtype": "int32"}, "input 0 is int32, not 8-bit"),
        ({"shape": IMAGE, "scale": None}, "input 0 has no quantisation"),
        ({"shape": IMAGE, "signature": (1, -1, 4, 8)}, "input 0 has a size that is not known at compile time"),
        ({"shape": (1, 0, 4, 8)}, "input 0 has a size that is not known at compile time"),
        ({"shape": (3, 4, 4, 8)}, "input 0 has shape [3, 4, 4, 8]: only the 3 innermost sizes may be larger than 1"),
    ],
)
def test_a_tensor_that_does_not_fit_keeps_its_operator_off(
    forecast: Callable[..., Forecast], tensor: dict[str, Any], reason: str
) -> None:
    assert forecast("TANH", [tensor]).reason == reason


def test_a_batch_that_the_converter_left_open_maps(forecast: Callable[..., Forecast]) -> None:
    assert forecast("TANH", [{"shape": IMAGE, "signature": (-1, 4, 4, 8)}]).mapped


@pytest.mark.parametrize(("name", "version"), UNREADABLE_FROM.items())
def test_a_version_that_the_compiler_cannot_read_costs_the_whole_file(
    sketch: Callable[[], Any], name: str, version: int
) -> None:
    def told(at: int) -> Any:
        one = sketch()
        first, second, third = (one.tensor(IMAGE) for _ in range(3))
        one.node("TANH", [first], [second])
        one.node(name, [second], [third], version=at)
        return predict(one.file([first], [third]), where="one.tflite")

    assert told(version - 1).refusal is None
    refused = told(version)
    assert refused.mapped == 0
    assert f"{name} version {version}" in refused.refusal
    assert not refused.is_complete
