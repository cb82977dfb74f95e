"""Codecs: one contract for every row of the table, and what the unbiased grid promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import PlanError
from protos.update import codecs
from protos.update.codecs import CODECS, DEFAULT_CODEC, build, generator, resolve
from protos.update.tensors import ABSURD, WHOLE_TREE, EncodedTensor, UniformGrid, decode
from protos.update.trees import Tree, shapes

SETTINGS: list[tuple[str, dict[str, float]]] = [("float32", {}), ("float16", {})] + [
    ("uniform_stochastic", {"bits": bits, "bucket": bucket}) for bits in range(1, 9) for bucket in (16, 1024)
]


def tree_of(values: np.ndarray) -> Tree:
    return {"w": np.asarray(values, np.float32)}


def encode(codec: str, parameters: dict[str, float], tree: Tree, seed: int = 0) -> tuple[EncodedTensor, ...]:
    built = build(codec, parameters)
    tensors, _ = built.encode(tree, built.init(shapes(tree)), generator(seed, "test"))
    return tensors


def round_trip(codec: str, parameters: dict[str, float], tree: Tree, seed: int = 0) -> Tree:
    return decode(encode(codec, parameters, tree, seed), shapes(tree))


def largest_error(codec: str, parameters: dict[str, float], tree: Tree) -> dict[str, np.ndarray]:
    """What a codec may be off by, coordinate by coordinate."""
    limits = {}
    for name, values in tree.items():
        wide = values.astype(np.float64)
        if codec == "float32":
            limits[name] = np.zeros(wide.shape)
        elif codec == "float16":
            limits[name] = np.maximum(np.abs(wide) * 2.0**-11, 2.0**-25)
        else:
            flat, bucket = np.abs(wide).ravel(), int(parameters["bucket"])
            tops = np.array([flat[i : i + bucket].max() for i in range(0, flat.size, bucket)])
            step = np.repeat(2 * tops / (2 ** parameters["bits"] - 1), bucket)[: flat.size].reshape(wide.shape)
            # Step and product are rounded to float32, whose numbers are 2**-149 apart at least.
            limits[name] = step * (1 + 1e-6) + np.abs(wide) * 1e-6 + 2 * 2.0**-149
    return limits


@pytest.mark.parametrize(("codec", "parameters"), SETTINGS, ids=str)
@given(
    size=st.sampled_from([0, 1, 2, 15, 16, 17, 31, 100, 1023, 1024, 1025]),
    exponent=st.sampled_from([-149, -143, -140, -126, -40, -3, 0, 8, 15]),
    seed=st.integers(0, 2**64 - 1),
)
def test_the_error_is_at_most_one_step(
    codec: str, parameters: dict[str, float], size: int, exponent: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    values = np.clip(values, -1.9, 1.9) * 2.0**exponent
    tree = tree_of(values)
    back = round_trip(codec, parameters, tree, seed)
    error = np.abs(back["w"].astype(np.float64) - tree["w"])
    assert back["w"].shape == tree["w"].shape
    assert (error <= largest_error(codec, parameters, tree)["w"]).all()


@pytest.mark.parametrize(("codec", "parameters"), SETTINGS, ids=str)
def test_every_codec_keeps_the_contract(codec: str, parameters: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    tree = {
        "out_kernel": rng.normal(size=(7, 5)).astype(np.float32),
        "out_bias": np.zeros(5, np.float32),
        "nothing": np.zeros((0, 4), np.float32),
        "scalar": np.float32(2.5).reshape(()),
    }
    before = {name: array.copy() for name, array in tree.items()}
    built = build(codec, parameters)
    state = built.init(shapes(tree))
    first, next_state = built.encode(tree, state, generator(1, "a"))
    again, _ = built.encode(tree, state, generator(1, "a"))
    assert built.name == codec
    assert first == again, "the same generator makes the same bytes"
    assert [tensor.name for tensor in first] in (sorted(tree), [WHOLE_TREE])
    assert set(next_state) == set(state)
    back = decode(first, shapes(tree))
    assert shapes(back) == shapes(tree)
    assert not back["out_bias"].any()
    for name in tree:
        np.testing.assert_array_equal(tree[name], before[name])


@pytest.mark.parametrize(("codec", "parameters"), SETTINGS, ids=str)
@pytest.mark.parametrize("size", [1, 16, 33])
def test_no_change_stays_no_change(codec: str, parameters: dict[str, float], size: int) -> None:
    assert not round_trip(codec, parameters, tree_of(np.zeros(size)))["w"].any()


@pytest.mark.parametrize(("codec", "parameters"), SETTINGS, ids=str)
@pytest.mark.parametrize(
    "size_of_it", [float(np.finfo(np.float32).smallest_subnormal), 1e-38, 1e-20, 1e4, 0.999 * ABSURD]
)
def test_the_smallest_and_largest_changes_travel(codec: str, parameters: dict[str, float], size_of_it: float) -> None:
    tree = tree_of(np.array([size_of_it, -size_of_it, 0.0, size_of_it / 3]))
    back = round_trip(codec, parameters, tree)["w"].astype(np.float64)
    if codec == "float16":
        assert np.abs(back).max() == (np.float16(size_of_it) if size_of_it < 65504 else 65504)
    else:
        error = np.abs(back - tree["w"])
        assert (error <= largest_error(codec, parameters, tree)["w"]).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_grid_is_unbiased(bits: int) -> None:
    """The mean of n codings lies within the noise of stochastic rounding: with p the part of a step above the level
    below, one coding has the variance step^2 p (1 - p). Seeds are fixed, so this is one experiment, not a lottery."""
    n = 3000
    values = np.concatenate([np.linspace(-1, 1, 41), [1.0, -1.0, 1e-3, 0.0]]).astype(np.float32)
    built = build("uniform_stochastic", {"bits": bits, "bucket": 1024})
    total = np.zeros(values.size)
    for number in range(n):
        tensors, _ = built.encode({"w": values}, {}, generator(11, "noise", bits, number))
        total += decode(tensors, {"w": values.shape})["w"]
    top = 2**bits - 1
    position = (values.astype(np.float64) + 1) / 2 * top
    part = position - np.floor(position)
    deviation = 2 / top * np.sqrt(part * (1 - part) / n)
    off = np.abs(total / n - values)
    # Next to a level p is so small that the noise is not normal: one stray coding in n is allowed for.
    assert (off <= 4.5 * deviation + 2 * (2 / top) / n).all()
    # The scatter is that of stochastic rounding and not less: rounding to nearest would fail here or above.
    z = off[deviation > 1e-2 / top] / deviation[deviation > 1e-2 / top]
    assert 0.6 < float(np.mean(z**2)) < 1.6


def test_buckets_have_their_own_scale() -> None:
    values = np.concatenate([np.full(16, 1e-3), np.full(16, 1e3)])
    back = round_trip("uniform_stochastic", {"bits": 8, "bucket": 16}, tree_of(values))["w"]
    np.testing.assert_allclose(back[:16], 1e-3, rtol=1e-5)
    (tensor,) = encode("uniform_stochastic", {"bits": 3, "bucket": 16}, tree_of(np.ones(33)))
    assert isinstance(tensor.values, UniformGrid)
    assert (tensor.values.bits, tensor.values.bucket) == (3, 16)
    assert len(tensor.values.step) == 3 * 4
    assert len(tensor.values.codes) == math.ceil(33 * 3 / 8)
    assert tensor.values.offset == b""


def test_randomness_is_a_function_of_seed_and_purpose() -> None:
    def draw(seed: int, *purpose: str | int) -> bytes:
        return generator(seed, *purpose).bytes(16)

    assert draw(5, "encode", "pi-1", 2) == draw(5, "encode", "pi-1", 2)
    others = {draw(5, "encode", "pi-1", 2), draw(6, "encode", "pi-1", 2), draw(5, "batches", "pi-1", 2)}
    others |= {draw(5, "encode", "pi-2", 2), draw(5, "encode", "pi-1", 3), draw(5 + 2**32, "encode", "pi-1", 2)}
    assert len(others) == 6
    assert draw(2**64 - 1, "a") != draw(0, "a")


def test_another_seed_rounds_otherwise() -> None:
    tree = tree_of(np.linspace(-1, 1, 50))
    first = encode("uniform_stochastic", {"bits": 4}, tree, seed=1)
    assert first != encode("uniform_stochastic", {"bits": 4}, tree, seed=2)
    assert first == encode("uniform_stochastic", {"bits": 4}, tree, seed=1)


def test_what_is_not_given_takes_its_default() -> None:
    assert DEFAULT_CODEC in CODECS
    assert resolve("uniform_stochastic", {"bits": 3}, where="plan") == {"bits": 3.0, "bucket": 1024.0}
    assert resolve("float32", {}, where="plan") == {}


@pytest.mark.parametrize(
    ("name", "given_", "words"),
    [
        ("uniform_stocastic", {}, "no codec is called 'uniform_stocastic'; did you mean 'uniform_stochastic'"),
        ("float32", {"bits": 8}, "takes no 'bits'; leave it out"),
        ("uniform_stochastic", {"bitts": 8}, "takes no 'bitts'; did you mean 'bits'"),
        ("uniform_stochastic", {"bits": 0}, "bits = 0 is not a whole number from 1 to 8"),
        ("uniform_stochastic", {"bits": 9}, "bits = 9 is not"),
        ("uniform_stochastic", {"bits": 2.5}, "bits = 2.5 is not"),
        ("uniform_stochastic", {"bits": math.nan}, "bits = nan is not"),
        ("uniform_stochastic", {"bits": math.inf}, "bits = inf is not"),
        ("uniform_stochastic", {"bucket": 15}, "bucket = 15 is not a whole number from 16 to"),
    ],
)
def test_a_codec_that_cannot_be_is_refused_with_a_reason(name: str, given_: dict[str, float], words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        build(name, given_, where="order of round 3")
    assert caught.value.where == "order of round 3"


def test_every_default_is_allowed() -> None:
    for name, entry in codecs.CODECS.items():
        for key, rule in entry.parameters.items():
            for value in (rule.default, rule.minimum, rule.maximum):
                assert resolve(name, {key: value}, where="table")[key] == value
