"""Makes the pictures of docs/live.md and docs/reports.md from an invented run, with a real coordinator.

    .venv/bin/python docs/pictures/make_pictures.py docs/pictures

Needs the extras dashboard and watch, playwright, and chromium. What they show is not measured: see invented_run.py.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from invented_run import FLEET, card_of, write  # noqa: E402

from coordinator.live.terminal_view import WatchApp  # noqa: E402
from coordinator.operator.client import Operator  # noqa: E402
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge  # noqa: E402
from protos.convert.cards import card_to  # noqa: E402
from protos.orders import PROTOCOL  # noqa: E402
from protos.v1 import edgejoule_pb2_grpc as rpc  # noqa: E402

PAGES = (
    ("dashboard-desktop", 1280, 900, "light"),
    ("dashboard-dark", 1280, 900, "dark"),
    ("dashboard-phone", 390, 844, "light"),
)
WATTS = (("watts-desktop", 1280, 900, "light"), ("watts-phone", 390, 844, "dark"))
BOARD, LOAD = "bench-pi4", "square:2.6,5.4,1.7,0.35"


@contextmanager
def running(ready: Path, *arguments: str) -> Iterator[str]:
    """A command of the coordinator's that serves; gives the address in its ready file."""
    command = [sys.executable, "-m", "coordinator.cli", *arguments, "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"{arguments[0]} ended with {process.returncode}")
                time.sleep(0.1)
            yield ready.read_text().strip()
        finally:
            process.terminate()


def join(address: str) -> None:
    """Let the boards that have not left say that they are there."""
    with grpc.insecure_channel(address) as channel:
        stub = rpc.DeviceServiceStub(channel)
        for one in FLEET:
            if one[0] != "barn-pi3":
                stub.Join(card_to(card_of(*one), PROTOCOL), timeout=20)


@contextmanager
def board(folder: Path, address: str) -> Iterator[None]:
    """A real daemon that waits for orders, whose bridge is simulated."""
    labels = np.arange(40, dtype=np.int32) % 4
    np.savez(folder / "data.npz", x=np.zeros((40, 8, 8, 1), np.uint8), y=labels)
    bridge = SimulatedBridge(BridgeSpec(link=folder / "ttyINA", load=LOAD, profile="balanced"))
    command = [sys.executable, "-m", "edge_runtime.cli", "run", "--coordinator", address, "--device-id", BOARD]
    command += ["--state", str(folder / "board"), "--data", str(folder / "data.npz")]
    command += ["--sensor", f"serial:{bridge.spec.link}", "--board", "pi4"]
    with Bench([bridge]), subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def watts(browser: Any, url: str, out: Path, width: int, height: int, scheme: str) -> None:
    """The watts of that board, with a window of them."""
    view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    view.goto(url)
    view.get_by_role("button", name=BOARD, exact=True).click(timeout=60_000)
    view.locator("#span").select_option("10")
    view.wait_for_timeout(12_000)
    box = view.locator("#trace").bounding_box()
    view.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 60)
    view.mouse.down()
    view.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 60, steps=3)
    view.mouse.up()
    view.evaluate("scrollTo(0, document.getElementById('watts').offsetTop - 70)")
    view.screenshot(path=out)
    view.close()


async def terminal(address: str, size: tuple[int, int], out: Path) -> None:
    """The terminal view as an SVG whose letters are those of this machine."""
    app = WatchApp(lambda: Operator(address), "flowers")
    async with app.run_test(size=size) as pilot:
        while not app.shown["devices"]:
            await pilot.pause(0.1)
        await pilot.pause(0.5)
        svg = app.export_screenshot(title="coordinator watch flowers")
    # Else it would load letters from elsewhere.
    out.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono"))


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out.resolve()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        write(at / "state", closed=24, seed=2, name="flowers-2bit", is_over=True)
        write(at / "state")
        with running(at / "ready", "serve", "--state", str(at / "state"), "--listen", "127.0.0.1:0") as address:
            join(address)
            for size in ((80, 24), (120, 40)):
                asyncio.run(terminal(address, size, at / f"watch-{size[0]}x{size[1]}.svg"))
            report = [sys.executable, "-m", "coordinator.cli", "report", "flowers", "-o", str(at / "report.html")]
            subprocess.run([*report, "--coordinator", address], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            page = ("dashboard", "--listen", "127.0.0.1:0", "--coordinator", address)
            with running(at / "page", *page) as url, sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

                def shoot(name: str, url: str, width: int, height: int, scheme: str, wait: str = "") -> None:
                    view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                    view.goto(url)
                    if wait:
                        view.locator(wait).first.wait_for()
                        view.wait_for_timeout(1200)
                    view.screenshot(path=out / f"{name}.png")
                    view.close()

                for name, width, height, scheme in PAGES:
                    # On a busy machine they are held to be away by now.
                    join(address)
                    shoot(name, f"{url}", width, height, scheme, "#rows tr")
                with board(at, address):
                    for name, width, height, scheme in WATTS:
                        watts(browser, url, out / f"{name}.png", width, height, scheme)
                shoot("report", (at / "report.html").as_uri(), 1280, 1500, "light")
                for name, width, height in (("watch-80x24", 994, 655), ("watch-120x40", 1482, 1045)):
                    shoot(name, (at / f"{name}.svg").as_uri(), width, height, "dark")
                browser.close()
    for path in sorted(out.glob("*.png")):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
