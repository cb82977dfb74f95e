"""Runs on the emulated machine, as root, when it has started: puts the service there as a user would, and looks at it.

Two runs of one round each. In the first the service embeds all examples and trains; then it is started again, and in
the second it finds them cached. Then the service goes, and the life of the Debian package begins. What was found goes
to a file on the disk; steps are told on the console.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import traceback
from pathlib import Path

import arm_inside_package
from arm_inside import UNIT, call, entries, say, shown, watch

PROGRAM = "/opt/edgejoule/bin/edge-runtime"
RESULT = Path("/srv/result.json")
found: dict[str, object] = {}


def network() -> None:
    """The one neighbour is the machine outside; there is no way further."""
    (device,) = (path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
    call("ip", "link", "set", device, "up")
    call("ip", "address", "add", "10.0.2.15/24", "dev", device)
    # The daemon speaks over loopback only: what an SSH tunnel does on a board, systemd's forwarder does here.
    call("systemctl", "start", "coordinator-tunnel.socket")


def cgroup() -> dict[str, str]:
    folder = Path("/sys/fs/cgroup") / shown("ControlGroup").lstrip("/")
    names = ("memory.max", "memory.peak", "memory.events", "pids.max")
    return {name: (folder / name).read_text().strip() for name in names if (folder / name).exists()}


def credential(pid: str) -> dict[str, object]:
    """What the service finds in $CREDENTIALS_DIRECTORY."""
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (folder,) = (text.partition(b"=")[2].decode() for text in environ if text.startswith(b"CREDENTIALS_DIRECTORY="))
    path = Path(f"/proc/{pid}/root{folder}/device-key")
    same = path.read_bytes() == Path("/etc/edgejoule/device.key").read_bytes()
    return {"same": same, "mode": oct(path.stat().st_mode & 0o777), "user": Path(f"/proc/{pid}").stat().st_uid}


def enforced() -> str:
    """How a unit ends that takes 192 MB where 64 are allowed; this machine has no swap to hide them in."""
    code = "block = bytearray(192 << 20); print(sum(block[::4096]))"
    command = (
        "systemd-run",
        "--wait",
        "--unit",
        "greedy",
        "--property",
        "MemoryMax=64M",
        "/usr/bin/python3.11",
        "-c",
        code,
    )
    subprocess.run(command, capture_output=True, check=False)
    said = call("journalctl", "--unit", "greedy", "--no-pager", "--output", "cat")
    return "oom-kill" if "oom-kill" in said else said[-300:]


def trial() -> None:
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    found["total_kb"] = int(memory["MemTotal"].split()[0])
    found["machine"] = call("uname", "-srm").strip()
    cores = Path("/proc/cpuinfo").read_text()
    found["cortex_a53"] = "0xd03" in cores
    found["systemd"] = call("systemctl", "--version").splitlines()[0]
    network()
    install = ("service", "install", "--credential", "device-key:/etc/edgejoule/device.key")
    call(PROGRAM, *install)
    say("the service is installed")
    pid = shown("MainPID")
    found["active"] = shown("ActiveState")
    found["type"] = shown("Type")
    found["credential"] = credential(pid)
    found["embedding"] = watch(1)
    say("run 1 is done")
    call("systemctl", "restart", UNIT)
    say("the service was started again")
    found["cached"] = watch(2)
    say("run 2 is done")
    found["cgroup"] = cgroup()
    found["memory_max"] = shown("MemoryMax")
    found["restarts"] = int(shown("NRestarts"))
    found["watchdog_us"] = shown("WatchdogUSec")
    found["service"] = json.loads(call(PROGRAM, "service", "status", "--json", check=False) or "null")
    messages = [entry["MESSAGE"] for entry in entries() if isinstance(entry.get("MESSAGE"), str)]
    found["ready"] = [message for message in messages if message.startswith("ready")]
    (cache,) = Path("/var/lib/private/edgejoule/embeddings").glob("*/embeddings.npy")
    found["embeddings_sha256"] = hashlib.sha256(cache.read_bytes()).hexdigest()
    found["exposure"] = call("systemd-analyze", "security", "--no-pager", UNIT, check=False).strip().splitlines()[-1:]
    found["greedy"] = enforced()
    call("systemctl", "stop", UNIT)
    found["stopped"] = shown("Result")
    call(PROGRAM, "service", "uninstall", "--purge")
    found["package"] = arm_inside_package.life()


if __name__ == "__main__":
    try:
        trial()
    except BaseException:
        found["error"] = traceback.format_exc()
        found["journal"] = call("journalctl", "--no-pager", "--boot", check=False)[-6000:]
    RESULT.write_text(json.dumps(found))
    subprocess.run(["sync"], check=False)
    say("the end")
