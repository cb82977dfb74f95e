"""Heads as coded differences: both ends hold the same bits, what a coding loses comes later, and no bytes break it."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.convert.head_transfers import parse_difference, serialise_difference
from protos.errors import UpdateError
from protos.update.codecs import CODECS, build, generator
from protos.update.downlink import MAX_SCALE, NOT_EXACT, Difference, _scale, rebuild, step_towards
from protos.update.tensors import ABSURD, as_float32
from protos.update.trees import Tree, norm, shapes, subtract
from protos.update.wrappers import HELD, against_reference

WAYS: list[tuple[str, dict[str, float]]] = [
    ("float16", {}),
    ("uniform_stochastic", {"bits": 2}),
    ("uniform_stochastic", {"bits": 4}),
    ("entropy_coded", {"bits": 0.5}),
    ("entropy_coded", {"bits": 2}),
    ("entropy_coded_mmse", {"bits": 0.5}),
    ("entropy_coded_mmse", {"bits": 2}),
    ("qsgd", {"bits": 3}),
    ("bucket_uniform", {"bits": 2}),
    ("bucket_quantile", {"bits": 2}),
    ("sign", {}),
    ("keep_largest", {"share": 0.05}),
]


def tree(rng: np.random.Generator, scale: float = 1.0) -> Tree:
    return {
        "bias": (scale * rng.normal(size=10)).astype(np.float32),
        "kernel": (scale * rng.standard_t(3, size=(40, 10))).astype(np.float32),
    }


def plus(left: Tree, right: Tree) -> Tree:
    return {name: left[name] + right[name] for name in left}


def same_bits(left: Tree, right: Tree) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.parametrize(("codec", "parameters"), WAYS, ids=str)
def test_a_reader_rebuilds_the_very_bits_from_the_serialised_chain(codec: str, parameters: dict[str, float]) -> None:
    rng = np.random.default_rng(2)
    first = head = held = tree(rng)
    built, chain = build(codec, parameters), []
    for number in range(12):
        head = plus(head, tree(rng, 0.1))
        found = step_towards(head, held, built, generator(5, number))
        assert found is not None
        difference, held = found
        chain.append(serialise_difference(difference))
    read = [parse_difference(data) for data in chain]
    assert same_bits(rebuild(first, read, shapes(first)), held)
    middle = rebuild(first, read[:5], shapes(first))
    assert same_bits(rebuild(middle, read[5:], shapes(first)), held), "the same from any head in between"


@pytest.mark.parametrize(("codec", "parameters"), WAYS, ids=str)
def test_what_a_coding_loses_is_sent_later(codec: str, parameters: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    head, held = tree(rng), tree(rng)
    built, away = build(codec, parameters), [norm(subtract(head, held))]
    for number in range(60):
        found = step_towards(head, held, built, generator(5, number))
        if found is None:
            continue
        held = found[1]
        away.append(norm(subtract(head, held)))
    assert all(after < before for before, after in pairwise(away)), "each code brings them nearer"
    assert away[-1] < 0.1 * away[0]


@pytest.mark.parametrize(("codec", "parameters"), WAYS, ids=str)
def test_a_head_that_moves_on_is_followed_at_a_bounded_distance(codec: str, parameters: dict[str, float]) -> None:
    rng = np.random.default_rng(4)
    head = held = tree(rng)
    built, away, moves = build(codec, parameters), [], []
    for number in range(150):
        move = tree(rng, 0.1)
        head = plus(head, move)
        found = step_towards(head, held, built, generator(6, number))
        held = head if found is None else found[1]
        away.append(norm(subtract(head, held)))
        moves.append(norm(move))
    # Residuals of independent moves add up to a random walk at worst; a contraction ends it after a few rounds.
    assert float(np.mean(away[75:])) < 1.3 * float(np.mean(away[25:75])) + 1e-6
    assert float(np.mean(away)) < 6 * float(np.mean(moves))


def test_a_code_of_much_error_is_scaled_to_leave_the_least_and_one_of_little_is_left_alone() -> None:
    rng = np.random.default_rng(8)
    head, held = tree(rng), tree(rng)
    asked, scaled = norm(subtract(head, held)), set()
    for codec, parameters in WAYS:
        found = step_towards(head, held, build(codec, parameters), generator(1, codec))
        assert found is not None
        difference, reached = found

        def left(scale: float, difference: Difference = difference) -> float:
            return norm(subtract(head, rebuild(held, [dataclasses.replace(difference, scale=scale)], shapes(head))))

        assert norm(subtract(head, reached)) < asked
        if difference.scale == 1.0:
            assert left(1.0) <= 0.8 * asked * (1 + 1e-6)
        else:
            scaled.add(codec)
            assert left(1.0) > 0.8 * asked * (1 - 1e-6)
            assert left(difference.scale) <= min(left(difference.scale * factor) for factor in (0.9, 1.1))
    assert {"entropy_coded", "qsgd"} <= scaled


def test_a_code_that_leads_the_other_way_or_nowhere_is_left_as_it_is() -> None:
    wanted = tree(np.random.default_rng(5))
    for factor in (-1.0, 0.0):
        decoded = {name: np.float32(factor) * array for name, array in wanted.items()}
        assert _scale(wanted, decoded) == 1.0
    assert _scale(wanted, {name: np.float32(0.125) * array for name, array in wanted.items()}) == MAX_SCALE


def test_at_scale_one_it_is_the_code_against_a_reference() -> None:
    rng = np.random.default_rng(9)
    head, held = tree(rng), tree(rng)
    inner = build("uniform_stochastic", {"bits": 8})
    found = step_towards(head, held, inner, generator(1))
    assert found is not None
    outer = against_reference(inner)
    tensors, after = outer.encode(head, {HELD + name: array for name, array in held.items()}, generator(1))
    assert found[0] == Difference(tensors)
    assert same_bits(found[1], {name: after[HELD + name] for name in head})


def test_a_code_that_says_nothing_is_not_sent() -> None:
    head = tree(np.random.default_rng(1))
    assert step_towards(head, head, build("entropy_coded", {"bits": 2}), generator(1)) is None


def test_every_codec_of_the_table_is_tried_here_or_known_to_be_unfit() -> None:
    # affine8_weights is made for weights, float32 is no coding.
    assert {codec for codec, _ in WAYS} | {*NOT_EXACT, "affine8_weights", "float32"} == set(CODECS)


def a_difference(codec: str = "entropy_coded", bits: float = 1) -> tuple[Tree, Difference]:
    rng = np.random.default_rng(11)
    held = tree(rng)
    found = step_towards(plus(held, tree(rng, 0.1)), held, build(codec, {"bits": bits}), generator(1))
    assert found is not None
    return held, found[0]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, -math.inf, np.nextafter(MAX_SCALE, 9), 1e30])
def test_an_absurd_scale_is_refused(scale: float) -> None:
    held, difference = a_difference()
    with pytest.raises(UpdateError, match="scale"):
        rebuild(held, [dataclasses.replace(difference, scale=scale)], shapes(held))


def test_what_does_not_fit_is_refused_and_says_which_difference_it_was() -> None:
    held, difference = a_difference("uniform_stochastic", 4)
    for tensors in ((), (*difference.tensors, difference.tensors[0])):
        with pytest.raises(UpdateError, match="difference 2 of 2"):
            rebuild(held, [difference, Difference(tensors)], shapes(held))
    with pytest.raises(UpdateError, match="declared shape"):
        rebuild(held, [difference], {**shapes(held), "bias": (11,)})


def test_differences_cannot_lead_to_absurd_numbers_step_by_step() -> None:
    held = {"w": np.zeros(4, np.float32)}
    step = Difference(as_float32({"w": np.full(4, 0.6 * ABSURD, np.float32)}))
    assert rebuild(held, [step], shapes(held))["w"][0] == pytest.approx(0.6 * ABSURD)
    with pytest.raises(UpdateError, match="beyond"):
        rebuild(held, [step, step], shapes(held))


@given(st.data(), st.sampled_from(["entropy_coded", "uniform_stochastic", "bucket_quantile"]))
def test_changed_bytes_give_a_sensible_head_or_an_error(data: st.DataObject, codec: str) -> None:
    held, difference = a_difference(codec, 2)
    whole = bytearray(serialise_difference(difference))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                whole[at] = data.draw(st.integers(0, 255))
            case 1:
                whole[at:at] = data.draw(st.binary(max_size=6))
            case _:
                del whole[at : at + data.draw(st.integers(1, 8))]
        if not whole:
            return
    try:
        head = rebuild(held, [parse_difference(bytes(whole))], shapes(held))
    except UpdateError:
        return
    assert shapes(head) == shapes(held)
    assert all(float(np.abs(array).max()) <= ABSURD for array in head.values())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_difference_or_an_error(data: bytes) -> None:
    held = {"w": np.zeros(16, np.float32)}
    try:
        rebuild(held, [parse_difference(data)], shapes(held))
    except UpdateError:
        return


def test_a_small_message_never_makes_a_large_head() -> None:
    held, difference = a_difference()
    huge = dataclasses.replace(difference.tensors[0], shape=(1 << 30,))
    tracemalloc.start()
    with pytest.raises(UpdateError):
        rebuild(held, [Difference((huge, *difference.tensors[1:]))], shapes(held))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
