"""Wrappers: what they keep, and that nothing is lost for good."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import UpdateError
from protos.update.codecs import build, generator
from protos.update.quantised.baselines import bucket_uniform, plain_sign
from protos.update.quantised.sparse import Sparse, places_from, places_to
from protos.update.tensors import decode
from protos.update.trees import Tree, shapes
from protos.update.wrappers import against_reference, apply_difference, error_feedback, keep_largest


def example() -> Tree:
    rng = np.random.default_rng(3)
    return {"a": rng.normal(size=(30, 4)).astype(np.float32), "b": rng.normal(size=7).astype(np.float32)}


@pytest.mark.parametrize(("codec", "parameters"), [("sign", {}), ("keep_largest", {"share": 0.1})], ids=str)
def test_error_feedback_sends_later_what_it_did_not_send(codec: str, parameters: dict[str, float]) -> None:
    tree = example()
    built = build(codec, parameters)
    state = built.init(shapes(tree))
    total = {name: np.zeros(array.shape) for name, array in tree.items()}
    rounds = 200
    for number in range(rounds):
        tensors, state = built.encode(tree, state, generator(1, number))
        for name, array in decode(tensors, shapes(tree)).items():
            total[name] += array
    for name, array in tree.items():
        # Sent so far plus what is kept back is all that was asked for.
        np.testing.assert_allclose(total[name] + state[f"residual/{name}"], rounds * array, rtol=1e-3, atol=1e-3)
        assert np.linalg.norm(total[name] / rounds - array) < 0.1 * np.linalg.norm(array)


def test_state_moves_only_when_the_caller_moves_it() -> None:
    tree = example()
    built = error_feedback(plain_sign({}))
    state = built.init(shapes(tree))
    lost, _ = built.encode(tree, state, generator(1))
    again, _ = built.encode(tree, state, generator(1))
    assert lost == again


def test_both_ends_hold_the_same_reference_to_the_bit() -> None:
    tree = example()
    built = against_reference(build("uniform_stochastic", {"bits": 4}))
    state = built.init(shapes(tree))
    reader: Tree = {name: np.zeros_like(array) for name, array in tree.items()}
    off = []
    for number in range(6):
        tensors, state = built.encode(tree, state, generator(1, number))
        reader = apply_difference(reader, decode(tensors, shapes(tree)))
        for name in tree:
            np.testing.assert_array_equal(reader[name], state[f"held/{name}"])
        off.append(max(float(np.abs(reader[name] - tree[name]).max()) for name in tree))
    assert off[-1] < 1e-3 * off[0], "a difference shrinks, and so does the error of coding it"


def test_wrappers_nest_and_keep_their_states_apart() -> None:
    tree = example()
    inner = bucket_uniform({"bits": 4.0, "bucket": 64.0, "stochastic": 0.0})
    built = against_reference(error_feedback(inner))
    state = built.init(shapes(tree))
    assert sorted(state) == ["held/a", "held/b", "residual/a", "residual/b"]
    _, after = built.encode(tree, state, generator(1))
    assert shapes(after) == shapes(state)
    assert after["residual/a"].any()


def test_the_largest_coordinates_are_the_ones_that_travel() -> None:
    values = np.array([0.1, -5.0, 0.0, 3.0, -0.2, 4.0], np.float32)
    built = keep_largest(build("float32", {}), 0.5)
    tensors, _ = built.encode({"w": values}, built.init({"w": (6,)}), generator(1))
    assert isinstance(tensors[0].values, Sparse)
    assert decode(tensors, {"w": (6,)})["w"].tolist() == [0.0, -5.0, 0.0, 3.0, 0.0, 4.0]


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=60))))
def test_places_come_back(case: tuple[int, set[int]]) -> None:
    count, chosen = case
    places = np.array(sorted(chosen), np.int64)
    low, high = places_to(places, count)
    assert places_from(low, high, places.size, count).tolist() == places.tolist()


@pytest.mark.parametrize("places", [[5, 5, 7], [3, 5, 11], [7, 7, 11]])
def test_places_that_do_not_rise_or_lie_past_the_end_are_refused(places: list[int]) -> None:
    count, (low, high) = 10, places_to(np.array(places, np.int64), 10)
    high += bytes((3 + 4 + 1 + 7) // 8 - len(high))
    with pytest.raises(UpdateError, match="do not rise, or one past the end"):
        places_from(low, high, 3, count)


def test_places_cost_little_more_than_they_must() -> None:
    count, kept = 1 << 18, 1 << 11
    places = np.sort(np.random.default_rng(1).permutation(count)[:kept])
    low, high = places_to(places, count)
    assert 8 * (len(low) + len(high)) / kept < 2.1 + np.log2(count / kept)
