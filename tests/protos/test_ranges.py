"""Numbers within limits, lengths of time: the one reader of each."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.durations import duration_s
from protos.errors import UsageError
from protos.ranges import Range

numbers = st.integers() | st.floats(allow_nan=True, allow_infinity=True)


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), numbers, st.booleans(), st.booleans())
def test_what_is_inside_is_given_back_and_what_is_not_is_refused(
    one: float, other: float, value: float, whole: bool, above: bool
) -> None:
    limits = Range(min(one, other), max(one, other), whole=whole, above=above)
    is_inside = (
        math.isfinite(value)
        and (limits.least < value if above else limits.least <= value)
        and value <= limits.most
        and (not whole or value == math.floor(value))
    )
    if is_inside:
        assert limits.number(value) == value
    else:
        with pytest.raises(ValueError, match=r"^not a"):
            limits.number(value)


@pytest.mark.parametrize("value", [True, "3", None, [], 10**400, -(10**400), math.nan, math.inf, 3.5, 0, 9])
def test_what_is_no_number_or_none_of_these_is_said_in_words(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^not a whole number from 1 to 8$"):
        Range(1, 8, whole=True).integer(value)


@pytest.mark.parametrize("text", ["", "x", "0x10", "nan", "-1", "1e400", "256", "1.5"])
def test_a_text_that_says_none_of_them(text: str) -> None:
    limits = Range(0, 15, whole=True)
    with pytest.raises(ValueError, match=r"^not a whole number from 0 to 15$"):
        limits.read(text)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 week", "0s", "11d", "1e3s", "nan"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"--for: .* is no length of time up to 10 days"):
        duration_s(text, "--for", most_s=10 * 86_400)
