"""`coordinator upgrade`: a signed wheel to boards, canaries first; real daemons over TLS (see `upgraded_board`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from upgraded_board import Board, stand_in

from coordinator.operator.client import Operator
from coordinator.operator.credentials import read_credentials
from coordinator.operator.upgrades import UpgradeStatus, UpgradeWanted
from coordinator.trust import signing
from coordinator.trust.authority import FOLDER
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.daemon.upgrading import Upgrades
from edge_runtime.identity.signatures import Signatures
from protos.errors import EdgejouleError, IntegrityError, RefusedError, UnknownRunError, UsageError
from protos.orders import DeviceCard, Engine, Holding, MeterCard, UpgradeOffer, UpgradeState, WaitOrder
from protos.trust.signed import signature_of

pytestmark = pytest.mark.processes


def wheel(lab: Any, folder: Path, version: str, number: int, *, days: float = 9.0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"edgejoule-{version}-py3-none-any.whl"
    path.write_bytes(f"version {version}, {number}".encode())
    trust = lab.state / FOLDER
    signing.sign(trust, path, [trust / signing.KEY_FILE], line="edgejoule", days=days, version=number)
    return path


def operator(lab: Any, file: Path | None = None) -> Operator:
    """The operator's own client: what the command calls, without the start of a program."""
    return Operator(lab.address, read_credentials(file or lab.state / FOLDER / "admin.json"))


def status(lab: Any) -> UpgradeStatus:
    with operator(lab) as connection:
        return connection.upgrade()


def by_device(shown: UpgradeStatus) -> dict[str, tuple[str, str]]:
    return {device.device_id: (device.state, device.software_version) for device in shown.devices}


def wanted(path: Path, to: str, **more: Any) -> UpgradeWanted:
    figures = {"canaries": 1, "wave": 10, "may_fail": 1, "trial_s": 600.0, **more}
    signature = signature_of(path).read_bytes()
    return UpgradeWanted(path.name, path.stat().st_size, digest(path), signature, (to,), **figures)


def begin(lab: Any, path: Path, to: str = "pi-1", file: Path | None = None) -> UpgradeStatus:
    with operator(lab, file) as connection:
        return connection.start_upgrade(wanted(path, to), path.read_bytes())


@pytest.fixture
def boards(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Board]]]:
    made: dict[str, Board] = {}

    def make(*names: str, crashes: set[str]) -> dict[str, Board]:
        for name in names:
            made[name] = Board(tmp_path / name, lab.token(name, "--group", "kitchen"), lab.address)
        stand_in(monkeypatch, made, crashes)
        return made

    yield make
    for one in made.values():
        one.close()


def test_canaries_come_first_a_board_that_was_away_comes_last_and_a_bad_version_reaches_nobody_else(
    lab: Any, boards: Any, tmp_path: Path
) -> None:
    made = boards("pi-1", "pi-2", "pi-3", crashes={"9.2.0"})
    for name, board in made.items():
        board.allow()
        if name != "pi-3":
            board.restart()
    with operator(lab) as connection:
        until(lambda: len(connection.devices()) == 2)
    first = wheel(lab, tmp_path / "wheels", "9.1.0", 100)
    begun = lab.operate("upgrade", "--wheel", str(first), "--to", "kitchen", "--canary", "1", "--json")
    assert begun.returncode == 0, begun.stderr
    until(lambda: by_device(status(lab)).get("pi-2") == ("kept", "9.1.0"))
    shown = status(lab)
    assert by_device(shown) == {"pi-1": ("kept", "9.1.0"), "pi-2": ("kept", "9.1.0"), "pi-3": ("waiting", "")}
    times = {device.device_id: device.changed_unix_s for device in shown.devices}
    assert times["pi-1"] < times["pi-2"], "the canary was through before the other began"
    assert (shown.state, shown.stage, shown.stages) == ("on", 1, 2)
    with pytest.raises(RefusedError, match="is on its way"):
        begin(lab, first, "all")
    # The board that was away is back, with the old version.
    made["pi-3"].restart()
    until(lambda: status(lab).state == "finished")
    assert by_device(status(lab))["pi-3"] == ("kept", "9.1.0")
    assert {one.runs.name.rpartition("-")[0] for one in made.values()} == {"9.1.0"}

    bad = wheel(lab, tmp_path / "wheels", "9.2.0", 200)
    ended = lab.operate("upgrade", "--wheel", str(bad), "--to", "kitchen", "--canary", "1", "--wait", "--json")
    assert ended.returncode == 3, ended.stderr
    shown = json.loads(ended.stdout)
    assert shown["state"] == "stopped"
    assert "canary pi-1 failed: " in shown["reason"]
    assert "it ended" in shown["reason"]
    assert {device["device_id"]: device["state"] for device in shown["devices"]} == {
        "pi-1": "failed",
        "pi-2": "waiting",
        "pi-3": "waiting",
    }
    assert {one.runs.name.rpartition("-")[0] for one in made.values()} == {"9.1.0"}, "the version before is back"

    log = lab.run("audit", "--state", str(lab.state)).stdout
    for line in (
        "operator admin",
        "upgrade begun",
        "upgrade kept",
        "upgrade finished",
        "upgrade failed",
        "upgrade stopped",
    ):
        assert line in log, line
    assert lab.run("audit", "verify", "--state", str(lab.state)).returncode == 0


def test_what_may_not_be_run_is_refused_by_the_coordinator_and_again_by_the_board(
    lab: Any, board: Any, tmp_path: Path
) -> None:
    state = board("pi-1")
    link = Link(lab.address, Stopping(), state=state)
    folder = tmp_path / "wheels"
    good = wheel(lab, folder, "9.1.0", 100)

    observer = tmp_path / "observer.json"
    lab.run("operators", "add", "eve", "--role", "observer", "-o", str(observer), "--state", str(lab.state))
    with pytest.raises(EdgejouleError, match="StartUpgrade is for the role operator"):
        begin(lab, good, file=observer)
    with operator(lab, observer) as looking:
        assert looking.upgrades() == []
    with pytest.raises(IntegrityError, match="its signature has ended"):
        begin(lab, wheel(lab, folder, "9.3.0", 300, days=1e-6))
    unsigned = folder / "edgejoule-9.4.0-py3-none-any.whl"
    unsigned.write_bytes(b"x")
    assert "is not signed" in lab.operate("upgrade", "--wheel", str(unsigned), "--to", "all").stderr
    signature_of(unsigned).write_bytes(signature_of(good).read_bytes())
    with pytest.raises(IntegrityError, match="its signature is of other content"):
        begin(lab, unsigned)
    with pytest.raises(UsageError, match=r"no group and no device.*pi-1"):
        begin(lab, good, "pi-11")

    try:
        link.join(card("pi-1"))
        begin(lab, good)
        offered = offer(link)
        assert (offered.wheel, offered.size_bytes) == (good.name, good.stat().st_size)
        (tmp_path / "machine/usr/local/lib/edgejoule").mkdir(parents=True)
        (tmp_path / "machine/usr/local/lib/edgejoule/ordered.json").write_text(
            '{"upgrade_id": "", "state": "none", "reason": ""}'
        )
        upgrades = Upgrades(state, tmp_path / "machine", Signatures(state))

        def fetch(change: Callable[[bytes], bytes], into: Path) -> None:
            link.fetch_upgrade("pi-1", offered, into)
            path = into / offered.wheel
            path.write_bytes(change(path.read_bytes()))

        # One bit on the way past TLS; a wheel cut short; one without a signature.
        for change in (lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: data[:-1]):
            assert not upgrades.take(offered, lambda into, change=change: fetch(change, into))
            assert upgrades.said() == UpgradeState(
                offered.upgrade_id, "failed", f"{offered.wheel}: is not the wheel that was offered"
            )
        assert not upgrades.take(offered, lambda into: (into / offered.wheel).write_bytes(good.read_bytes()))
        assert "without its signature" in upgrades.said().reason
        assert upgrades.take(offered, lambda into: link.fetch_upgrade("pi-1", offered, into))
        assert upgrades.said() == UpgradeState(offered.upgrade_id, "checked")

        # What it says is kept; who installs it is told to wait at once, and gets no order.
        busy, _ = link.next_order("pi-1", "s1", (), bundle_id="", holding=holds("checked", offered.upgrade_id))
        assert isinstance(busy, WaitOrder)
        assert busy.reason == "installs a version of the service"
        assert by_device(status(lab)) == {"pi-1": ("checked", "0.9.0")}
        told = holds("failed", offered.upgrade_id, "no room on the disk")
        link.next_order("pi-1", "s1", (), bundle_id="", holding=told, waits_s=0.5)
        assert status(lab).reason == "canary pi-1 failed: no room on the disk"
        with pytest.raises(UnknownRunError):
            link.fetch_upgrade("pi-1", offered, tmp_path)

        # Back to what was signed before: refused here, and by the board, which has seen the newer one.
        newer = wheel(lab, folder, "9.5.0", 500)
        begin(lab, newer)
        with operator(lab) as connection:
            assert connection.stop_upgrade().reason == "stopped by operator admin"
            with pytest.raises(RefusedError, match="is stopped"):
                connection.stop_upgrade(connection.upgrade().upgrade_id)
        older = wheel(lab, folder, "9.1.1", 99)
        with pytest.raises(RefusedError, match="is version 99 of edgejoule, and 500 was begun before"):
            begin(lab, older)
        with pytest.raises(RefusedError, match="is another version 500"):
            begin(lab, wheel(lab, folder, "9.6.0", 500))
        rollback = UpgradeOffer("upgrade-x", older.name, older.stat().st_size, digest(older), 60.0)

        def local(into: Path) -> None:
            for path in (older, signature_of(older)):
                (into / path.name).write_bytes(path.read_bytes())

        assert not upgrades.take(rollback, local)
        assert "is version 99 of wheel/edgejoule, and 100 was seen here" in upgrades.said().reason

        # A board that takes none is told of, and stops the canaries.
        begin(lab, wheel(lab, folder, "9.7.0", 700))
        link.next_order("pi-1", "s1", (), bundle_id="", holding=Holding(), waits_s=0.5)
        assert "takes no upgrades from its coordinator" in status(lab).reason
    finally:
        link.close()


def card(name: str) -> DeviceCard:
    meter = MeterCard("unknown", "none", "", "")
    return DeviceCard(
        device_id=name, session="s1", software_version="0.9.0", board="test", engine=Engine("test", "1", ""),
        meter=meter, train_examples=8, test_examples=0, budget_j=None,
    )  # fmt: skip


def holds(state: str, upgrade_id: str = "", reason: str = "") -> Holding:
    return Holding(upgrade=UpgradeState(upgrade_id, state, reason))


def offer(link: Link) -> UpgradeOffer:
    order, _ = link.next_order("pi-1", "s1", (), bundle_id="", holding=holds("none"), waits_s=0.5)
    assert isinstance(order, WaitOrder)
    assert order.upgrade is not None
    return order.upgrade


def digest(path: Path) -> bytes:
    import hashlib

    return hashlib.sha256(path.read_bytes()).digest()


def until(so: Callable[[], bool], limit_s: float = 60.0) -> None:
    end_s = time.monotonic() + limit_s
    while not so():
        assert time.monotonic() < end_s
        time.sleep(0.1)
