"""Answers for names that are not in a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.catalog import hint, nearest, pick
from protos.errors import ConfigError, UsageError

names = st.text(min_size=1, max_size=12)


@given(names, st.lists(names, unique_by=str.lower, max_size=20))
def test_a_known_name_is_nearest_to_itself_and_the_nearest_is_always_known(name: str, known: list[str]) -> None:
    assert nearest(name, [*(text for text in known if text.lower() != name.lower()), name]) == name
    assert nearest(name, iter(known)) in {None, *known}


def test_case_and_slips_do_not_matter_but_other_words_do() -> None:
    assert nearest("FEDNOVA", ["none", "FedNova"]) == "FedNova"
    assert nearest("momentun", ["rate", "momentum"]) == "momentum"
    assert nearest("zzz", ["rate", "bits"]) is None
    assert nearest("rate", []) is None


def test_a_hint_offers_the_nearest_and_lists_what_can_be_read() -> None:
    assert hint("roundz", ["seed", "rounds"]) == "did you mean 'rounds'? (known: rounds, seed)"
    assert hint("zzz", ["seed", "rounds"]) == "use one of: rounds, seed"
    many = [f"device-{number:03}" for number in range(40)]
    assert hint("device-007x", many) == "did you mean 'device-007'?"
    assert hint("zzz", []) == "leave it out, there are none"


def test_picking_returns_the_entry_or_raises_the_error_asked_for() -> None:
    table = {"iid": 1, "dirichlet": None}
    assert pick(table, "iid", what="partition") == 1
    assert pick(table, "dirichlet", what="partition") is None
    with pytest.raises(UsageError, match="no partition is called 'idd'; did you mean 'iid'"):
        pick(table, "idd", what="partition")
    with pytest.raises(ConfigError) as caught:
        pick(table, "x", what="partition", where="device.toml", error=ConfigError)
    assert str(caught.value) == "device.toml: no partition is called 'x'; use one of: dirichlet, iid"
