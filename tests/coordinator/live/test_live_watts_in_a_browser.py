"""The watts of a real daemon's board in a real browser: from a bridge on a pseudo-terminal to figures of a window."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the dashboard extra")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from live.played_run import soon
from live.shown_page import served_page
from live.watched_daemon import HIGH_W, LOW_W, watched_daemon

from coordinator.live import hub
from coordinator.operator.client import Operator

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.processes, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
PICTURES = os.environ.get("EDGEJOULE_TEST_PICTURES")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def figure(view: Any, name: str) -> float:
    """What stands under a name; a number without its unit."""
    text = view.locator("#figures div", has=view.get_by_text(name, exact=True)).locator("dd").inner_text()
    found = re.search(r"\d+(\.\d+)?", text)
    assert found is not None, f"{name}: {text}"
    return float(found[0])


def seconds(text: str) -> float:
    return float(text.removesuffix(" s").replace("\u2212", "-"))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["desktop", "phone"])
def test_watts_are_seen_as_they_are_and_a_window_has_its_figures(
    address: str, tmp_path: Path, browser: Any, width: int, dark: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "POLL_S", 0.2)
    monkeypatch.setattr("coordinator.live.following.DEVICES_S", 0.0)
    told: list[str] = []
    with watched_daemon(tmp_path / "board", address), served_page(lambda: Operator(address)) as page:
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        try:
            view.on("console", lambda message: told.append(message.text))
            view.on("pageerror", lambda error: told.append(str(error)))
            view.goto(page.url)
            name = view.get_by_role("button", name="pi-watts", exact=True)
            name.wait_for()
            assert view.locator("#watts").is_hidden()
            assert page.traces.viewers == 0
            # By the keyboard alone.
            name.focus()
            view.keyboard.press("Enter")
            view.locator("#watts-said").get_by_text("live", exact=True).wait_for()
            assert view.evaluate("document.activeElement.id") == "watts"
            view.locator("#span").select_option("10")
            soon(lambda: view.evaluate("watts.trace.end - watts.trace.start > 2.5"), "two seconds of samples")
            assert figure(view, "Mean") == pytest.approx((LOW_W + HIGH_W) / 2, rel=0.2)
            assert figure(view, "Largest sample") == pytest.approx(HIGH_W, rel=0.05)
            # A window by the keyboard: the picture is held, and samples go on coming in.
            view.locator("#trace").focus()
            view.keyboard.press("ArrowLeft")
            view.keyboard.press("Shift+ArrowRight")
            view.locator("#watts-said").get_by_text("held", exact=False).wait_for()
            count = view.evaluate("watts.trace.length")
            soon(lambda: view.evaluate("watts.trace.length") > count, "samples while it is held")
            from_s, to_s = (seconds(view.locator(f"#{one}-s").inner_text()) for one in ("from", "to"))
            assert -10 <= from_s < to_s <= 0
            assert figure(view, "Window") == pytest.approx(to_s - from_s, abs=0.05)
            assert figure(view, "Joules") == pytest.approx(figure(view, "Mean") * figure(view, "Window"), rel=0.15)
            assert figure(view, "Of it measured") > 90
            # By pointer: one low half of the square, or one high one, is next to the other.
            box = view.locator("#trace").bounding_box()
            view.mouse.move(box["x"] + 0.82 * box["width"], box["y"] + 60)
            view.mouse.down()
            view.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 60, steps=3)
            view.mouse.up()
            dragged = [seconds(view.locator(f"#{one}-s").inner_text()) for one in ("from", "to")]
            assert 0.8 < dragged[1] - dragged[0] < 2.0
            # The same figures from the same bins, by a sum that is written here.
            sums = view.evaluate(
                "([a, b]) => { const t = watts.trace; let j = 0, s = 0, h = -1; t.at.forEach((at, i) => {"
                " const m = at + t.long[i] / 2; if (m >= a && m < b && t.covered[i]) { j += t.mean[i] * t.covered[i];"
                " s += t.covered[i]; h = Math.max(h, t.high[i]); } }); return [j, s, h]; }",
                view.evaluate("chosenWindow()"),
            )
            assert figure(view, "Joules") == pytest.approx(sums[0], rel=2e-3)
            assert figure(view, "Mean") == pytest.approx(sums[0] / sums[1], rel=2e-3)
            assert figure(view, "Largest sample") == pytest.approx(sums[2], rel=2e-3)
            half, most = figure(view, "Half of the time below"), figure(view, "95 % of the time below")
            assert figure(view, "Least sample") <= half <= most <= figure(view, "Largest sample")
            # Points that the page let go, since it holds so many, are not taken for measured ones.
            values = {"mean_w": 2, "low_w": 1, "high_w": 3}
            flat = ", ".join(f"{name}: Array(30).fill({value})" for name, value in values.items())
            found = view.evaluate(
                f"() => {{ const t = new Trace(20); t.add({{ first_s: 50, bin_s: 0.5, {flat} }});"
                " const w = windowOf(t, 48, 65), n = windowOf(t, 56, 60);"
                " return [w.seconds, w.seen, w.lost, w.joules, n.seconds, n.lost]; }"
            )
            assert found == pytest.approx([15.0, 10.0, 5.0, 20.0, 4.0, 0.0])
            if PICTURES:
                view.screenshot(path=f"{PICTURES}/watts-{width}-{'dark' if dark else 'light'}.png", full_page=True)
            # And by the two sliders, as a screen reader does.
            view.locator("#from").focus()
            before = view.locator("#from-s").inner_text()
            view.keyboard.press("Home")
            assert view.locator("#from-s").inner_text() != before
            assert view.locator("#from").get_attribute("aria-valuetext") == view.locator("#from-s").inner_text()
            assert "mean" in view.locator("#trace").get_attribute("aria-label")
            view.locator("#whole").click()
            view.locator("#watts").press("h")
            view.locator("#watts-said").get_by_text("live", exact=True).wait_for()
            assert view.evaluate("document.documentElement.scrollWidth") <= width, "no sideways scrolling of the page"
            view.locator("#watts").press("Escape")
            assert view.locator("#watts").is_hidden()
            assert view.evaluate("document.activeElement.textContent") == "pi-watts"
            soon(lambda: page.traces.viewers == 0, "the end of looking")
            assert told == [], "no error, no refused policy"
        finally:
            view.close()


def test_pieces_of_a_trace_are_summed_as_they_are(browser: Any) -> None:
    """The page's arithmetic on invented bins: time that nothing covers, a burst, and what is cut off."""
    script = Path(hub.__file__).parent / "page" / "window.js"
    view = browser.new_page()
    try:
        view.add_script_tag(content=script.read_text())
        found = view.evaluate(
            """() => {
            const trace = new Trace(6);
            trace.add({first_s: 0, bin_s: 1, mean_w: [9, 9, 1, 3], low_w: [9, 9, 1, 2], high_w: [9, 9, 1, 50]});
            trace.add({first_s: 4, bin_s: 1, mean_w: [null, 5, 7, 7], low_w: [null, 4, 7, 7], high_w: [null, 6, 7, 7],
                       covered_s: [0, 0.5, 1, 1]});
            const one = windowOf(trace, 2, 6), columns = columnsOf(trace, 2, 8, 3);
            return [trace.length, one.seconds, one.seen, one.joules, one.mean, one.least, one.largest, one.shares,
                    one.level(0.4), one.level(1), columns.map((c) => c && [c.low, c.high, c.joules / c.seen]),
                    windowOf(trace, 4, 5).mean];
            }"""
        )
        assert found == [
            6, 4, 2.5, 6.5, 2.6, 1, 50, [[1, 0.4], [3, 0.8], [5, 1]], 1, 5, [[1, 50, 2], [4, 6, 5], [7, 7, 7]], None,
        ]  # fmt: skip
    finally:
        view.close()
