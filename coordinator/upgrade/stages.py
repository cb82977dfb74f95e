"""Who gets a new version when: the canaries first, then the others in waves; and when to stop.

Rules kept here:

* Stage 0 are the canaries. The next stage opens when each of them runs the new version for good: one that is away, or
  on trial, is waited for.
* A wave is done when each of its devices keeps the new version, has failed, or belongs to the fleet no more. Those that
  are away hold up nobody: they get it when they are back, whatever stage is open by then.
* The first canary that fails, or that is revoked and so shows nothing any more, stops all; of the others, more than
  ``may_fail`` that fail. Who has begun goes on: a board finishes its trial, or goes back, by itself.
* A board that has begun and is not heard of for longer than all of it can take has failed: :data:`BEYOND_S` and
  twice the time of its trial, in which somebody listened for it.

Nothing here waits or asks for the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from coordinator.store.upgrades import Row

__all__ = ["BEGUN", "BEYOND_S", "DONE", "decided", "lost", "order", "stages_of"]

BEGUN = frozenset({"offered", "checked", "trial"})
DONE = frozenset({"kept", "failed", "revoked"})
BEYOND_S = 3600.0
"""Fetching, installing and the self check take minutes on the slowest board."""


def order(names: Iterable[str], present: Callable[[str], bool], canaries: int, wave: int) -> list[Row]:
    """Each device with its stage; canaries are chosen among those that are here, by name.

    >>> [(one.device_id, one.stage) for one in order("abcde", lambda name: name != "a", 1, 2)]
    [('b', 0), ('c', 1), ('d', 1), ('e', 2), ('a', 2)]
    """
    sorted_names = sorted(dict.fromkeys(names), key=lambda name: (not present(name), name))
    rows = [Row(name, 0) for name in sorted_names[:canaries]]
    return rows + [Row(name, 1 + at // wave) for at, name in enumerate(sorted_names[canaries:])]


def stages_of(rows: Mapping[str, Row]) -> int:
    """How many stages there are."""
    return 1 + max((row.stage for row in rows.values()), default=0)


def lost(rows: Iterable[Row], now_unix_s: float, trial_s: float, silent_s: Callable[[str], float]) -> Sequence[Row]:
    """Devices that have begun and did not come back, as rows that say so.

    Args:
        silent_s: for how long somebody listened for a device and heard nothing; 0 for one that is here.
    """
    limit_s = 2 * trial_s + BEYOND_S
    return [
        replace(row, state="failed", reason="did not come back", changed_unix_s=now_unix_s)
        for row in rows
        if row.state in BEGUN and silent_s(row.device_id) > limit_s
    ]


def decided(rows: Mapping[str, Row], stage: int, may_fail: int, present: Callable[[str], bool]) -> tuple[str, str, int]:
    """What becomes of an upgrade: state, why, and the stage that is open now.

    >>> rows = {"a": Row("a", 0, "kept"), "b": Row("b", 1)}
    >>> decided(rows, 0, 1, lambda name: True)
    ('on', '', 1)
    """
    for row in rows.values():
        if row.stage == 0 and row.state in ("failed", "revoked"):
            return "stopped", f"canary {row.device_id} failed: {row.reason}", stage
    failed = [row for row in rows.values() if row.stage > 0 and row.state == "failed"]
    if len(failed) > may_fail:
        names = ", ".join(row.device_id for row in failed[:5])
        return "stopped", f"{len(failed)} devices failed ({names}), and {may_fail} may", stage
    if all(row.state in DONE for row in rows.values()):
        kept = sum(row.state == "kept" for row in rows.values())
        return "finished", f"{kept} of {len(rows)} devices keep it", stage
    last = stages_of(rows) - 1
    while stage < last and all(_passes(row, present) for row in rows.values() if row.stage == stage):
        stage += 1
    return "on", "", stage


def _passes(row: Row, present: Callable[[str], bool]) -> bool:
    if row.stage == 0:
        return row.state == "kept"
    return row.state in DONE or (row.state == "waiting" and not present(row.device_id))
