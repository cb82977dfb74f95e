"""What a board is asked before an experiment, and what of the answers is a warning or a fault."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.testbed import daemon, reservation
from coordinator.testbed.across import Progress
from coordinator.testbed.ssh import Session

__all__ = ["LIMITS", "Finding", "check", "judged", "versions_differ"]


@dataclass(frozen=True)
class Limits:
    """Beyond which a figure is a warning, and beyond which it is a fault.

    Attributes:
        clock_s: how far the board's clock may be off. Certificates bear minutes; marks in logs are compared by seconds.
        temperature_c: the Pi throttles from 80 on.
        disk_mb: free where the daemon keeps its state. A deployed environment takes about 400.
        memory_mb: that programs can still get. The daemon takes up to 90.
    """

    clock_s: tuple[float, float] = (1.0, 30.0)
    temperature_c: tuple[float, float] = (70.0, 80.0)
    disk_mb: tuple[float, float] = (1000.0, 200.0)
    memory_mb: tuple[float, float] = (150.0, 90.0)


LIMITS = Limits()


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: "ok", "warning" or "failed", with what to do."""

    name: str
    level: str
    said: str
    fix: str = ""


# Each line is KEY VALUE; what the board cannot say is left out, and is not known.
_PROBE = """
say() { [ -n "$2" ] && printf '%s %s\\n' "$1" "$2"; }
say machine "$(uname -m)"
say kernel "$(uname -r)"
say system "$(sed -n 's/^PRETTY_NAME="\\{0,1\\}\\([^"]*\\)"\\{0,1\\}$/\\1/p' /etc/os-release 2>/dev/null)"
say model "$(tr -d '\\0' < /proc/device-tree/model 2>/dev/null)"
say python "$("$2" -c 'import platform; print(platform.python_version())' 2>/dev/null)"
d=$1; while [ ! -d "$d" ] && [ "$d" != . ] && [ "$d" != / ]; do d=$(dirname "$d"); done
say disk_kb "$(df -Pk "$d" 2>/dev/null | awk 'NR == 2 { print $4 }')"
say memory_kb "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo 2>/dev/null)"
t=; for one in /sys/class/thermal/thermal_zone*/temp; do
  v=$(cat "$one" 2>/dev/null) && [ "$v" -gt "${t:-0}" ] 2>/dev/null && t=$v
done
say temperature_mc "$t"
g=$(cat /sys/devices/platform/soc/soc:firmware/get_throttled 2>/dev/null)
[ -n "$g" ] || g=$(vcgencmd get_throttled 2>/dev/null | sed 's/^throttled=0x//')
say throttled "$g"
say uptime_s "$(cut -d' ' -f1 /proc/uptime 2>/dev/null)"
if [ -n "$3" ]; then
  if [ -r "$3" ] && [ -w "$3" ]; then say bridge ok
  elif [ -e "$3" ]; then say bridge denied
  else say bridge absent; fi
fi
for one in flock sha256sum setsid; do command -v $one > /dev/null || say missing $one; done
exit 0
"""


async def check(session: Session, progress: Progress, *, version: str | None = None) -> dict[str, Any]:
    """Look at a board; its facts, and what is to be said of them.

    Args:
        version: that its program should have; None: any.
    """
    board = session.board
    progress.say("looking")
    said = await session.must(_PROBE, board.place_of_ours, board.python, board.bridge, doing="looking")
    facts: dict[str, Any] = {}
    for line in said.splitlines():
        key, _, value = line.partition(" ")
        facts[key] = f"{facts[key]} {value}" if key == "missing" and key in facts else value.strip()
    progress.say("comparing clocks")
    facts |= await _clock(session)
    program = await daemon.program_of(session)
    facts["version"] = await daemon.version_of(session, program)
    facts["daemon"] = await daemon.state_of(session)
    facts["host_key"] = session.host_key
    if facts["version"] is not None:
        progress.say("asking for the identity")
        identity = await daemon.identity_of(session, program)
        facts["identity_ends_unix_s"] = None if identity is None else identity.get("ends_unix_s")
    if "flock" not in facts.get("missing", ""):
        who = await reservation.holder(session)
        facts["reserved"] = None if who is None else {"who": who.who, "until_unix_s": who.until_unix_s}
    found = judged(facts, bridge=board.bridge, version=version, now_unix_s=time.time())
    return {"facts": facts, "findings": [vars(finding) for finding in found]}


async def _clock(session: Session) -> dict[str, float]:
    """How far the board's clock is ahead, and within how much that is known: half of the way there and back."""
    best: tuple[float, float] | None = None
    for _ in range(3):
        before = time.time()
        said = await session.must("date +%s.%N", doing="asking for the time")
        after = time.time()
        try:
            there = float(said.strip().removesuffix("N").removesuffix("."))
        except ValueError:
            return {}
        half = (after - before) / 2
        if best is None or half < best[1]:
            best = (there - (before + after) / 2, half)
    assert best is not None
    return {"clock_ahead_s": best[0], "clock_within_s": best[1]}


def judged(
    facts: Mapping[str, Any], *, bridge: str, version: str | None, now_unix_s: float, limits: Limits = LIMITS
) -> list[Finding]:
    """What is to be said of a board's facts, the worst first."""
    found = [
        _clock_said(facts, limits),
        _below("disk", _mb(facts.get("disk_kb")), limits.disk_mb, "MB free", "make room on its card"),
        _below("memory", _mb(facts.get("memory_kb")), limits.memory_mb, "MB to be had", "end other programs there"),
        _temperature(facts, limits),
        _throttling(facts),
    ]
    if "missing" in facts:
        fix = "install util-linux and coreutils there"
        found.append(Finding("tools", "failed", f"{facts['missing']} is not there", fix))
    if not facts.get("python"):
        found.append(Finding("python", "failed", "no Python is there", "install python3 and python3-venv"))
    if bridge:
        what = {
            "ok": ("ok", "is there"),
            "denied": ("failed", "may not be opened"),
            "absent": ("failed", "is not there"),
        }
        level, said = what.get(str(facts.get("bridge")), ("failed", "?"))
        fix = {"denied": "add the user to the group dialout"}.get(str(facts.get("bridge")), "look at its cable")
        found.append(Finding("sensor", level, f"{bridge} {said}", "" if level == "ok" else fix))
    here = facts.get("version")
    if here is None:
        found.append(Finding("version", "warning", "nothing is installed", "run: coordinator testbed deploy"))
    elif version is not None and here != version:
        found.append(Finding("version", "warning", f"{here}, and {version} here", "run: coordinator testbed deploy"))
    else:
        found.append(Finding("version", "ok", str(here)))
    ends = facts.get("identity_ends_unix_s")
    if ends is not None and ends - now_unix_s < 3 * 86400:
        found.append(Finding("certificate", "warning", "ends within three days", "see that its daemon runs"))
    found.append(Finding("SSH key", "ok", str(facts.get("host_key"))))
    return sorted(found, key=lambda finding: ("failed", "warning", "ok").index(finding.level))


def _mb(kilobytes: Any) -> float | None:
    try:
        return float(kilobytes) * 1024 / 1e6
    except (TypeError, ValueError):
        return None


def _below(name: str, value: float | None, limits: tuple[float, float], unit: str, fix: str) -> Finding:
    if value is None or not math.isfinite(value):
        return Finding(name, "warning", "not known", "look at it by hand")
    level = "failed" if value < limits[1] else "warning" if value < limits[0] else "ok"
    return Finding(name, level, f"{value:.0f} {unit}", "" if level == "ok" else fix)


def _clock_said(facts: Mapping[str, Any], limits: Limits) -> Finding:
    ahead, within = facts.get("clock_ahead_s"), facts.get("clock_within_s")
    if ahead is None or within is None:
        return Finding("clock", "warning", "not known", "look at it by hand")
    # What is certain: the way to the board may have taken the rest.
    off = max(0.0, abs(ahead) - within)
    level = "failed" if off > limits.clock_s[1] else "warning" if off > limits.clock_s[0] else "ok"
    said = f"{abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}, within {within:.3f} s"
    return Finding("clock", level, said, "" if level == "ok" else "let systemd-timesyncd or chrony set it")


def _temperature(facts: Mapping[str, Any], limits: Limits) -> Finding:
    try:
        celsius = float(facts["temperature_mc"]) / 1000
    except (KeyError, ValueError):
        return Finding("temperature", "ok", "the board does not say")
    level = (
        "failed" if celsius >= limits.temperature_c[1] else "warning" if celsius >= limits.temperature_c[0] else "ok"
    )
    return Finding("temperature", level, f"{celsius:.1f} C", "" if level == "ok" else "cool it")


# The bits of the firmware's word: now, and since the board started.
_NOW = {0: "under-voltage", 1: "the clock is capped", 2: "throttled", 3: "at the soft limit of temperature"}


def _throttling(facts: Mapping[str, Any]) -> Finding:
    try:
        word = int(str(facts["throttled"]).removeprefix("0x"), 16)
    except (KeyError, ValueError):
        return Finding("throttling", "ok", "the board does not say")
    now = [text for bit, text in _NOW.items() if word >> bit & 1]
    before = [text for bit, text in _NOW.items() if word >> (bit + 16) & 1]
    if now:
        return Finding("throttling", "failed", f"now: {', '.join(now)}", "give it a better supply, or cool it")
    if before:
        return Finding("throttling", "warning", f"since it started: {', '.join(before)}", "look at supply and heat")
    return Finding("throttling", "ok", "never since it started")


def versions_differ(values: Sequence[Mapping[str, Any]]) -> str | None:
    """One line when the boards do not all have the same version, or None."""
    counts: dict[str, int] = {}
    for value in values:
        version = value["facts"].get("version") or "nothing"
        counts[version] = counts.get(version, 0) + 1
    if len(counts) < 2:
        return None
    return "versions differ: " + ", ".join(f"{count} boards have {version}" for version, count in counts.items())
