"""A program: runs an upgrade again and again, and kills it before one more change to the disk each time.

After each kill the machine starts again, and then the same upgrade is made once more. Prints, as JSON, how often each
version was there after the start.

    python3 killed_upgrades.py FOLDER good|bad
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from upgrade_rig import BAD, GOOD, Manager, Rig

# Events of sys.audit() that come before a change to the disk; a file that is opened to be read changes nothing.
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "subprocess.Popen")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def kill_at(number: int) -> None:
    """End this process like ``kill -9`` before its change to the disk with that number, counted from 1."""
    seen = 0

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if writes or event in _CHANGES:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def killed(root: Path, number: int, bad: bool) -> bool:
    """Upgrade in a child that is killed at that change; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        kill_at(number)
        rig, manager = Rig(root), Manager(BAD if bad else GOOD)
        switching = rig.switching(manager)
        rig.upgrade(switching)
        rig.watch(switching)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def check(rig: Rig, where: str) -> str:
    """The version whose unit is there, and which is whole."""
    text = rig.place.unit.read_text()
    assert text in (rig.unit_of(rig.old), rig.unit_of(rig.new)), f"{where}: the unit is of neither version"
    new = text == rig.unit_of(rig.new)
    environment = rig.new if new else rig.old
    assert (environment / "bin/edge-runtime").exists(), f"{where}: {environment} is gone"
    assert not new or (rig.new / "complete").exists(), f"{where}: half of a version runs"
    return "new" if new else "old"


def main() -> int:
    folder, bad = Path(sys.argv[1]), sys.argv[2] == "bad"
    # What a disk forgets in a power cut cannot be shown here, and to wait for it hundreds of times takes long.
    os.sync, os.fsync = lambda: None, lambda number: None
    after: dict[str, collections.Counter[str]] = {"kill": collections.Counter(), "boot": collections.Counter()}
    number = 0
    while True:
        number += 1
        root = folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        rig = Rig(root)
        rig.make()
        if not killed(root, number, bad):
            break
        after["kill"][check(rig, f"kill {number}")] += 1
        # The machine starts again: systemd runs the watch if it is to start with the machine.
        manager = Manager(GOOD, "boot-2")
        switching = rig.switching(manager)
        if switching._watch_link.is_symlink() and switching.watch_unit.exists():
            rig.watch(switching)
        booted = check(rig, f"boot after kill {number}")
        after["boot"][booted] += 1
        record = switching.load()
        kept = record.trial is None and record.before is not None and record.before.path == str(rig.old)
        assert (booted == "new") == kept, f"kill {number}: {booted} runs, and the record says {record}"
        # Whatever was left must not be in the way of the next upgrade.
        assert (rig.upgrade(switching, force=bad) is None) == (booted == "new")
        rig.watch(switching)
        assert check(rig, f"upgrade after kill {number}") == "new"
        assert switching.load().trial is None
        left = [path.name for path in rig.place.unit.parent.iterdir() if not path.name.endswith(".part")]
        assert "edge-runtime.service" in left, left
        assert "edge-runtime-trial.service" not in left, left
    print(json.dumps({"kills": number - 1, **after}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
