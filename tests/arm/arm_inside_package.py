"""The life of the Debian package on the emulated machine: installed, configured, one round, removed, purged.

It runs inside, as root, where no service and no settings are. The settings are made from the example of the package,
as a person would make them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import traceback
from pathlib import Path

from arm_inside import PATIENCE_S, UNIT, call, entries, say, shown, watch

DEB = "/srv/edgejoule.deb"
HOME, PROGRAM = Path("/usr/lib/edgejoule"), Path("/usr/bin/edge-runtime")
CONFIG, EXAMPLE = Path("/etc/edgejoule/device.toml"), Path("/etc/edgejoule/device.toml.example")
STATE, LINK = Path("/var/lib/private/edgejoule"), Path("/var/lib/edgejoule")
_UNIT_FILE, _VITALS = Path("/etc/systemd/system") / UNIT, Path("/run/edgejoule/vitals.json")
# What a person changes in the example: line by line, the old and the new.
_CHANGES = {
    '# device_id = "pi-1"': 'device_id = "pi-zero-2"',
    'data = "/srv/edgejoule/data.npz"': 'data = "/var/lib/workshop/few.npz"',
    'sensor = "none"': 'sensor = "estimate:pi-zero-2"\nrequire_delegate = "xnnpack"',
}


def life() -> dict[str, object]:
    """All of it; with the key ``error`` when it was cut short."""
    found: dict[str, object] = {}
    try:
        _clear()
        found["before"] = _traces()
        _install(found)
        _configure(found)
        _round(found)
        call("dpkg", "--remove", "edgejoule")
        found["removed"] = _traces()
        say("the package is removed")
        call("dpkg", "--purge", "edgejoule")
        found["purged"] = _traces()
    except Exception:
        found["error"] = traceback.format_exc()
        found["journal"] = call("journalctl", "--no-pager", "--unit", UNIT, check=False)[-3000:]
    return found


def _clear() -> None:
    """A board that never saw us: what the trial before put there goes."""
    for folder in (CONFIG.parent, "/opt/edgejoule"):
        shutil.rmtree(folder)


def _install(found: dict[str, object]) -> None:
    done = subprocess.run(["dpkg", "-i", DEB], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"dpkg -i ended with {done.returncode}: {done.stderr[-1500:]}")
    found["said"] = done.stderr
    say("the package is installed")
    found["installed"] = _traces()
    found["recorded"] = call("dpkg-query", "-W", "-f", "${Architecture} ${Version} ${db:Status-Status}", "edgejoule")
    found["verified"] = call("dpkg", "--verify", "edgejoule") + call("dpkg", "--audit", "edgejoule")
    found["compiled"] = len(list(HOME.rglob("*.pyc")))
    found["bytes"] = sum(path.lstat().st_size for path in HOME.rglob("*") if path.is_file())


def _configure(found: dict[str, object]) -> None:
    text = EXAMPLE.read_text()
    for old, new in _CHANGES.items():
        if text.splitlines().count(old) != 1:
            raise RuntimeError(f"{EXAMPLE} has no single line: {old}")
        text = text.replace(old, new)
    CONFIG.write_text(text)
    call(str(PROGRAM), "service", "install")
    # systemctl start of a unit with Type=notify returns when it has said READY=1.
    found["active"] = [shown("ActiveState"), shown("SubState"), shown("Type")]
    found["configured"] = _traces()
    found["vitals"] = _joined()
    say("the package's service has joined")


def _joined() -> dict[str, object]:
    """What the daemon shows of itself once the coordinator has answered it."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        vitals: dict[str, object] = json.loads(_VITALS.read_text()) if _VITALS.exists() else {}
        if vitals.get("answered_s") is not None and str(vitals["pid"]) == shown("MainPID"):
            return vitals
        if time.monotonic() > end_s:
            raise TimeoutError(f"the coordinator took nobody in: {vitals}")
        time.sleep(0.5)


def _round(found: dict[str, object]) -> None:
    pid = shown("MainPID")
    found["memory"] = watch(len(entries(EDGEJOULE_PHASE="send")) + 1)
    messages = [entry["MESSAGE"] for entry in entries(_PID=pid) if isinstance(entry.get("MESSAGE"), str)]
    found["ready"] = [message for message in messages if message.startswith("ready")]
    found["restarts"] = int(shown("NRestarts"))
    say("the package's round is done")


def _traces() -> dict[str, object]:
    """What the machine has of the package and its service."""
    places = {"home": HOME, "program": PROGRAM, "config": CONFIG, "example": EXAMPLE, "state": STATE, "link": LINK,
              "settings": CONFIG.parent, "unit": _UNIT_FILE}  # fmt: skip
    here = sorted(name for name, path in places.items() if path.exists() or path.is_symlink())
    return {"here": here, "loaded": shown("LoadState"), "active": shown("ActiveState"), "processes": _processes()}


def _processes() -> int:
    """How many of them are a daemon of ours."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().split(b"\0"))
        except OSError:
            continue
    return sum(any(word.endswith(b"/edge-runtime") for word in line) for line in lines)
