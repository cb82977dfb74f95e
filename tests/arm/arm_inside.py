"""What is asked and told on the emulated machine, from inside: its service, its journal, its processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path

UNIT = "edge-runtime.service"
SAY = "trial: "
PATIENCE_S = 900.0


def say(text: str) -> None:
    print(SAY + text, flush=True)


def call(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]} {done.stdout[-500:]}"
        )
    return done.stdout


def shown(name: str) -> str:
    return call("systemctl", "show", UNIT, "--value", "--property", name).strip()


def status_kb(pid: str, field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return None


def entries(**fields: object) -> list[dict[str, str]]:
    matches = [f"{name}={value}" for name, value in fields.items()]
    lines = call("journalctl", "--unit", UNIT, "--output", "json", "--no-pager", *matches).splitlines()
    return [json.loads(line) for line in lines]


def watch(sends: int) -> dict[str, object]:
    """Wait for the service's ``sends``-th finished round; memory of its process, KiB, as read while it lived."""
    end_s = time.monotonic() + PATIENCE_S
    pid = shown("MainPID")
    peak = None
    while len(entries(EDGEJOULE_PHASE="send")) < sends:
        peak = status_kb(pid, "VmHWM") or peak
        if shown("NRestarts") != "0" or shown("ActiveState") == "failed":
            raise RuntimeError("the service did not hold: " + call("journalctl", "--unit", UNIT, "--no-pager")[-2000:])
        if time.monotonic() > end_s:
            raise TimeoutError("no round was finished: " + call("journalctl", "--unit", UNIT, "--no-pager")[-2000:])
        time.sleep(1.0)
    return {"pid": int(pid), "peak_kb": status_kb(pid, "VmHWM"), "now_kb": status_kb(pid, "VmRSS")}
