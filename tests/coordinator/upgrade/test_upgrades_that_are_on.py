"""An upgrade that is on, in a real database, with a real fleet and a real register: what time and others do to it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from coordinator.operator.upgrades import UpgradeStatus, UpgradeWanted
from coordinator.run.workers import Store, Worker
from coordinator.server import upgrades as module
from coordinator.server.fleet import Fleet
from coordinator.server.upgrades import Upgrades, UpgradesTrust
from coordinator.store import clock
from coordinator.store.database import Database, sqlite_url
from coordinator.store.tables import upgrades as table
from coordinator.trust import signing
from coordinator.trust.authority import Authority
from coordinator.trust.register import Register
from coordinator.upgrade.stages import BEYOND_S
from protos.errors import RefusedError
from protos.orders import DeviceCard, Engine, MeterCard, UpgradeState
from protos.trust.names import PeerName, Role
from protos.trust.signed import signature_of

TRIAL_S = 600.0


class Home:
    """A coordinator's folder: its authority, its register and its database; started as often as a test wants.

    Attributes:
        now_s: the clock of silence.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 1000.0
        self.authority = Authority.create(folder / "trust")
        signing.write_signers(folder / "trust", [signing.make_key(folder / "trust" / signing.KEY_FILE)], 1)
        self.register = Register(folder / "trust")

    def enrol(self, *names: str) -> None:
        for name in names:
            issued, _ = self.authority.operator(name, Role.DEVICE)
            self.register.issued(issued, who="test", what="device enrolled")
            assert self.register.valid(PeerName(Role.DEVICE, name))

    def wanted(self, number: int) -> tuple[UpgradeWanted, bytes]:
        data = f"version {number}".encode()
        path = self.folder / f"edgejoule-9.{number}.0-py3-none-any.whl"
        path.write_bytes(data)
        keys = [self.folder / "trust" / signing.KEY_FILE]
        signing.sign(self.folder / "trust", path, keys, line="edgejoule", days=9.0, version=number)
        digest, signature = hashlib.sha256(data).digest(), signature_of(path).read_bytes()
        return UpgradeWanted(path.name, len(data), digest, signature, ("all",), 1, 10, 1, TRIAL_S), data

    @asynccontextmanager
    async def started(self) -> AsyncIterator[tuple[Upgrades, Fleet]]:
        thread, trusted, fleet = Worker("store"), Worker("trust"), Fleet()
        db = Database(sqlite_url(self.folder / "coordinator.db"))
        trust = UpgradesTrust(self.authority, self.register, trusted)
        upgrades = Upgrades(Store(db, thread), fleet, lambda: None, lambda: self.now_s, trust)
        await upgrades.open()
        watch = asyncio.create_task(upgrades.watch())
        try:
            yield upgrades, fleet
        finally:
            watch.cancel()
            for worker in (thread, trusted):
                worker.close()
            db.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    made = Home(tmp_path)
    with closing(made.register):
        yield made


def card(name: str) -> DeviceCard:
    meter = MeterCard("unknown", "none", "", "")
    return DeviceCard(
        device_id=name, session="s1", software_version="0.9.0", board="test", engine=Engine("test", "1", ""),
        meter=meter, train_examples=8, test_examples=0, budget_j=None,
    )  # fmt: skip


async def shows(upgrades: Upgrades, so: Callable[[UpgradeStatus], bool]) -> UpgradeStatus:
    async with asyncio.timeout(20):
        while not so(shown := await upgrades.one("")):
            await asyncio.sleep(0.01)
    return shown


def states(shown: UpgradeStatus) -> dict[str, str]:
    return {device.device_id: device.state for device in shown.devices}


def run(home: Home, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """By clocks that the test turns, the wall's as well."""
    begun_s, begun_unix_s = home.now_s, time.time()
    with clock.shown(lambda: home.now_s, lambda: begun_unix_s + home.now_s - begun_s):
        asyncio.run(work())


def test_a_coordinator_that_was_down_for_a_day_gives_a_board_on_trial_its_time_to_come_back(home: Home) -> None:
    async def work() -> None:
        home.enrol("pi-1")
        async with home.started() as (upgrades, fleet):
            fleet.join(card("pi-1"), home.now_s, 0.0)
            begun = await upgrades.start(*home.wanted(1), "test")
            await upgrades.offer("pi-1", UpgradeState())
            await upgrades.heard("pi-1", UpgradeState(begun.upgrade_id, "trial"))
            fleet.leave("pi-1", "s1", 0.0)
        home.now_s += 86_400.0
        async with home.started() as (upgrades, fleet):
            fleet.remember(card("pi-1"), left=True, seen_unix_s=0.0)
            home.now_s += BEYOND_S + 2 * TRIAL_S
            await asyncio.sleep(0.1)
            assert states(await upgrades.one("")) == {"pi-1": "trial"}, "it had no chance yet to say what came of it"
            home.now_s += 1.0
            shown = await shows(upgrades, lambda shown: shown.state == "stopped")
            assert shown.reason == "canary pi-1 failed: did not come back"

    run(home, work)


def test_a_board_that_lost_what_it_had_begun_begins_anew_and_one_that_takes_none_any_more_has_failed(
    home: Home,
) -> None:
    async def work() -> None:
        home.enrol("pi-1")
        async with home.started() as (upgrades, fleet):
            fleet.join(card("pi-1"), home.now_s, 0.0)
            begun = await upgrades.start(*home.wanted(1), "test")
            for state in ("checked", "trial"):
                said = UpgradeState(begun.upgrade_id, state)
                await upgrades.heard("pi-1", said)
                assert await upgrades.offer("pi-1", said) is None, "it is at work on it"
                # A new card, or a request that nobody took up: the board knows of nothing.
                await upgrades.heard("pi-1", UpgradeState())
                assert await upgrades.offer("pi-1", UpgradeState()) is not None
                assert states(await upgrades.one("")) == {"pi-1": "offered"}
            await upgrades.heard("pi-1", UpgradeState(begun.upgrade_id, "checked"))
            # `edge-runtime service upgrades off`, meanwhile.
            await upgrades.heard("pi-1", None)
            assert await upgrades.offer("pi-1", None) is None
            shown = await upgrades.one("")
            assert shown.state == "stopped"
            assert "takes no upgrades" in shown.reason

    run(home, work)


def test_wheels_of_upgrades_that_are_over_do_not_pile_up_and_one_that_is_refused_was_never_begun(home: Home) -> None:
    async def work() -> None:
        home.enrol("pi-1")
        async with home.started() as (upgrades, _):
            for number in (1, 2, 3):
                wanted, data = home.wanted(number)
                begun = await upgrades.start(wanted, data, "test")
                wheel = await upgrades.wheel("pi-1", begun.upgrade_id)
                assert wheel.part(0, len(data) + 1) == data
                assert (wheel.size_bytes, wheel.sha256) == (len(data), hashlib.sha256(data).digest())
                assert await upgrades.wheel("pi-1", begun.upgrade_id) is wheel, "one for all devices"
                await upgrades.stop("", "test")
            with pytest.raises(RefusedError, match="is version 2 of edgejoule, and 3 was begun before"):
                await upgrades.start(*home.wanted(2), "test")
        db = Database(sqlite_url(home.folder / "coordinator.db"))
        with db.reading() as connection:
            rows = connection.execute(select(table.c.version, func.length(table.c.data)).order_by(table.c.version))
            assert [tuple(row) for row in rows] == [(1, 0), (2, 0), (3, len(data))]
        db.close()
        told = [path.read_text() for path in (home.folder / "trust").glob("audit*")]
        assert sum(text.count("upgrade begun") for text in told) == 3

    run(home, work)


def test_what_a_board_says_of_an_upgrade_after_it_was_stopped_is_written_down_and_nothing_follows(home: Home) -> None:
    async def work() -> None:
        home.enrol("pi-1", "pi-2")
        async with home.started() as (upgrades, fleet):
            for name in ("pi-1", "pi-2"):
                fleet.join(card(name), home.now_s, clock.unix_s())
            begun = await upgrades.start(*home.wanted(1), "test")
            assert await upgrades.offer("pi-1", UpgradeState("", "none", "")) is not None
            await upgrades.heard("pi-1", UpgradeState(begun.upgrade_id, "trial", ""))
            await upgrades.stop("", "test")
            await upgrades.heard("pi-2", UpgradeState(begun.upgrade_id, "none", ""))
            kept = UpgradeState(begun.upgrade_id, "kept", "")
            for _ in range(2):
                await upgrades.heard("pi-1", kept)
            shown = await upgrades.one(begun.upgrade_id)
            assert (shown.state, states(shown)) == ("stopped", {"pi-1": "kept", "pi-2": "waiting"})
            # Also while another one is on, and only of devices that were among them.
            other = await upgrades.start(*home.wanted(2), "test")
            await upgrades.heard("pi-2", UpgradeState(begun.upgrade_id, "failed", "no room"))
            await upgrades.heard("pi-9", kept)
            assert states(await upgrades.one(begun.upgrade_id)) == {"pi-1": "kept", "pi-2": "failed"}
            shown = await upgrades.one(other.upgrade_id)
            assert (shown.state, set(states(shown).values())) == ("on", {"waiting"})
        told = "".join(path.read_text() for path in (home.folder / "trust").glob("audit*"))
        assert (told.count("upgrade kept"), told.count("upgrade failed")) == (1, 1)

    run(home, work)


def test_what_a_withdrawn_key_signed_far_ahead_binds_the_coordinator_no_more_than_its_boards(home: Home) -> None:
    async def work() -> None:
        home.enrol("pi-1")
        async with home.started() as (upgrades, _):
            await upgrades.start(*home.wanted(900), "test")
            await upgrades.stop("", "test")
            stolen = home.folder / "trust" / signing.KEY_FILE
            stolen.unlink()
            signing.write_signers(home.folder / "trust", [signing.make_key(stolen)], 1)
            begun = await upgrades.start(*home.wanted(4), "test")
            assert (begun.state, begun.version) == ("on", 4)
            await upgrades.stop("", "test")
            with pytest.raises(RefusedError, match="is version 3 of edgejoule, and 4 was begun before"):
                await upgrades.start(*home.wanted(3), "test")

    run(home, work)


def test_a_board_that_is_revoked_keeps_no_upgrade_open_and_a_canary_that_is_stops_it(home: Home) -> None:
    async def work() -> None:
        home.enrol("pi-1", "pi-2", "pi-3")
        async with home.started() as (upgrades, fleet):
            fleet.join(card("pi-1"), home.now_s, 0.0)
            begun = await upgrades.start(*home.wanted(1), "test")
            await upgrades.heard("pi-1", UpgradeState(begun.upgrade_id, "kept"))
            home.register.revoke("pi-2")
            await shows(upgrades, lambda shown: states(shown)["pi-2"] == "revoked")
            home.register.revoke("pi-3")
            shown = await shows(upgrades, lambda shown: shown.state != "on")
            assert (shown.state, shown.reason) == ("finished", "1 of 3 devices keep it")

            home.enrol("pi-3")
            begun = await upgrades.start(*home.wanted(2), "test")
            # A list, which shows no devices, counts the stages all the same.
            assert [(upgrade.stages, upgrade.devices) for upgrade in await upgrades.all()] == [(2, ()), (2, ())]
            assert states(begun) == {"pi-1": "waiting", "pi-3": "waiting"}, "one that was enrolled anew counts"
            home.register.revoke("pi-1")
            shown = await shows(upgrades, lambda shown: shown.state != "on")
            assert shown.reason == "canary pi-1 failed: its certificate was revoked"
        told = "".join(path.read_text() for path in (home.folder / "trust").glob("audit*"))
        assert told.count("upgrade revoked") == 3

    run(home, work)
