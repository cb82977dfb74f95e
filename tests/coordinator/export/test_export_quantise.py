"""Integer dense layers against float ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.export.quantise import Affine, DenseLayer, quantise_layer, range_of
from protos.errors import NonFiniteError, ShapeError

SOURCES = {"int8": Affine("int8", 0.04, -128), "uint8": Affine("uint8", 0.04, 3)}


def inputs(dtype: str, count: int, width: int, seed: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, (count, width)).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["int8", "uint8"]),
    width=st.integers(1, 40),
    classes=st.integers(1, 12),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    relu=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_on_calibration_inputs_the_integer_layer_is_within_the_bound_of_its_rounding(
    dtype: str, width: int, classes: int, size: float, relu: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    source, q = SOURCES[dtype], inputs(dtype, 50, width, seed)
    layer = DenseLayer(rng.normal(0, size, (width, classes)), rng.normal(0, size, classes), relu)
    integer = quantise_layer(layer, q, source)
    x = source.real(q)
    wanted = x @ layer.kernel + layer.bias
    wanted = np.maximum(wanted, 0) if relu else wanted
    # Half a step of the output, half a step of each weight, what clipping took from the largest weights, and
    # the same again for the bias correction, which is such an error on the mean input.
    kernel_error = np.abs(layer.kernel - integer.weights.T * integer.weight_scale)
    bound = np.abs(x) @ kernel_error + np.abs(x).mean(axis=0) @ kernel_error
    bound += 0.51 * integer.target.scale + source.scale * integer.weight_scale
    got = integer.target.real(integer.run(q))
    assert (np.abs(got - wanted) <= bound + 1e-9 * size).all()
    unclipped = np.abs(layer.kernel) <= 127 * integer.weight_scale
    assert (kernel_error[unclipped] <= 0.5 * integer.weight_scale * (1 + 1e-6)).all()


def test_the_mean_error_of_rounded_weights_goes_into_the_bias() -> None:
    rng = np.random.default_rng(3)
    source = SOURCES["int8"]
    q = np.clip(rng.normal(60, 4, (300, 64)), -128, 127).astype(np.int8)  # far from zero, hardly moving
    layer = DenseLayer(rng.normal(0, 1, (64, 5)), np.zeros(5))
    integer = quantise_layer(layer, q, source)
    x = source.real(q)
    step = source.scale * integer.weight_scale
    corrected = x @ (integer.weights.T * integer.weight_scale) + integer.bias * step - x @ layer.kernel
    uncorrected = x @ (integer.weights.T * integer.weight_scale - layer.kernel)
    assert np.abs(corrected.mean(axis=0)).max() <= step
    assert np.abs(uncorrected.mean(axis=0)).max() > 20 * step


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_zero_is_exact_and_the_range_has_room(dtype: str, relu: bool) -> None:
    values = np.array([-3.0, 0.0, 7.0])
    affine = range_of(np.maximum(values, 0) if relu else values, dtype, relu=relu)
    assert affine.real(affine.integers(np.zeros(1)))[0] == 0.0
    limits = np.iinfo(dtype)
    assert affine.real(np.array(limits.max)) > 7.0
    assert affine.zero_point == limits.min if relu else affine.real(np.array(limits.min)) < -3.0


def test_a_head_of_zeros_gives_its_bias() -> None:
    source = SOURCES["int8"]
    bias = np.array([0.5, -2.0, 1e-3])
    integer = quantise_layer(DenseLayer(np.zeros((8, 3)), bias), inputs("int8", 5, 8, 0), source)
    got = integer.target.real(integer.run(inputs("int8", 9, 8, 1)))
    np.testing.assert_allclose(got, np.tile(bias, (9, 1)), atol=integer.target.scale)
    nothing = quantise_layer(DenseLayer(np.zeros((8, 3)), np.zeros(3)), inputs("int8", 5, 8, 0), source)
    assert not nothing.target.real(nothing.run(inputs("int8", 9, 8, 1))).any()


def test_a_bias_far_larger_than_the_weights_still_fits_into_32_bits() -> None:
    source, q = SOURCES["int8"], inputs("int8", 20, 4, 2)
    integer = quantise_layer(DenseLayer(np.full((4, 2), 1e-9), np.array([1e3, -1e3])), q, source)
    got = integer.target.real(integer.run(q))
    np.testing.assert_allclose(got, np.tile([1e3, -1e3], (20, 1)), rtol=0.01)


@pytest.mark.parametrize(
    ("kernel", "bias", "rows"),
    [((5, 3), (3,), 4), ((8, 3), (2,), 4), ((8,), (3,), 4), ((8, 3), (3,), 0)],
)
def test_parts_that_do_not_fit_are_refused(kernel: tuple[int, ...], bias: tuple[int, ...], rows: int) -> None:
    with pytest.raises(ShapeError, match="do not fit together"):
        quantise_layer(DenseLayer(np.ones(kernel), np.ones(bias)), inputs("int8", rows, 8, 0), SOURCES["int8"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    kernel = np.ones((8, 3))
    kernel[2, 1] = value
    with pytest.raises(NonFiniteError, match="weight"):
        quantise_layer(DenseLayer(kernel, np.zeros(3)), inputs("int8", 4, 8, 0), SOURCES["int8"])
