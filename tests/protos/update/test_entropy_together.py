"""Codes decoded side by side are the numbers of each decoded alone, to the bit, whatever else is among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protos.errors import UpdateError
from protos.update import codecs, tensors
from protos.update.entropy import rans
from protos.update.entropy.reader import DecodedAhead
from protos.update.tensors import EncodedTensor, decode
from protos.update.trees import Shapes, shapes

Update = tuple[EncodedTensor, ...]
MANY = 2 * rans.SIDE_BY_SIDE


def _updates(name: str, number: int, **parameters: float) -> tuple[list[Update], Shapes]:
    codec = codecs.build(name, codecs.resolve(name, parameters, where="test"), where="test")
    made = []
    for seed in range(6):
        # Levels differ, and with them tables.
        rng = np.random.default_rng(seed % 3)
        tree = {
            "bias": (rng.normal(size=4) * 1e-3 * rng.uniform(1, 3)).astype(np.float32),
            "kernel": (rng.laplace(size=(60, 4)) * 1e-3).astype(np.float32),
            "still": np.zeros(5, np.float32),
        }
        made.append(codec.encode(tree, codec.init(shapes(tree)), codecs.generator(seed, "test"))[0])
    return [made[at % len(made)] for at in range(number)], shapes(tree)


def _read(update: Update, expected: Shapes) -> Any:
    """Numbers, or why there are none."""
    try:
        return decode(update, expected)
    except UpdateError as error:
        return str(error)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def _decoded_ahead(updates: list[Update]) -> int:
    return sum(isinstance(update[0].values, DecodedAhead) for update in updates)


@pytest.mark.parametrize("name", ["entropy_coded", "entropy_coded_mmse"])
@pytest.mark.parametrize("parameters", [{}, {"bits": 6.0}, {"per_tensor": 1.0}])
def test_codes_decoded_side_by_side_are_the_numbers_of_each_alone(name: str, parameters: dict[str, float]) -> None:
    updates, expected = _updates(name, MANY, **parameters)
    ahead = tensors.ahead([(update, expected) for update in updates])
    assert _decoded_ahead(ahead) >= rans.SIDE_BY_SIDE
    for one, other in zip(updates, ahead, strict=True):
        # Twice: what was decoded ahead is not used up.
        assert _is_same(decode(one, expected), decode(other, expected))
        assert _is_same(decode(one, expected), decode(other, expected))


def test_codes_of_some_of_the_coordinates_are_read_too() -> None:
    updates, expected = _updates("entropy_coded", MANY, bits=0.4)
    for one, other in zip(updates, tensors.ahead([(update, expected) for update in updates]), strict=True):
        assert _is_same(decode(one, expected), decode(other, expected))


def test_few_codes_are_left_as_they_are() -> None:
    updates, expected = _updates("entropy_coded", rans.SIDE_BY_SIDE - 1)
    assert tensors.ahead([(update, expected) for update in updates]) == updates


def test_damaged_codes_harm_nobody_beside_them() -> None:
    updates, expected = _updates("entropy_coded", MANY)
    codes = [update[0].values.codes for update in updates[:8]]  # type: ignore[union-attr]
    changes: list[dict[str, Any]] = [
        {"codes": codes[0][:-2]},
        {"codes": codes[1] + b"\1\2"},
        {"codes": codes[2][:-1]},
        {"codes": b""},
        {"codes": b"\0\0\0\0" + codes[4][4:]},
        {"codes": bytes([codes[5][0] ^ 1]) + codes[5][1:]},
        {"codes": codes[6][:20] + bytes([codes[6][20] ^ 0x80]) + codes[6][21:]},
        {"codes": codes[7][:-2] + bytes([codes[7][-2] ^ 4, codes[7][-1]])},
        {"table": b""},
        {"levels": b"\1"},
        {"tails": b"\xff" * 4},
        {"step": 0.0},
    ]
    for at, change in enumerate(changes):
        (tensor,) = updates[at]
        updates[at] = (replace(tensor, values=replace(tensor.values, **change)),)
    ahead = tensors.ahead([(update, expected) for update in updates])
    alone = [_read(update, expected) for update in updates]
    assert all(isinstance(alone[at], str) for at in (0, 1, 2, 3, 4, 8, 9, 10, 11))
    assert _decoded_ahead(ahead) >= rans.SIDE_BY_SIDE
    assert all(_is_same(one, _read(update, expected)) for one, update in zip(alone, ahead, strict=True))


def test_codes_of_another_head_are_refused_as_ever() -> None:
    updates, expected = _updates("entropy_coded", rans.SIDE_BY_SIDE)
    reshaped = dict(expected) | {"bias": (2, 2)}
    for update in tensors.ahead([(update, expected) for update in updates]):
        with pytest.raises(UpdateError, match="declared shape"):
            decode(update, reshaped | {"still": (9,)})
        # As many coordinates, in arrays of another shape: read as they are expected.
        assert decode(update, reshaped)["bias"].shape == (2, 2)
