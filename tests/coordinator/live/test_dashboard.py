"""The page server over plain HTTP: what it gives, to whom, and how often it asks the coordinator."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the dashboard extra")
pytest.importorskip("uvicorn", reason="needs the dashboard extra")

from live.played_run import EVIL, fleet_of, play_round, played, soon
from live.shown_page import Page, served_page

from coordinator.live import hub
from coordinator.live.following import Following, changes
from coordinator.live.page_server import bound
from coordinator.operator.client import Operator
from protos.errors import UsageError

Fleet = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "POLL_S", 0.05)
    monkeypatch.setattr(hub, "SHARE", 0)
    monkeypatch.setattr("coordinator.live.following.DEVICES_S", 0.0)


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with served_page(lambda: Operator(address)) as served:
        yield served


def test_the_page_comes_with_headers_that_let_it_load_from_here_alone(page: Page) -> None:
    for path, kind in (("/", "text/html"), ("/live.js", "text/javascript"), ("/live.css", "text/css")):
        status, headers, body = page.ask(path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b""), "nothing is loaded from elsewhere"
        assert b"https://" not in body
    html = page.ask("/")[2].decode()
    assert "onclick" not in html
    assert "<style" not in html
    assert "style=" not in html
    script = page.ask("/live.js")[2].decode()
    for word in ("innerHTML", "insertAdjacent", "document.write", "eval("):
        assert word not in script, "a name may be anything, and is only ever set as text"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_name_that_was_bound_to_this_machine_gets_nothing(page: Page, host: str) -> None:
    for path in ("/", "/live.js", "/events"):
        status, headers, body = page.ask(path, Host=host)
        assert status == 421
        assert b"localhost" in body
        assert "content-security-policy" in headers


def test_the_page_changes_nothing_and_tells_nothing_to_other_sites(page: Page) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert page.ask("/events", method)[0] == 405
    assert page.ask("/events", Sec_Fetch_Site="cross-site")[0] == 403
    for path in ("/../live.js", "/page/live.js", "/%2e%2e/following.py", "/favicon.ico", "/events/x"):
        assert page.ask(path)[0] == 404
    assert page.ask("/", Host=f"localhost:{page.port + 1}")[0] == 200, "a tunnel may end at any port"


def test_only_loopback_is_listened_on() -> None:
    for listen, why in (("0.0.0.0:0", "not loopback"), ("192.0.2.1:80", "not loopback"), ("x", "not HOST:PORT")):
        with pytest.raises(UsageError, match=why):
            bound(listen)
    taken = bound("127.0.0.1:0")
    try:
        with pytest.raises(UsageError, match="cannot listen"):
            bound(f"127.0.0.1:{taken.getsockname()[1]}")
    finally:
        taken.close()


def test_a_viewer_is_given_the_state_and_then_only_what_changed(
    address: str, page: Page, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=2, devices=3), tmp_path)
        devices = fleet_of(address, fleet)
        play_round(devices, 1)
        with page.events(run_id) as following:
            kind, state = following()
            assert kind == "state"
            assert state["run"]["run_id"] == run_id
            assert EVIL in state["devices"]
            told: dict[str, Any] = dict(state)
            play_round(devices, 2, refuse=True)
            seen: list[dict[str, Any]] = []
            while told["run"]["state"] != "finished":
                kind, change = following()
                assert kind == "change"
                seen.append(change)
                for key, value in change.items():
                    told[key] = told[key] | value if key in ("runs", "rounds", "devices") else value
            # Changes of all kinds add up to what a new viewer is given.
            with page.events(run_id) as fresh:
                whole = soon(lambda: (found := fresh()[1])["run"]["state"] == "finished" and found, "the end")
            assert whole["rounds"] == told["rounds"]
            assert not [change for change in seen if "0" in change.get("rounds", {})], "round 0 changes no more"
        device = told["devices"]["pi-b"]
        assert device["phases"]["train"] == {"energy_j": 4.0, "uncertainty_j": 0.2, "power_w": 2.0}
        assert device["temperature_c"] == 62.0
        assert device["sparks"] == [3.75, 5.0]
        assert told["devices"]["pi-c"]["spent_j"] is None, "unknown is never 0"
        assert told["devices"]["pi-c"]["standing"].startswith("rejected: ")
        assert told["devices"]["pi-c"]["trouble"] is True
        assert told["rounds"]["2"]["unknown"] == 1


def test_one_poll_serves_all_viewers_and_none_is_made_for_nobody(
    address: str, page: Page, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=1)
    assert not page.connections, "nobody looks on: nothing is asked"
    with page.events() as first, page.events() as second, page.events() as third:
        for following in (first, second, third):
            assert following()[1]["run"]["run_id"] == run_id
        assert len(page.connections) == 1
        (watched,) = page.hubs.by_run.values()
        assert watched.viewers == 3
        with page.events(run_id) as other:
            other()
            assert len(page.connections) == 2, "another run has a poll of its own"
    soon(lambda: not page.hubs.by_run, "the end of the polls")


def test_viewers_and_runs_have_a_bound(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_RUNS", 1)
    with page.events("a") as following:
        following()
        status, headers, body = page.ask("/events?run=b")
        assert status == 503
        assert b"runs are watched already" in body
        assert headers["retry-after"] == "30"
        monkeypatch.setattr(hub, "MOST_VIEWERS", 1)
        assert page.ask("/events?run=a")[0] == 503
    assert page.ask("/events?run=" + "x" * 400)[0] == 404


def test_a_coordinator_that_is_away_is_told_and_its_last_figures_stay(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as kept:
        with tools.served(tmp_path / "state") as address:
            run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=1)
            page = kept.enter_context(served_page(lambda: Operator(address)))
            following = kept.enter_context(page.events())
            assert following()[1]["trouble"] == ""
        told: dict[str, Any] = {}
        while not told.get("trouble"):
            told = following()[1]
        assert address in told["trouble"]
        assert "run" not in told, "nothing else has changed"
        with page.events() as late:
            state = late()[1]
            assert (state["run"]["run_id"], state["trouble"]) == (run_id, told["trouble"])


def test_a_run_that_is_not_there_is_told(address: str, page: Page) -> None:
    with page.events("nobody") as following:
        assert "there is no such run" in following()[1]["trouble"]


def test_a_refresh_of_many_devices_is_three_calls_and_tells_only_what_moved(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    """200 devices; bytes and calls, which are the cost of a refresh, not seconds, which are the machine's."""
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle, rounds=2, devices=200), tmp_path)
        first = fleet(address, "pi-000")
        first.join()
        for index in range(1, 200):
            first.card = dataclasses.replace(first.card, device_id=f"pi-{index:03d}", session=f"{index}")
            first.join()
        soon(lambda: len(operator.devices()) == 200, "200 devices")
        following = Following(operator)
        before = following.poll()
        calls = following.calls
        soon(lambda: following.poll()["rounds"].get("1"), "round 1")
        before, calls = following.poll(), following.calls
        after = following.poll()
        assert following.calls - calls == 3
        assert changes(before, after) == {}, "nothing moved, and nothing is told"
        assert len(json.dumps(before)) < 200 * 700
        order = first.order(round=1)
        first.send(first.answer(order, 0.1))
        moved = changes(after, following.poll())
        assert set(moved["devices"]) == {"pi-199"}
        assert len(json.dumps(moved)) < 2500


def test_who_is_let_in_together_keeps_to_the_bound_and_who_hangs_up_at_once_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "MOST_VIEWERS", 1)

    async def look() -> tuple[list[str], int]:
        hubs = hub.Hubs(lambda: Operator("127.0.0.1:1"))
        first, second, gone = [await hubs.watch("run-1") for _ in range(3)]
        del gone
        assert not hubs.by_run, "nobody polls for who never looked"
        found = [await anext(first), await anext(second)]
        for events in (first, second):
            await events.aclose()  # type: ignore[attr-defined]
        return found, len(hubs.by_run)

    (shown, refused), left = asyncio.run(look())
    assert shown.startswith("event: state\n")
    assert "too many viewers" in refused
    assert left == 0


async def _told(state: dict[str, Any], at_most: int) -> list[str]:
    """Events for somebody who comes to look at a state."""
    told = hub.Hub(lambda: pytest.fail("nobody is asked"), "")
    told._tell(state)
    events = told.events()
    try:
        return [await anext(events) for _ in range(at_most)]
    finally:
        await events.aclose()


@pytest.mark.parametrize(("devices", "rounds", "parts"), [(3, 2, 1), (2000, 350, 1 + 19 + 3)])
def test_the_state_is_told_in_pages_whatever_the_fleet(devices: int, rounds: int, parts: int) -> None:
    row = {"device_id": "pi", "board": "Raspberry Pi 4 Model B", "sparks": [1.5] * 40, "standing": "at work"}
    state: dict[str, Any] = {
        "runs": {"run-1": {"name": "a"}},
        "run": {"run_id": "run-1"},
        "rounds": {str(number): {"round": number, "score": 0.5} for number in range(1, rounds + 1)},
        "devices": {f"pi-{index:04d}": row | {"device_id": f"pi-{index:04d}"} for index in range(devices)},
        "trouble": "",
        "pause_s": 2.0,
    }
    told = asyncio.run(_told(state, parts))
    assert max(map(len, told)) < 60_000
    shown: dict[str, Any] = {}
    for at, event in enumerate(told):
        kind, data = event.removeprefix("event: ").rstrip().split("\ndata: ")
        assert kind == ("state" if at == 0 else "change")
        for key, value in json.loads(data).items():
            # As the page takes it.
            shown[key] = {**shown[key], **value} if at and key in ("rounds", "devices") else value
    del shown["at_unix_s"]
    assert shown == state
    assert str(rounds) in json.loads(told[0].rstrip().partition("\ndata: ")[2])["rounds"]


def test_the_command_serves_the_page_and_ends_with_the_signal(address: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [
        sys.executable,
        "-m",
        "coordinator.cli",
        "dashboard",
        "--listen",
        "127.0.0.1:0",
        "--coordinator",
        address,
    ]
    with subprocess.Popen(
        [*command, "--ready-file", str(ready)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            soon(lambda: ready.exists() or process.poll() is not None, "the page", 60)
            with urllib.request.urlopen(ready.read_text().strip(), timeout=20) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stdout is not None
            assert process.stdout.read().startswith("dashboard: http://127.0.0.1:")
        finally:
            process.kill()


def test_the_files_of_the_page_are_in_the_wheel(tmp_path: Path) -> None:
    """Asked of what builds it, on a copy: what is not named in package-data would be left out unseen."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "coordinator", tmp_path / "coordinator", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    (tmp_path / "out").mkdir()
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if name.startswith("coordinator/live/page/")}
    assert held == {f"coordinator/live/page/{path.name}" for path in (ROOT / "coordinator/live/page").iterdir()}
