"""The terminal view against a real coordinator, driven by Textual's own pilot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual", reason="needs the watch extra")

from live.played_run import EVIL, fleet_of, play_round, played
from textual.widgets import DataTable, Static

from coordinator.cli import main
from coordinator.live import terminal_view
from coordinator.live.terminal_view import Inspection, Question, WatchApp
from coordinator.operator.client import Operator
from protos.errors import UsageError

Fleet = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_view, "POLL_S", 0.4)
    monkeypatch.setattr(terminal_view, "SHARE", 0)
    monkeypatch.setattr("coordinator.live.following.DEVICES_S", 0.0)


async def until(pilot: Any, check: Callable[[], Any], what: str) -> Any:
    for _ in range(600):
        if found := check():
            return found
        await pilot.pause(0.05)
    raise AssertionError(f"{what} did not come about")


def text_of(app: Any, name: str) -> str:
    return str(app.screen_stack[0].query_one(name, Static).render())


def cells_of(app: Any) -> dict[str, list[str]]:
    table = app.screen_stack[0].query_one(DataTable)
    return {str(key.value): [cell.plain for cell in table.get_row(key)] for key in table.rows}


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_a_run_that_is_over_is_shown_with_every_device(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=2)

    async def look() -> None:
        app = WatchApp(lambda: Operator(address))
        async with app.run_test(size=size) as pilot:
            rows = await until(pilot, lambda: cells_of(app), "devices")
            assert set(rows) == {EVIL, "pi-b", "pi-c"}
            assert rows["pi-c"][2] == "?", "unknown is never 0"
            assert rows["pi-c"][8].startswith("rejected: ")
            assert rows["pi-b"][3] == "2", "watts of training"
            assert f"test ({run_id})  round 2/2" in text_of(app, "#run")
            assert "≥ 18 J" in text_of(app, "#run")
            # What is cut at the right is reached with the keys.
            await pilot.press("t")
            await until(pilot, lambda: set(cells_of(app)) == {"pi-c"}, "those with trouble")
            await pilot.press("i")
            await until(pilot, lambda: isinstance(app.screen, Inspection), "the inspection")
            shown = str(app.screen.query(Static).first().render())
            assert "trained with plan another" in shown
            await pilot.press("escape")
            await pilot.press("s")
            await pilot.pause()
            assert not isinstance(app.screen, Question), "what is over cannot be stopped"
            assert "<svg" in app.export_screenshot()
            await pilot.press("q")

    asyncio.run(look())


def test_pausing_and_stopping_ask_first(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, devices=3), tmp_path)
        devices = fleet_of(address, fleet)
        play_round(devices, 1)

        def state() -> str:
            return operator.status(run_id)[0].state

        async def drive() -> None:
            app = WatchApp(lambda: Operator(address), run_id)
            async with app.run_test(size=(80, 24)) as pilot:
                await until(pilot, lambda: app.shown["run"] and "1" in app.shown["rounds"], "the run")
                for answer in ("n", "escape"):
                    for key in ("p", "s"):
                        await pilot.press(key)
                        await until(pilot, lambda: isinstance(app.screen, Question), "the question")
                        await pilot.press(answer)
                        await until(pilot, lambda: not isinstance(app.screen, Question), "the answer")
                assert state() == "running", "no is no"
                for key, wanted in (("p", ["paused"]), ("p", ["running", "waiting"]), ("s", ["stopped"])):
                    await pilot.press(key)
                    await until(pilot, lambda: isinstance(app.screen, Question), "the question")
                    await pilot.press("y")
                    await until(pilot, lambda wanted=wanted: state() in wanted, str(wanted))
                    await until(pilot, lambda wanted=wanted: app.shown["run"]["state"] in wanted, f"{wanted}, shown")
                await pilot.press("q")

        asyncio.run(drive())


def test_a_coordinator_that_does_not_answer_is_told_and_the_view_stays() -> None:
    async def look() -> None:
        app = WatchApp(lambda: Operator("127.0.0.1:1"))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "127.0.0.1:1" in text_of(app, "#trouble"), "the trouble")
            await pilot.press("p", "s", "i", "t")
            await pilot.press("q")

    asyncio.run(look())


def test_control_characters_of_names_never_reach_the_terminal() -> None:
    one = dict.fromkeys(
        ("round", "outcome", "granted_j", "left_j", "temperature_c", "reported_round", "uncertainty_j", "total_j"), None
    )
    one |= {"device_id": "pi\x1b]0;x\x07", "state": "present", "board": "[red]b[/red]\x9b2J", "meter": "", "phases": {}}
    one |= {"last_seen_unix_s": None, "total_unknown": 0, "standing": "\x1b[31m", "sparks": [], "trouble": True}
    told = terminal_view.plain_lines(terminal_view.inspected(one))
    assert all(char.isprintable() or char == "\n" for char in told)
    assert "[red]b[/red]" in told


def test_without_a_terminal_the_other_command_is_named(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--coordinator", address]) == UsageError.exit_code
    assert "needs a terminal; elsewhere take: coordinator status RUN" in capsys.readouterr().err
