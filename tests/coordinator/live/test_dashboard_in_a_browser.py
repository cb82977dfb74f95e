"""The page in a real browser: names that are markup stay text, figures arrive by themselves, keys do what they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the dashboard extra")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from live.played_run import EVIL, fleet_of, play_round
from live.shown_page import served_page

from coordinator.live import hub
from coordinator.operator.client import Operator

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["desktop", "phone"])
def test_a_run_is_shown_as_it_goes(
    address: str,
    plain_bundle: Path,
    fleet: Callable[..., Any],
    tools: Any,
    tmp_path: Path,
    browser: Any,
    width: int,
    dark: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "POLL_S", 0.05)
    monkeypatch.setattr(hub, "SHARE", 0)
    monkeypatch.setattr("coordinator.live.following.DEVICES_S", 0.0)
    told: list[str] = []
    with Operator(address) as operator, served_page(lambda: Operator(address)) as page:
        operator.start_run(tools.plan(plain_bundle, rounds=2, devices=3), tmp_path)
        view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")
        try:
            view.on("console", lambda message: told.append(message.text))
            view.on("pageerror", lambda error: told.append(str(error)))
            view.on("dialog", lambda dialog: told.append(f"dialog: {dialog.message}"))
            view.goto(page.url)
            devices = fleet_of(address, fleet)
            play_round(devices, 1)
            view.get_by_role("rowheader", name="pi-b").wait_for()
            assert view.get_by_role("rowheader", name=EVIL, exact=True).count() == 1
            view.locator("#link.good").wait_for()
            view.locator("#facts").get_by_text("1 of 2").wait_for()
            play_round(devices, 2, refuse=True)
            view.locator("#facts").get_by_text("2 of 2").wait_for()
            view.get_by_text("finished", exact=True).first.wait_for()
            row = view.locator("tr.trouble")
            row.get_by_text("rejected: ", exact=False).wait_for()
            # Keyboard: "/" goes to the field, words there leave the rows that have them.
            view.keyboard.press("/")
            view.keyboard.type("pi-c")
            view.locator("#count").get_by_text("1 of 3").wait_for()
            view.keyboard.press("Escape")
            view.locator("#count").get_by_text("3 of 3").wait_for()
            view.get_by_role("button", name="train J (W)").press("Enter")
            assert view.locator('th[aria-sort="ascending"]').inner_text() == "train J (W)"
            assert [role for role in ("banner", "main", "contentinfo") if view.get_by_role(role).count() != 1] == [], (
                "landmarks"
            )
            assert view.evaluate("document.documentElement.scrollWidth") <= width, "no sideways scrolling of the page"
            assert told == [], "no error, no refused policy, no dialog"
        finally:
            view.close()
