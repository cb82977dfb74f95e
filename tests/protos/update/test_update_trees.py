"""Trees: sums, names and refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from protos.errors import NonFiniteError, ShapeError
from protos.update import trees
from protos.update.trees import Tree


def tree(seed: int = 0) -> Tree:
    rng = np.random.default_rng(seed)
    return {"out_kernel": rng.normal(size=(4, 3)).astype(np.float32), "out_bias": np.arange(3, dtype=np.float32)}


def test_a_difference_added_again_gives_the_first_tree() -> None:
    left, right = tree(1), tree(2)
    back = trees.add_scaled(right, trees.subtract(left, right), 1.0)
    for name in left:
        np.testing.assert_allclose(back[name], left[name], atol=1e-6)
        assert back[name].dtype == np.float32


def test_sums_are_made_in_float64() -> None:
    one = {"w": np.array([1.0], np.float32)}
    # 2**-25 is lost beside 1 in float32; a million of them are not.
    change = {"w": np.array([2.0**-25], np.float64)}
    assert trees.add_scaled(one, change, 2.0**20)["w"][0] == np.float32(1 + 2.0**-5)
    assert trees.norm({"w": np.full(10_000, 1e-23, np.float32)}) == pytest.approx(1e-21, rel=1e-6)


def test_nothing_changes_its_arguments() -> None:
    left, right = tree(1), tree(2)
    trees.subtract(left, right)
    trees.add_scaled(left, right, 3.0)
    for given, fresh in ((left, tree(1)), (right, tree(2))):
        for name in given:
            np.testing.assert_array_equal(given[name], fresh[name])


def test_names_come_in_sorted_order_whatever_the_order_they_were_put_in() -> None:
    shuffled = dict(reversed(tree().items()))
    assert list(trees.subtract(shuffled, tree())) == ["out_bias", "out_kernel"]
    assert list(trees.shapes(tree()).items()) == [("out_bias", (3,)), ("out_kernel", (4, 3))]
    assert trees.coordinates(tree()) == 15
    assert trees.coordinates({}) == 0
    assert trees.norm({}) == 0.0


def test_a_version_names_the_content_and_nothing_else() -> None:
    version = trees.version(tree())
    assert version == trees.version(dict(reversed(tree().items())))
    assert version == trees.version({name: np.asfortranarray(array) for name, array in tree().items()})
    assert version == trees.version({name: array.astype(">f4") for name, array in tree().items()})
    flipped = tree()
    flipped["out_bias"][0] = np.nextafter(np.float32(0), np.float32(1))
    reshaped = {**tree(), "out_kernel": tree()["out_kernel"].reshape(3, 4)}
    renamed = {"out_bias": tree()["out_bias"], "kernel": tree()["out_kernel"]}
    assert len({version, *(trees.version(other) for other in (flipped, reshaped, renamed, tree(1)))}) == 5


def test_a_version_is_the_same_in_another_process() -> None:
    script = "import numpy as np; from protos.update.trees import version; print(version({'b': np.arange(3.0)}))"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    assert told == trees.version({"b": np.arange(3, dtype=np.float32)})


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda t: t.pop("out_bias"), ShapeError, "out_bias"),
        (lambda t: t.update(extra=np.zeros(1, np.float32)), ShapeError, "extra"),
        (lambda t: t.update(out_bias=np.zeros((3, 1), np.float32)), ShapeError, r"\(3, 1\)"),
        (lambda t: t["out_kernel"].__setitem__((1, 1), np.nan), NonFiniteError, "out_kernel"),
        (lambda t: t["out_kernel"].__setitem__((1, 1), -np.inf), NonFiniteError, "out_kernel"),
    ],
)
def test_a_tree_that_is_not_as_expected_is_refused_by_name(spoil, error, words) -> None:  # type: ignore[no-untyped-def]
    spoilt = tree()
    spoil(spoilt)
    with pytest.raises(error, match=words) as caught:
        trees.check(spoilt, trees.shapes(tree()), where="head.npz")
    assert caught.value.where == "head.npz"


def test_a_tree_as_expected_passes() -> None:
    trees.check(tree(), {"out_bias": [3], "out_kernel": (4, 3)}, where="head")


_SUM = """
import numpy as np
from protos.update import trees
print(trees.sum_of_squares(np.random.default_rng(1).normal(size=50_000)).hex())
"""


def test_a_sum_of_squares_is_the_same_for_any_number_of_cores() -> None:
    sums = {
        subprocess.run(
            [sys.executable, "-c", _SUM], env={**os.environ, "OPENBLAS_NUM_THREADS": threads}, capture_output=True,
            text=True, check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }  # fmt: skip
    assert len(sums) == 1
    assert float.fromhex(sums.pop()) == pytest.approx(49556.20312036226, rel=1e-14)
