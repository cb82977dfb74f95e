"""`testbed blink` on a real SSH server whose machine has LEDs: files that stand where the kernel has its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports
from ssh_hosts import SshHost, inventory_text, user_key, wait_for, why_not

# In a mount namespace of its own, so that nobody else sees these LEDs.
_LEDS = 'mount -t tmpfs none /sys/class && mkdir /sys/class/leds && mount --bind "$0" /sys/class/leds && exec "$@"'
_KERNEL = "none [mmc0] timer heartbeat default-on\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[SshHost, Path]]:
    """A server with the LEDs ACT and PWR, and the key that opens it."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare: mounts LEDs")
    leds = tmp_path / "leds"
    for name in ("ACT", "PWR"):
        (leds / name).mkdir(parents=True)
        (leds / name / "trigger").write_text(_KERNEL)
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", _LEDS, str(leds), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    private, authorized = user_key(tmp_path)
    place = tmp_path / "board-1"
    place.mkdir()
    made = SshHost("board-1", place, "127.0.0.1", free_ports(1)[0])
    made.prefix = ("unshare", "--mount", "sh", "-c", _LEDS, str(leds))
    made.start(authorized)
    wait_for([made])
    yield made, private
    made.stop()


def inventory(host: SshHost, key: Path, folder: Path, more: str = "") -> Path:
    import asyncssh

    path = folder / "lab.toml"
    path.write_text(inventory_text([host], key) + more)
    public = asyncssh.read_private_key(host.folder / "host_key").export_public_key().decode().strip()
    (folder / "known_hosts").write_text(f"[{host.address}]:{host.port} {public}\n")
    return path


def test_the_led_of_the_board_blinks_by_the_kernels_timer_and_is_then_what_it_was(
    host: tuple[SshHost, Path], tmp_path: Path, testbed: Callable[..., Any]
) -> None:
    lab = inventory(*host, tmp_path)
    triggers = {text: tmp_path / "leds" / text / "trigger" for text in ("ACT", "PWR")}
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(triggers["ACT"].read_text().strip())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code, out, err = testbed("blink", lab, "--for", "500ms", "--json")
    finally:
        done.set()
        watcher.join()
    assert code == 0, err
    assert '"led": "ACT"' in out
    assert "timer" in seen
    # The kernel would show all of them again, with this one in brackets.
    assert triggers["ACT"].read_text() == "mmc0\n"
    assert triggers["PWR"].read_text() == _KERNEL


def test_a_board_without_that_led_says_which_it_has(
    host: tuple[SshHost, Path], tmp_path: Path, testbed: Callable[..., Any]
) -> None:
    (tmp_path / "leds" / "ACT" / "trigger").unlink()
    (tmp_path / "leds" / "PWR" / "trigger").unlink()
    lab = inventory(*host, tmp_path)
    code, _, err = testbed("blink", lab, "--for", "500ms")
    assert code != 0
    assert "known: ACT PWR" in err
