"""What devices hold is what the coordinator has on record, whatever the pattern of taking part, loss and restart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from coordinator.budgets.order_line import OrderLine
from coordinator.run.downlink import Downlink, Link, SentHead
from coordinator.store import runs, tables
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import device_heads as shown
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from edge_runtime.round.held_heads import HeldHeads
from protos.convert.head_transfers import MAX_DIFFERENCES, head_to, parse_difference, serialise_difference
from protos.convert.orders import order_from, order_to
from protos.orders import CodecOrder, Holding, TrainOrder
from protos.plan.plan import RunPlan, parse
from protos.update.trees import Tree, norm, subtract, version

CODECS = [
    'codec = "uniform_stochastic"\nbits = 2\nbucket = 64',
    'codec = "entropy_coded"\nbits = 2',
    'codec = "entropy_coded_mmse"\nbits = 1',
    'codec = "sign"',
    'codec = "keep_largest"\nshare = 0.05',
    'codec = "float16"',
    'codec = "float32"',
]


def plan(codec: str) -> RunPlan:
    return parse(f'[run]\nbundle = "b"\nseed = 3\n[downlink]\n{codec}')


def tree(seed: int, scale: float = 1.0) -> Tree:
    rng = np.random.default_rng(seed)
    return {
        "out_bias": (scale * rng.normal(size=5)).astype(np.float32),
        "out_kernel": (scale * rng.standard_t(3, size=(80, 5))).astype(np.float32),
    }


START = tree(0)


def moved(head: Tree, number: int) -> Tree:
    return {name: head[name] + array for name, array in tree(number, 0.05).items()}


def same_bits(left: Tree, right: Tree) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in right)


def over_the_wire(sent: SentHead, number: int) -> TrainOrder:
    order = TrainOrder(
        "run-1", number, "plan-1", "sha256:1", sent.version, sent.whole, 1, {}, CodecOrder("float32", {}), None, 60.0,
        7, sent.base, sent.differences,
    )  # fmt: skip
    back = order_from(type(order_to(order)).FromString(order_to(order).SerializeToString()))
    assert isinstance(back, TrainOrder)
    return back


def as_stored(links: tuple[Link, ...]) -> list[shown.StoredLink]:
    return [shown.StoredLink(link.before, link.after, serialise_difference(link.difference)) for link in links]


def restored(downlink: Downlink) -> Downlink:
    """What a restart makes of it."""
    links = [
        Link(link.before, link.after, parse_difference(link.data), len(link.data)) for link in as_stored(downlink.links)
    ]
    return Downlink(dict(downlink.shown), downlink.start, tuple(links))


DEVICE = st.sampled_from(["takes part", "misses", "restarts", "loses its disk", "takes part twice"])
ROUND = st.tuples(DEVICE, DEVICE, DEVICE, st.booleans())


@given(st.lists(ROUND, min_size=1, max_size=14), st.sampled_from(CODECS))
@settings(max_examples=60)
def test_after_any_pattern_a_device_holds_what_is_on_record(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[Any, ...]], codec: str
) -> None:
    folders = [tmp_path_factory.mktemp("device") for _ in range(3)]
    devices = [HeldHeads(folder) for folder in folders]
    chosen, head = plan(codec), START
    downlink = Downlink(START, version(START))
    for number, (*what, restart) in enumerate(rounds, 1):
        for place, event in enumerate(what):
            if event == "loses its disk":
                for path in folders[place].iterdir():
                    path.unlink()
            if event in ("restarts", "loses its disk"):
                devices[place] = HeldHeads(folders[place])
            if event == "misses":
                continue
            for _ in range(2 if event == "takes part twice" else 1):
                sent = downlink.head_for(devices[place].holding())
                got = devices[place].receive(over_the_wire(sent, number), START)
                assert same_bits(got, downlink.shown)
        if restart:
            downlink = restored(downlink)
        head = moved(head, number)
        again = restored(downlink).after(head, number, chosen)
        downlink = downlink.after(head, number, chosen)
        assert same_bits(again.shown, downlink.shown), "killed before it was written down, it comes out the same"


@pytest.mark.parametrize("codec", CODECS)
def test_the_way_is_never_longer_than_the_head_and_ends_at_it(codec: str) -> None:
    chosen, head = plan(codec), START
    downlink, versions = Downlink(START, "another bundle's head"), [version(START)]
    for number in range(1, 90):
        head = moved(head, number)
        downlink = downlink.after(head, number, chosen)
        versions.append(downlink.version)
        whole = head_to(downlink.version, downlink.whole.whole, "", ()).ByteSize()
        assert len(downlink.links) <= MAX_DIFFERENCES
        for link, following in pairwise(downlink.links):
            assert link.after == following.before
        for held in {versions[0], *versions[-40:]}:
            sent = downlink.head_for(Holding(held, rebuilds=True))
            weight = head_to(sent.version, sent.whole, sent.base, sent.differences).ByteSize()
            assert weight <= whole
    if codec == CODECS[-1]:
        assert not downlink.links
        assert same_bits(downlink.shown, head)
    else:
        assert downlink.links
        assert norm(subtract(head, downlink.shown)) < 3 * norm(tree(1, 0.05))


def test_a_head_that_did_not_move_needs_nothing() -> None:
    downlink = Downlink(START, "").after(moved(START, 1), 1, plan(CODECS[0]))
    assert downlink.after(dict(downlink.shown), 2, plan(CODECS[0])) is downlink
    assert downlink.head_for(Holding(downlink.version, rebuilds=True)) == SentHead(
        downlink.version, base=downlink.version
    )


def test_a_device_is_not_believed_to_rebuild_without_saying_so() -> None:
    downlink = Downlink(START, version(START))
    assert downlink.head_for(Holding(version(START))) == downlink.whole
    assert downlink.head_for(Holding("", rebuilds=True)).base == version(START)


def test_a_code_that_would_not_pay_is_not_sent() -> None:
    tiny = {"w": np.arange(3, dtype=np.float32)}
    next_one = {"w": tiny["w"] + np.float32(0.5)}
    downlink = Downlink(tiny, "").after(next_one, 1, plan(CODECS[1]))
    assert downlink.links == ()
    assert same_bits(downlink.shown, next_one), "what goes whole goes without loss"


@pytest.mark.parametrize("spare_bytes", [-1, 0, 1])
def test_differences_that_weigh_as_much_as_the_whole_are_not_kept(
    spare_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Downlink(START, "").after(moved(START, 1), 1, plan(CODECS[0]))
    # In a message each has a tag and a length beside its bytes.
    weight = first.links[0].size_bytes + 5
    monkeypatch.setattr(Downlink, "room_bytes", property(lambda self: weight + spare_bytes))
    again = Downlink(START, "").after(moved(START, 1), 1, plan(CODECS[0]))
    assert bool(again.links) == (spare_bytes > 0)


@pytest.fixture
def db(tmp_path: Path) -> Any:
    database = Database(sqlite_url(tmp_path / "store.db"))
    with database.writing() as connection:
        initial = heads.put(connection, START)
        runs.add(connection, NewRun("run-1", "digits", "plan-1", "toml", "/", "sha256:1", 3, initial))
        runs.add_round_zero(connection, "run-1", head_version=initial, accuracy=None, loss=None)
        runs.open_round(connection, "run-1", 1, 1, [OrderLine("a", 5, None)], "")
    yield database
    database.close()


def test_what_devices_hold_is_stored_with_the_way_there_and_no_more(db: Database) -> None:
    chosen, head = plan(CODECS[0]), START
    downlink = Downlink(START, version(START))
    with db.reading() as connection:
        assert shown.get(connection, "run-1") is None
    for number in range(1, 40):
        head = moved(head, number)
        downlink = downlink.after(head, number, chosen)
        for _ in range(2):
            with db.writing() as connection:
                shown.put(connection, "run-1", downlink.shown, as_stored(downlink.links))
        with db.reading() as connection:
            found = shown.get(connection, "run-1")
            kept = connection.execute(select(func.count()).select_from(tables.heads)).scalar()
        assert found is not None
        assert same_bits(found[0], downlink.shown)
        assert found[1] == as_stored(downlink.links)
        assert kept == 2, "the starting head and the newest"
    assert len(downlink.links) > 3
    with db.writing() as connection:
        shown.put(connection, "run-1", START, [])
    with db.reading() as connection:
        found = shown.get(connection, "run-1")
        assert found is not None
        assert found[1] == []
        assert connection.execute(select(func.count()).select_from(tables.differences)).scalar() == 0


def test_a_head_that_a_round_made_stays_when_devices_move_on(db: Database) -> None:
    first = moved(START, 1)
    with db.writing() as connection:
        shown.put(connection, "run-1", first, [])
        made = heads.put(connection, first)
        runs.close_round(connection, "run-1", 1, head_version=made, accuracy=None, loss=None)
    with db.writing() as connection:
        shown.put(connection, "run-1", moved(first, 2), [])
    with db.reading() as connection:
        assert same_bits(heads.get(connection, made), first)
