"""Masked sums: bit-equal to the plain sum, whoever drops out; and what nobody can unmask."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import RefusedError, UpdateError
from protos.secure_sum import grid
from protos.secure_sum.party import Keys, Party, Revealed, stream, threshold_of, unmasked
from protos.secure_sum.sharing import PRIME, combine, split

CONTEXT = "run/1/1"
COUNT, WIDTH = 40, 16


class Round:
    """Devices that run the protocol, some of whom drop out before a step."""

    def __init__(self, devices: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        names = [f"pi-{at:02d}" for at in range(devices)]
        self.numbers = {name: random.integers(-900, 900, COUNT) for name in names}
        self.parties = {name: Party(name, CONTEXT) for name in names}
        self.roster: dict[str, Keys] = {}
        self.present: list[str] = []
        self.sent: dict[str, Any] = {}

    def agree(self, without_keys: set[str], without_shares: set[str]) -> None:
        self.roster = {name: party.keys() for name, party in self.parties.items() if name not in without_keys}
        self.threshold = threshold_of(len(self.roster))
        sealed = {
            name: self.parties[name].sealed_shares(self.roster, self.threshold)
            for name in self.roster
            if name not in without_shares
        }
        self.present = sorted(sealed)
        for name in self.present:
            self.parties[name].opened({key: sealed[key][name] for key in self.present if key != name})

    def send(self, silent: set[str]) -> None:
        self.sent = {
            name: self.parties[name].masked(self.numbers[name], WIDTH) for name in self.present if name not in silent
        }

    def total(self) -> Any:
        return sum(self.sent.values(), np.zeros(COUNT, np.uint32))

    def plain(self) -> Any:
        return sum(self.numbers[name] for name in self.sent) % (1 << WIDTH)

    def reveal(self, mute: set[str]) -> dict[str, Revealed]:
        missing = set(self.present) - set(self.sent)
        return {name: self.parties[name].reveal(self.sent, missing) for name in self.sent if name not in mute}

    def unmask(self, revealed: dict[str, Revealed]) -> Any:
        return unmasked(self.total(), WIDTH, CONTEXT, self.roster, self.present, self.sent, revealed, self.threshold)


@settings(max_examples=25, deadline=None)
@given(devices=st.integers(4, 12), data=st.data())
def test_the_unmasked_sum_is_the_plain_sum_whoever_drops_out_at_any_step(devices: int, data: st.DataObject) -> None:
    one = Round(devices, devices)
    names = sorted(one.parties)

    def lost(of: list[str], least: int) -> set[str]:
        return set(data.draw(st.lists(st.sampled_from(of), unique=True, max_size=max(0, len(of) - least))))

    keyless = lost(names, 4)
    need = threshold_of(devices - len(keyless))
    shareless = lost(sorted(set(names) - keyless), max(3, need))
    one.agree(keyless, shareless)
    silent = lost(one.present, max(3, need))
    one.send(silent)
    mute = lost(sorted(one.sent), need)
    np.testing.assert_array_equal(one.unmask(one.reveal(mute)), one.plain())


@pytest.mark.parametrize("step", ["keys", "shares", "sending", "revealing"])
def test_three_of_ten_may_drop_out_at_each_step(step: str) -> None:
    one, lost = Round(10), {"pi-02", "pi-05", "pi-09"}
    one.agree(lost if step == "keys" else set(), lost if step == "shares" else set())
    one.send(lost if step == "sending" else set())
    np.testing.assert_array_equal(one.unmask(one.reveal(lost if step == "revealing" else set())), one.plain())


def test_the_coordinator_cannot_unmask_one_device_from_all_that_it_sees() -> None:
    """With everything that it is told in a round, including the keys behind the masks of those who dropped out."""
    one = Round(6)
    one.agree(set(), set())
    one.send({"pi-05"})
    revealed = one.reveal(set())
    victim = "pi-00"
    # Its own secret can be had, and the masks with who dropped out; those with four others cannot.
    seeds = {at: revealed[name].seeds[victim] for at, name in enumerate(sorted(one.roster), 1) if name in revealed}
    assert combine(dict(list(seeds.items())[: one.threshold]))
    for by in revealed.values():
        assert set(by.keys) == {"pi-05"}, "no share of the key of a device that sent"
    # One device alone is no sum, whatever is asked.
    with pytest.raises(UpdateError):
        unmasked(one.sent[victim], WIDTH, CONTEXT, one.roster, one.present, [victim], revealed, one.threshold)
    # And what it sent looks like noise: it is another each time, and all values come up.
    again = Round(6)
    again.agree(set(), set())
    again.send(set())
    assert (one.sent[victim] != again.sent[victim]).mean() > 0.9
    # Pretending that all others dropped out asks devices for what they do not give.
    fresh = Round(6)
    fresh.agree(set(), set())
    fresh.send(set())
    others = set(fresh.present) - {victim}
    for name in others:
        with pytest.raises(RefusedError):
            fresh.parties[name].reveal([victim], others)
    with pytest.raises(RefusedError, match="hides too little"):
        fresh.parties[victim].reveal([victim], others)


def test_a_device_answers_once_and_never_gives_both_secrets_of_another() -> None:
    one = Round(5)
    one.agree(set(), set())
    party = one.parties["pi-00"]
    everyone = set(one.present)
    for sent, missing in ((everyone, {"pi-01"}), (everyone - {"pi-01"}, set()), (everyone - {"pi-00"}, {"pi-00"})):
        with pytest.raises(RefusedError):
            party.reveal(sent, missing)
    party.reveal(everyone, set())
    with pytest.raises(RefusedError, match="already"):
        party.reveal(everyone - {"pi-01"}, {"pi-01"})
    # Two stories to two halves: neither half is a threshold.
    for devices in range(3, 40):
        assert 2 * threshold_of(devices) > devices


def test_a_roster_in_which_a_change_would_not_stay_hidden_is_refused_by_the_device() -> None:
    one = Round(5)
    roster = {name: party.keys() for name, party in one.parties.items()}
    for keys, threshold, why in (
        ({name: roster[name] for name in ("pi-00", "pi-01")}, 2, "could unmask one"),
        (roster, 2, "could unmask one"),
        (roster, 6, "could unmask one"),
        ({**roster, "pi-00": roster["pi-01"]}, 4, "has not this device's keys"),
        ({**roster, "pi-03": roster["pi-04"]}, 4, "have one key"),
    ):
        with pytest.raises(RefusedError, match=why):
            Party.sealed_shares(_like(one.parties["pi-00"]), keys, threshold)
    good = _like(one.parties["pi-00"])
    sealed = good.sealed_shares(roster, 4)
    with pytest.raises(UpdateError, match="was not sealed for this device"):
        good.opened({"pi-01": sealed["pi-02"]})
    with pytest.raises(UpdateError, match="not in the roster"):
        good.opened({"stranger": b"x"})
    with pytest.raises(RefusedError, match="devices are left"):
        good.opened({})


def _like(party: Party) -> Party:
    """The same device before it saw any roster."""
    import copy

    fresh = copy.copy(party)
    fresh._roster, fresh._shares = {}, {}
    return fresh


def test_false_shares_are_found_out_and_done_without() -> None:
    one = Round(9)
    one.agree(set(), set())
    one.send({"pi-08"})
    revealed = one.reveal(set())
    liar = revealed["pi-00"]
    false = {name: bytes(33) for name in liar.seeds}
    revealed["pi-00"] = replace(liar, seeds=false, keys={name: bytes(33) for name in liar.keys})
    np.testing.assert_array_equal(one.unmask(revealed), one.plain())
    for name in ("pi-01", "pi-02", "pi-03"):
        revealed[name] = revealed["pi-00"]
    with pytest.raises(UpdateError, match="do not give its secret"):
        one.unmask(revealed)


@given(secret=st.binary(min_size=32, max_size=32), threshold=st.integers(1, 6), extra=st.integers(0, 4))
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(secret: bytes, threshold: int, extra: int) -> None:
    shares = split(secret, threshold, threshold + extra)
    for places in itertools.islice(itertools.combinations(range(len(shares)), threshold), 6):
        assert combine({at + 1: shares[at] for at in places}) == secret
    if threshold > 1:
        fewer = {at + 1: shares[at] for at in range(threshold - 1)}
        with contextlib.suppress(UpdateError):
            assert combine(fewer) != secret
    with pytest.raises(UpdateError):
        combine({1: PRIME.to_bytes(33, "little")})


def test_the_grid_is_unbiased_bounded_and_wide_enough_for_its_sum() -> None:
    random = np.random.default_rng(0)
    change = {"a": random.normal(size=200).astype(np.float32), "b": np.float32([[1e-9, 0.0]])}
    seen = np.mean([grid.quantised(change, 1.0, 8, np.random.default_rng(at)) for at in range(3000)], axis=0)
    size = np.sqrt(sum(float((one.astype(np.float64) ** 2).sum()) for one in change.values()))
    flat = np.concatenate([change["a"], change["b"].reshape(-1)]) / size * 127
    np.testing.assert_allclose(seen, flat, atol=0.05)
    assert abs(grid.quantised({"a": np.float32([1e30])}, 1.0, 8, random)).max() <= 127
    for bits, devices in itertools.product((4, 8, 16, 24), (3, 10, 200)):
        width = grid.width_of(bits, devices)
        for number in (grid.largest(bits), -grid.largest(bits)):
            total = np.full(4, devices * number % (1 << width), np.uint32)
            values = grid.values_of(total, width, 1.0, bits, {"x": (4,)})["x"]
            np.testing.assert_allclose(values, devices * np.sign(number), rtol=1e-12)
            np.testing.assert_array_equal(grid.from_bytes(grid.to_bytes(total, width), width, 4), total)
    with pytest.raises(UpdateError, match="fewer bits"):
        grid.width_of(24, 10_000)
    with pytest.raises(UpdateError):
        grid.from_bytes(b"123", 16, 2)


def test_the_stream_is_chacha20_as_published() -> None:
    """RFC 8439, appendix A.1, test vector 1: all-zero key, nonce and counter."""
    assert stream(bytes(32), 4).astype("<u4").tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"
