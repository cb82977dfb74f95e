"""The entropy coder gives back what it took, and its tables are the same integers everywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import UpdateError
from protos.update.entropy import rans
from protos.update.entropy.contexts import contexts, level_of
from protos.update.entropy.densities import SHAPES, rows
from protos.update.entropy.frequencies import MAX_OCTAVES, MAX_REACH, head, read, stored
from protos.update.entropy.histograms import Tally, begins, fit
from protos.update.quantised import dither


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300))
def test_the_entropy_coder_gives_back_what_it_took(symbols: list[int]) -> None:
    tokens = np.array(symbols, np.int64)
    frequencies = (np.bincount(tokens, minlength=10)[None, :] > 0) * 1
    frequencies[0, tokens[0]] += (1 << 15) - frequencies.sum()
    data = rans.encode(tokens, frequencies, 15)
    assert rans.decode(data, frequencies, 15, tokens.size).tolist() == symbols


@pytest.mark.parametrize("count", [1, 4095, 65_535, 65_536, 65_537, 90_001])
@pytest.mark.parametrize("contexts", [1, 5])
def test_streams_of_one_lane_and_of_many_give_back_what_they_took(count: int, contexts: int) -> None:
    rng = np.random.default_rng(count)
    frequencies = np.array([[900, 3, 0, 120, 1], [1, 500, 500, 0, 23], [0, 0, 1024, 0, 0]] * 2)[:contexts]
    row = rng.integers(contexts, size=count)
    symbols = (rng.integers(1024, size=count)[:, None] >= np.cumsum(frequencies, axis=1)[row]).sum(axis=1)
    data = rans.encode(symbols + 5 * row, frequencies, 10)
    assert rans.decode(data, frequencies, 10, count, row).tolist() == symbols.tolist()
    for damaged in (data[:-2], data + b"\0\0", data[:3] + b"\xff" + data[4:]):
        with pytest.raises(UpdateError):
            rans.decode(damaged, frequencies, 10, count, row)


@pytest.mark.parametrize("form", range(1, 6))
@pytest.mark.parametrize("level", [1, 49, 90, 255])
@pytest.mark.parametrize("dithered", [True, False])
def test_every_density_is_a_table_in_which_all_symbols_occur(form: int, level: int, dithered: bool) -> None:
    model, placed = read(bytes([form + 24 * dithered, 63, 24 + 64]), [level], dithered=dithered)
    assert (model.frequencies.sum(axis=1) == 1 << model.precision).all()
    assert model.frequencies.min() >= 1
    assert model.frequencies.shape == (placed.count, 175)


def test_a_density_is_what_numbers_of_that_mean_are_like() -> None:
    """The cost of Laplacian numbers with the rows made for them, beside what a table of their own frequencies needs."""
    values = np.random.default_rng(5).laplace(size=200_000) * 3
    model, _ = read(bytes([3, 63, 0]), [level_of(3.0)], dithered=False)
    counts = np.bincount(np.rint(values).astype(int).clip(-63, 63) + 63, minlength=127)
    share = counts[counts > 0] / counts.sum()
    own = -float(share @ np.log2(share))
    made = -float(share @ np.log2(model.frequencies[0, counts > 0] / (1 << model.precision)))
    assert own < made < own + 0.006


def test_tables_are_the_same_integers_on_every_machine() -> None:
    rows = [read(bytes([form, 4, 2]), [52], dithered=False)[0].frequencies[0].tolist() for form in range(1, 6)]
    assert rows == FIXED
    digest = hashlib.sha256()
    for form in range(1, 6):
        for level in (1, 20, 40, 56, 70, 120):
            digest.update(read(bytes([form + 24, 28, 6 + 64]), [level], dithered=True)[0].frequencies.tobytes())
    assert digest.hexdigest() == DIGEST
    # Numbers of a large mean in a table of few and many octaves: the weights of its tails are held at their most.
    wide = hashlib.sha256()
    for form in range(1, 6):
        for level in (160, 230):
            wide.update(read(bytes([form, 1, 18]), [level], dithered=False)[0].frequencies.tobytes())
    assert wide.hexdigest() == WIDE_DIGEST
    # Places where a weight lies so near the next integer that one more or less in every weight shows.
    near = hashlib.sha256()
    for form, reach, octaves, level, dithered in NEAR:
        near.update(read(bytes([form, reach, octaves]), [level], dithered=dithered)[0].frequencies.tobytes())
    assert near.hexdigest() == NEAR_DIGEST


FIXED = [
    [421, 1519, 3801, 6589, 7922, 6589, 3801, 1519, 421, 81, 12, 81, 12],
    [325, 1105, 3091, 6798, 9926, 6798, 3091, 1105, 325, 81, 21, 81, 21],
    [595, 1286, 2778, 6005, 10518, 6005, 2778, 1286, 595, 275, 186, 275, 186],
    [534, 955, 1914, 4860, 14932, 4860, 1914, 955, 534, 321, 334, 321, 334],
    [452, 1069, 2781, 6726, 9932, 6726, 2781, 1069, 452, 214, 176, 214, 176],
]
DIGEST = "24a24e9425967c9c174ebf2449a36cb35adcdbd869a4562bcabb2452788d554f"
WIDE_DIGEST = "dedb069e10edee50555afbe254640f8a595955734c36fdfadd02591fc2c4087a"
NEAR = [
    (1, 30, 110, 42, True), (1, 24, 238, 54, False), (25, 37, 70, 41, True), (26, 59, 88, 56, True),
    (10, 14, 199, 40, True), (3, 24, 80, 27, True), (11, 44, 69, 36, True), (11, 40, 34, 37, True),
    (12, 55, 240, 14, True), (28, 60, 76, 22, True), (29, 62, 227, 7, True), (13, 56, 54, 111, True),
]  # fmt: skip
NEAR_DIGEST = "334f2f1ce91b0003d8def3410d3964b96aa3165dfcd9f271c249ae6f233ad089"


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_few_numbers_are_priced_by_every_density_and_many_by_those_that_matter(shape: int) -> None:
    """Numbers whose counts are those of a density: a small message may name it, a large one writes a table instead."""
    level = level_of(1.2)
    density, _ = read(head(shape, 1, 6, 0, 0), (level,), dithered=False)
    shares = density.frequencies[0].astype(np.float64)
    few, many = (_tally(np.rint(shares / shares.sum() * count).astype(np.int64), level) for count in (400, 1 << 19))
    model, cost = fit(few)
    every = {form: fit(few, (form,))[1] for form in (0, *SHAPES)}
    assert cost == min(every.values()) == every[shape]
    assert model.data[0] & 7 == shape
    assert fit(many)[1] == min(fit(many, (form,))[1] for form in (0, 1, 3))


def _tally(counts: Any, level: int) -> Tally:
    central = np.zeros((1, 2 * MAX_REACH + 1), np.int64)
    middle, reach = central.shape[1] // 2, (len(counts) - 1) // 2
    central[0, middle - reach : middle + reach + 1] = counts
    return Tally(central, np.zeros((1, 2, MAX_OCTAVES), np.int64), (level,), 0, 1, dithered=False)


@pytest.mark.parametrize("reach", [1, 2, 6, 28, 42, 62, MAX_REACH])
def test_what_lies_past_a_reach_is_counted_by_side_and_octave_of_its_distance(reach: int) -> None:
    random = np.random.default_rng(reach)
    central = random.integers(0, 9, (2, 2 * MAX_REACH + 1))
    tails = random.integers(0, 3, (2, 2, MAX_OCTAVES)) * (reach == MAX_REACH)
    octaves = MAX_OCTAVES if reach == MAX_REACH else (MAX_REACH - reach).bit_length()
    found = Tally(central, tails, (40, 50), 0, 1, dithered=False).symbols(reach, octaves)
    expected = np.zeros((2, 2 * reach + 1 + 2 * octaves), np.int64)
    for row in range(2):
        for at, count in enumerate(central[row].tolist()):
            number = at - MAX_REACH
            past = abs(number) - reach
            place = 2 * reach + 1 + octaves * (number > 0) + past.bit_length() - 1 if past > 0 else number + reach
            expected[row, place] += count
        expected[row, 2 * reach + 1 :] += tails[row, :, :octaves].ravel()
    assert found.tolist() == expected.tolist()


def test_a_dither_is_the_words_of_its_seed() -> None:
    """The leading bit is the sign, the other fifteen are the size in 65536ths, and half of one more: never 0 or 1/2."""
    drawn, made = dither.words(7, dither.DITHER, 70_001), dither.Dither.made(7, 70_001)
    assert drawn[:6].tolist() == WORDS
    assert made.place.tolist() == [one % 32768 for one in drawn.tolist()]
    assert made.size.tolist() == [(one % 32768 + 0.5) / 65536 for one in drawn.tolist()]
    assert made.sign.tolist() == [1.0 - 2.0 * (one >= 32768) for one in drawn.tolist()]
    every = made.every(7)
    assert (every.size[1], every.sign[1], every.place[1]) == (made.size[7], made.sign[7], made.place[7])


WORDS = [23757, 57033, 62741, 50471, 7660, 57400]


@pytest.mark.parametrize("levels", [(30,), (30, 30), (30, 44), (44, 30), (12, 30, 60)])
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_each_coordinate_has_the_row_of_its_tensor_and_of_the_part_that_its_dither_is_in(
    levels: tuple[int, ...], parts: int
) -> None:
    placed = contexts(levels, 0, parts)
    sizes = [5 + 3 * at for at in range(len(levels))]
    place = dither.Dither.made(3, sum(sizes)).place if parts > 1 else None
    found = placed.spread(sizes, place)
    owner = [at for at, size in enumerate(sizes) for _ in range(size)]
    # The size of a dither is 0 to 1/2, in 65536ths: up to 32768.
    expected = [
        int(placed.first[at]) + (0 if place is None else int(place[number]) * int(placed.rows_of[at]) // 32768)
        for number, at in enumerate(owner)
    ]
    assert ([found] * sum(sizes) if isinstance(found, int) else found.tolist()) == expected


def test_stored_weights_are_in_proportion_to_the_counts_and_no_symbol_that_occurs_is_lost() -> None:
    counts = np.array([[100_000, 5_000, 30, 1, 0], [3, 3, 6, 0, 0], [0, 0, 0, 0, 0]])
    kept = np.frombuffer(stored(counts), np.uint8).reshape(counts.shape).astype(np.int64)
    weights = ((16 + (kept & 15)) << (kept >> 4)) - 16
    # Five bits of mantissa: within 1/32, beside the 16 that are taken off.
    np.testing.assert_allclose(weights[0, :3] / weights[0, 0], counts[0, :3] / 100_000, rtol=1 / 16, atol=1e-5)
    assert weights[0, 3] > 0 == weights[0, 4]
    np.testing.assert_allclose(weights[1, :3] / weights[1, 2], [0.5, 0.5, 1.0], rtol=1 / 16)
    assert len({*weights[2].tolist()}) == 1, "a row that never occurs is even"


def test_counts_are_stored_with_five_bits_behind_the_largest_power_of_two():
    """The largest is made 30 << 15, the others in proportion, plus 16: 4 bits of exponent, 4 of mantissa."""
    assert list(stored(np.array([[4, 2, 1, 0]]))) == [16 * 15 + 14, 16 * 14 + 14, 16 * 13 + 14, 0]
    assert list(stored(np.array([[0, 0]]))) == [16 * 15 + 14] * 2, "a row that never occurs is even"


def test_a_row_begins_at_the_same_place_whether_there_is_one_or_one_for_each_coordinate() -> None:
    each = begins(np.array([0, 1, 5]))
    assert isinstance(each, np.ndarray)
    assert [begins(0), begins(1), begins(5)] == each.tolist()


def test_rows_that_are_kept_for_the_next_caller_cannot_be_changed_by_this_one() -> None:
    found = rows(1, 3, 0, 1, False, 4, 3, 15)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 7
