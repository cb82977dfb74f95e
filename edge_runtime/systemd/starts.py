"""How long a service that fails again and again rests before it begins; systemd's own pause cannot grow before 254.

What counts are starts that came so soon after the one before that nothing can have worked. They are counted in the
state folder under the boot's id, in seconds of CLOCK_BOOTTIME, which no change of the clock moves.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

_FILE = "starts.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SOON_S = 120.0
"""A start so soon after the end of the pause before is one more failure."""
FIRST_S, MOST_S = 5.0, 300.0
_FREE = 3
"""So many starts in a row are free: upgrades and people start a service several times."""


def worked(state: Path) -> None:
    """The service ended as it was asked to: the next start is none of a row."""
    with contextlib.suppress(OSError):
        (state / _FILE).unlink(missing_ok=True)


def pause_s(
    state: Path,
    *,
    boot_id: Path = _BOOT_ID,
    now_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
) -> float:
    """Count this start, and say how many seconds to rest before it. 0 where nothing can be kept.

    After n starts in a row that each came soon: ``FIRST_S * 2**(n - 4)``, from the fourth on, at most ``MOST_S``.
    """
    path = state / _FILE
    with contextlib.suppress(OSError):
        boot, at_s = boot_id.read_text().strip(), now_s()
        row = 0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_bytes())
            if found["boot"] == boot and 0 <= at_s - float(found["at_s"]) < SOON_S:
                row = int(found["row"])
        row += 1
        rest_s = 0.0 if row <= _FREE else min(MOST_S, FIRST_S * 2.0 ** min(row - _FREE - 1, 30))
        part = path.with_name(f".{_FILE}.part")
        part.write_text(json.dumps({"boot": boot, "at_s": at_s + rest_s, "row": row}))
        part.replace(path)
        return rest_s
    return 0.0
