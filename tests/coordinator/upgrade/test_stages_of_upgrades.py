"""Who gets a new version when, and when it is stopped: the rules alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coordinator.store.upgrades import Row
from coordinator.upgrade.stages import BEYOND_S, DONE, decided, lost, order, stages_of

HERE, AWAY = (lambda name: True), (lambda name: False)


def rows(**states: str) -> dict[str, Row]:
    """By name: its stage is the last character."""
    return {name: Row(name, int(name[-1]), state) for name, state in states.items()}


def test_the_next_stage_waits_for_every_canary_also_for_one_that_is_away() -> None:
    for state in ("waiting", "offered", "checked", "trial"):
        assert decided(rows(a0="kept", b0=state, c1="waiting"), 0, 1, AWAY) == ("on", "", 0)
    assert decided(rows(a0="kept", b0="kept", c1="waiting"), 0, 1, HERE) == ("on", "", 1)


def test_a_wave_waits_for_who_has_begun_and_not_for_who_is_away() -> None:
    assert decided(rows(a0="kept", b1="trial", c2="waiting"), 1, 1, AWAY)[2] == 1
    assert decided(rows(a0="kept", b1="waiting", c2="waiting"), 1, 1, HERE)[2] == 1
    assert decided(rows(a0="kept", b1="waiting", c2="waiting"), 1, 1, AWAY)[2] == 2
    assert decided(rows(a0="kept", b1="failed", c2="waiting"), 1, 1, HERE)[2] == 2


def test_one_canary_stops_all_and_others_as_many_as_may_not() -> None:
    assert decided(rows(a0="failed", b0="kept", c1="waiting"), 0, 9, HERE)[0] == "stopped"
    assert decided(rows(a0="kept", b1="failed", c1="waiting"), 1, 1, HERE)[0] == "on"
    state, why, _ = decided(rows(a0="kept", b1="failed", c1="failed", d1="waiting"), 1, 1, HERE)
    assert (state, why) == ("stopped", "2 devices failed (b1, c1), and 1 may")
    assert decided(rows(a0="kept", b1="failed"), 1, 1, HERE)[:2] == ("finished", "1 of 2 devices keep it")


def test_who_has_begun_and_does_not_come_back_has_failed() -> None:
    begun = [Row("a", 0, "trial", changed_unix_s=0.0), Row("b", 0, "waiting"), Row("c", 0, "kept")]
    assert not lost(begun, BEYOND_S + 1200.0, 600.0, lambda name: BEYOND_S + 1200.0)
    # Whatever the wall clock says: one that is here, or that nobody has listened for, is not lost.
    assert not lost(begun, BEYOND_S + 9e9, 600.0, lambda name: 0.0)
    (gone,) = lost(begun, BEYOND_S + 1201.0, 600.0, lambda name: BEYOND_S + 1201.0)
    assert (gone.device_id, gone.state, gone.reason) == ("a", "failed", "did not come back")


@given(
    st.lists(st.sampled_from("abcdefghij"), min_size=1, unique=True),
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(0, 3),
    st.data(),
)
def test_whatever_devices_say_stages_only_grow_and_nobody_behind_the_open_one_begins(
    names: list[str], canaries: int, wave: int, may_fail: int, data: st.DataObject
) -> None:
    known = {row.device_id: row for row in order(names, HERE, canaries, wave)}
    assert sorted(known) == sorted(names)
    assert sum(row.stage == 0 for row in known.values()) == min(canaries, len(names))
    stage = 0
    for _ in range(60):
        present = data.draw(st.sets(st.sampled_from(names)))
        state, _, after = decided(known, stage, may_fail, present.__contains__)
        assert stage <= after < stages_of(known)
        stage = after
        if state != "on":
            failed = [row.stage for row in known.values() if row.state == "failed"]
            stopped = 0 in failed or len(failed) > may_fail
            assert state == ("stopped" if stopped else "finished")
            return
        going = [row for row in known.values() if row.stage <= stage and row.state not in DONE]
        if going:
            one = data.draw(st.sampled_from(going))
            said = data.draw(st.sampled_from(["offered", "checked", "trial", "kept", "failed"]))
            known[one.device_id] = replace(one, state=said)
            if stage == 0 and canaries:
                assert all(other.state == "waiting" for other in known.values() if other.stage > 0)
