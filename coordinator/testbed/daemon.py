"""The daemon of a board from afar: its program, started, stopped, asked after; as a service of systemd or a process."""

from __future__ import annotations

import json
from typing import Any

from coordinator.testbed.inventory import Board
from coordinator.testbed.ssh import Session
from protos.errors import CheckFailed

__all__ = ["SYSTEM_CONFIG", "blink", "config_of", "log_script", "program_of", "start", "state_of", "stop"]

SYSTEM_CONFIG = "/etc/edgejoule/device.toml"
_SYSTEM_STATE = "/var/lib/private/edgejoule"
UNIT = "edge-runtime.service"
START_S = 90.0
LOG = "daemon.log"


def config_of(board: Board) -> str:
    """The settings file of a board's daemon."""
    return SYSTEM_CONFIG if board.service == "systemd" else f"{board.place_of_ours}/device.toml"


def state_folder_of(board: Board) -> str:
    """Its state folder."""
    return _SYSTEM_STATE if board.service == "systemd" else f"{board.place_of_ours}/state"


# The unit's own program, where there is one: upgrades leave ours behind.
_PROGRAM = """
p=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/edge-runtime.service 2>/dev/null | cut -d' ' -f1 | tr -d '"')
if [ -n "$p" ] && [ "$2" = systemd ]; then echo "$p"; else echo "$1/current/bin/edge-runtime"; fi
"""


async def program_of(session: Session) -> str:
    """The `edge-runtime` that the board's daemon is, or will be."""
    board = session.board
    return (await session.must(_PROGRAM, board.place_of_ours, board.service, doing="looking for the program")).strip()


# Of a process: its number stands in a file, and it counts only while that process is ours.
_ALIVE = """
alive() {
  pid=$(cat "$1/daemon.pid" 2>/dev/null) || return 1
  case "$pid" in ''|*[!0-9]*) return 1;; esac
  grep -qz edge 2>/dev/null < "/proc/$pid/cmdline" || return 1
  case "$(sed 's/^.*) //' "/proc/$pid/stat" 2>/dev/null)" in ''|Z*) return 1;; esac
}
"""
_START = (
    _ALIVE
    + """
set -e
if alive "$1"; then echo running; exit 0; fi
cd "$1"
[ -x current/bin/edge-runtime ] || { echo "no program is installed in $1: deploy first" >&2; exit 4; }
[ -f device.toml ] || { echo "there are no settings in $1: deploy first" >&2; exit 4; }
here=$(pwd)
setsid "$here/current/bin/edge-runtime" run --config "$here/device.toml" >> daemon.log 2>&1 < /dev/null &
echo $! > daemon.pid
i=0
while [ $i -lt 20 ]; do
  sleep 0.05
  if ! kill -0 "$(cat daemon.pid)" 2>/dev/null; then tail -n 1 daemon.log >&2; exit 5; fi
  i=$((i + 1))
done
echo started
"""
)
_STOP = (
    _ALIVE
    + """
alive "$1" || { echo stopped; exit 0; }
kill "$pid"
i=0
while [ $i -lt 200 ] && alive "$1"; do sleep 0.1; i=$((i + 1)); done
if alive "$1"; then kill -9 "$pid"; echo killed; else echo ended; fi
rm -f "$1/daemon.pid"
"""
)
_STATE = (
    _ALIVE
    + """
if alive "$1"; then echo "running $pid"
elif [ -x "$1/current/bin/edge-runtime" ]; then echo stopped
else echo absent; fi
"""
)
_UNIT_STATE = """
if ! systemctl cat edge-runtime.service > /dev/null 2>&1; then echo absent; exit 0; fi
s=$(systemctl is-active edge-runtime.service)
if [ "$s" = active ]; then echo "running $(systemctl show -p MainPID --value edge-runtime.service)"; else echo "$s"; fi
"""


async def start(session: Session) -> str:
    """Start the daemon, if it does not run: "started" or "running".

    Raises:
        CheckFailed: nothing is installed, or it ended at once; with its last line.
    """
    board = session.board
    if board.service == "process":
        return (await session.must(_START, board.place_of_ours, timeout_s=START_S, doing="starting")).strip()
    before = await state_of(session)
    if before == "absent":
        raise CheckFailed("no service is installed", where=board.name, fix="run: coordinator testbed deploy")
    if before == "running":
        return "running"
    await session.must(f"systemctl start {UNIT}", timeout_s=START_S, doing="starting the service")
    return "started"


async def stop(session: Session) -> str:
    """End the daemon, if it runs: "ended", "killed" or "stopped"."""
    board = session.board
    if board.service == "process":
        return (await session.must(_STOP, board.place_of_ours, timeout_s=START_S, doing="stopping")).strip()
    if await state_of(session) != "running":
        return "stopped"
    await session.must(f"systemctl stop {UNIT}", timeout_s=START_S, doing="stopping the service")
    return "ended"


async def state_of(session: Session) -> str:
    """ "running", "stopped", "absent", or what systemd calls it."""
    board = session.board
    if board.service == "process":
        said = await session.must(_STATE, board.place_of_ours, doing="asking after the daemon")
    else:
        said = await session.must(_UNIT_STATE, doing="asking after the service")
    word = (said.split() or ["?"])[0]
    return "stopped" if word == "inactive" else word


async def version_of(session: Session, program: str) -> str | None:
    """The version of a program on the board, or None when it is not there."""
    done = await session.run('[ -x "$1" ] && "$1" --version', program, doing="asking for the version")
    words = done.out.split()
    return words[-1] if not done.code and words else None


async def identity_of(session: Session, program: str) -> dict[str, Any] | None:
    """The board's identity in its fleet, or None when it has none that still holds."""
    words = ["identity", "--json", "--state", state_folder_of(session.board)]
    done = await session.run('"$@"', program, *words, doing="asking for the identity")
    if done.code:
        return None
    try:
        made = json.loads(done.out)
    except ValueError:
        return None
    return made if isinstance(made, dict) else None


def log_script(board: Board, lines: int, *, follow: bool) -> tuple[str, ...]:
    """The script, with its arguments, that prints the daemon's newest lines, and goes on where asked to."""
    if board.service == "process":
        return f'tail -n "$2" {"-F" if follow else ""} "$1"', f"{board.place_of_ours}/{LOG}", str(lines)
    return f'journalctl --no-pager -o short-iso -n "$1" {"-f" if follow else ""} -u {UNIT}', str(lines)


# $1 name of an LED or "", $2 seconds. What drove it before drives it again, also when the connection breaks.
_BLINK = """
cd /sys/class/leds 2>/dev/null || { echo "it has no LEDs" >&2; exit 3; }
led=$1
if [ -z "$led" ]; then for one in ACT led0 PWR led1 *; do if [ -e "$one/trigger" ]; then led=$one; break; fi; done; fi
[ -n "$led" ] && [ -e "$led/trigger" ] || { echo "no LED ${1:-} is there; known: $(ls | tr '\\n' ' ')" >&2; exit 3; }
before=$(sed 's/.*\\[\\(.*\\)\\].*/\\1/' "$led/trigger")
trap 'echo "$before" > "$led/trigger"' EXIT
trap 'exit 1' HUP TERM INT
echo timer > "$led/trigger" || exit 3
sleep "$2"
echo "$led"
"""


async def blink(session: Session, seconds: float) -> str:
    """Let a LED of the board blink; its name.

    Raises:
        CheckFailed: there is none, or it may not be driven.
    """
    said = await session.must(_BLINK, session.board.led, f"{seconds:g}", timeout_s=seconds + 30, doing="blinking")
    return said.strip()
