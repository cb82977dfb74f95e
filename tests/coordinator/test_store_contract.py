"""One suite over every database: what is written comes back, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from sqlalchemy import event
from stored_runs import accept, head, report_of, started

from coordinator.budgets.order_line import OrderLine
from coordinator.store import devices, reading, reports, runs
from coordinator.store.database import Database
from coordinator.store.models import device_heads as shown
from coordinator.store.models import heads
from coordinator.store.models.device_heads import StoredLink
from protos.errors import UnknownRunError
from protos.orders import DeviceCard, Engine, MeterCard, StopReason, Strain
from protos.update.trees import version


def test_heads_come_back_bit_for_bit_and_are_kept_once(db: Database) -> None:
    tree = head()
    tree["out_bias"][:] = [-0.0, 1e-45, 1 / 3]
    with db.writing() as connection:
        assert heads.put(connection, tree) == heads.put(connection, tree) == version(tree)
    with db.reading() as connection:
        back = heads.get(connection, version(tree))
        with pytest.raises(UnknownRunError):
            heads.get(connection, "head-none")
    for name in tree:
        assert back[name].tobytes() == tree[name].tobytes()
        assert back[name].shape == tree[name].shape


def test_reports_come_back_as_they_came_in_the_order_of_acceptance(db: Database) -> None:
    started(db)
    sent = [accept(db, report_of("b")), accept(db, report_of("a"))]
    with db.reading() as connection:
        assert list(reports.in_order(connection, "run-1", 1)) == [(1, one) for one in sent]
        assert reports.devices_in(connection, "run-1", 1) == ["b", "a"]
        assert reports.holds(connection, "run-1", 1, "a")
        assert not reports.holds(connection, "run-1", 2, "a")


def test_what_a_device_had_to_bear_comes_back_and_silence_stays_silence(db: Database) -> None:
    started(db)
    strain = Strain(42.5, 3.25, 81.25, throttled=True)
    accept(db, dataclasses.replace(report_of("a"), strain=strain, stop_reason=StopReason.HEAT))
    accept(db, report_of("b"))
    with db.reading() as connection:
        by_name = {device.device_id: device for device in reading.run_status(connection, "run-1").rounds[1].devices}
    assert (by_name["a"].strain, by_name["a"].stop_reason) == (strain, StopReason.HEAT)
    assert (by_name["b"].strain, by_name["b"].stop_reason) == (None, StopReason.COMPLETED)


def test_what_devices_hold_comes_back_with_the_way_there(db: Database) -> None:
    started(db)
    links = [StoredLink("head-a", "head-b", b"\0\xff"), StoredLink("head-b", "head-c", b"")]
    for seed, kept in ((1, links[:1]), (2, links), (3, links[1:])):
        with db.writing() as connection:
            shown.put(connection, "run-1", head(seed), kept)
        with db.reading() as connection:
            found = shown.get(connection, "run-1")
            assert found is not None
            assert version(found[0]) == version(head(seed))
            assert found[1] == kept
            assert shown.get(connection, "run-2") is None
            with pytest.raises(UnknownRunError):
                heads.get(connection, version(head(seed - 1))) if seed > 1 else heads.get(connection, "head-none")


def test_who_did_not_report_is_missing_and_a_retry_keeps_who_did(db: Database) -> None:
    started(db)
    accept(db, report_of("a"))
    with db.writing() as connection:
        runs.abandon_round(connection, "run-1", 1, "the deadline passed")
    with db.reading() as connection:
        outcomes = [device.outcome for device in reading.run_status(connection, "run-1").rounds[1].devices]
    assert outcomes == ["accepted", "missing"]
    with db.writing() as connection:
        runs.open_round(connection, "run-1", 1, 2, [OrderLine("b", 9, None), OrderLine("c", 1, None)], "")
    with db.reading() as connection:
        found = reading.run_status(connection, "run-1").rounds[1]
    assert [(device.device_id, device.outcome, device.steps_planned) for device in found.devices] == [
        ("a", "accepted", 5),
        ("b", "ordered", 7),
        ("c", "ordered", 1),
    ]


def test_the_last_heads_are_those_of_closed_rounds_before_one_the_newest_first(db: Database) -> None:
    started(db)
    with db.writing() as connection:
        versions = [version(head())]
        for number in (1, 2, 3):
            if number > 1:
                runs.open_round(connection, "run-1", number, 1, [OrderLine("a", 5, None)], "")
            versions.append(heads.put(connection, head(number)))
            runs.close_round(connection, "run-1", number, head_version=versions[-1], accuracy=None, loss=None)
        # One that is open, and one that was given up, have none.
        runs.open_round(connection, "run-1", 4, 1, [OrderLine("a", 5, None)], "")
    with db.reading() as connection:
        found = [runs.last_heads(connection, "run-1", before) for before in range(6)]
        assert found == [[], *([*reversed(versions[:before])][:2] for before in (1, 2, 3, 4, 4))]
        assert runs.newest_head(connection, "run-1") == versions[3]
    with db.writing() as connection:
        runs.abandon_round(connection, "run-1", 4, "the deadline passed")
        assert runs.last_heads(connection, "run-1", 5) == [versions[3], versions[2]]


def test_bytes_that_were_sent_add_up_by_device_and_round(db: Database) -> None:
    started(db)
    with db.writing() as connection:
        runs.add_bytes_down(connection, "run-1", 1, {"a": 300, "b": 0, "nobody": 5})
        runs.add_bytes_down(connection, "run-1", 1, {"a": 40, "b": 7})
        runs.add_bytes_down(connection, "run-1", 1, {})
        runs.add_bytes_down(connection, "run-1", 2, {"a": 1000})
    with db.reading() as connection:
        told = {
            device.device_id: device.bytes_down for device in reading.run_status(connection, "run-1").rounds[1].devices
        }
    assert told == {"a": 340, "b": 7}


def test_refusals_are_counted_by_reason(db: Database) -> None:
    started(db)
    for _ in range(3):
        with db.writing() as connection:
            reports.refuse(connection, "run-1", 1, "a", "wrong_head", "trained with another")
    with db.reading() as connection:
        whole = reading.run_status(connection, "run-1")
        page, following = reading.run_page(connection, "run-1", 1, 1)
        first, begin = reading.run_part(connection, "run-1", reading.Cursor(1), 1)
        second, over = reading.run_part(connection, "run-1", begin, 1)
    a, b = whole.rounds[-1].devices
    assert (page.rounds, following) == (whole.rounds[1:], 0), "a page has all that is of its last round"
    assert (begin.round, begin.after, over) == (1, "a", reading.Cursor())
    assert first.rounds[0].devices + second.rounds[0].devices == whole.rounds[1].devices
    assert [(refusal.code, refusal.count, refusal.detail) for refusal in a.refusals] == [
        ("wrong_head", 3, "trained with another")
    ]
    assert b.refusals == ()


def test_runs_are_found_by_id_prefix_and_name(db: Database) -> None:
    started(db, "run-abc1", "one%")
    started(db, "run-abd2", "two")
    with db.reading() as connection:
        find: Callable[[str], str] = lambda name: runs.resolve(connection, name)  # noqa: E731
        assert [find("run-abc1"), find("run-abd"), find("abc"), find("two"), find("one%")] == [
            "run-abc1", "run-abd2", "run-abc1", "run-abd2", "run-abc1",
        ]  # fmt: skip
        with pytest.raises(UnknownRunError, match="means 2 runs"):
            find("run-ab")
        with pytest.raises(UnknownRunError, match="no run"):
            find("run-%")


def test_devices_are_remembered_across_a_reopening(url: str) -> None:
    card = DeviceCard("a", "s1", "0", "pi4", Engine("e", "1", "d"), MeterCard("measured", "x"), 40, 10, 2.5)
    first = Database(url)
    with first.writing() as connection:
        devices.join(connection, card)
        devices.join(connection, card)
        devices.leave(connection, "a")
    first.close()
    second = Database(url)
    with second.reading() as connection:
        (known,) = devices.known(connection)
    second.close()
    assert (known.card, known.left) == (card, True)


def test_links_that_stay_are_not_written_again_and_new_ones_follow_the_last(db: Database) -> None:
    started(db)
    links = [StoredLink(f"v{at}", f"v{at + 1}", bytes([at])) for at in range(6)]
    written: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if "differences" in statement and not statement.lstrip().upper().startswith("SELECT"):
            written.append(statement.split()[0].upper())

    for wanted, inserts, deletes in (
        (links[:3], 3, 0), (links[1:4], 1, 1), (links[3:5], 1, 2), (links[4:], 1, 1), (links[4:], 0, 0), ([], 0, 2),
    ):  # fmt: skip
        written.clear()
        with db.writing() as connection:
            event.listen(connection, "before_cursor_execute", note)
            shown.put(connection, "run-1", head(), wanted)
            held = shown.get(connection, "run-1")
        assert held is not None
        assert held[1] == wanted
        assert (written.count("INSERT"), written.count("DELETE")) == (inserts, deletes)
