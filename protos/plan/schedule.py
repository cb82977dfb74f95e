"""When a plan starts by itself: ``schedule = "daily 02:00"`` or ``every = "6h"`` in ``[run]``.

Times are instants of the coordinator's wall clock, seconds since 1970 UTC. A time of day is of UTC, as a day's budgets
are, unless a zone of the IANA data base stands behind it. Then a day has each time just once: where clocks are put back
the earlier of the two, where they are put forward and it is not there the instant that the clock before would have
shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from protos.durations import DAY_S, duration_s
from protos.errors import PlanError, UsageError

__all__ = ["KEYS", "Times", "in_words", "times_of"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
KEYS = ("schedule", "every")
# Whoever wants one run behind the other takes more rounds.
LEAST_S = 60.0
# A coordinator that was away for years tells how many times it missed, and need not count each of them.
_MOST_DAYS = 400
_WRITTEN = re.compile(r"(daily|[a-z]{3}(?:,[a-z]{3})*)\s+(\d{2}):(\d{2})(?:\s+(\S+))?")


@dataclass(frozen=True)
class Times:
    """When runs of a plan start.

    Attributes:
        every_s: so many seconds apart, the first at once; None: at a time of day.
        days: of the week, 0 Monday.
        minute: of the day, 0 to 1439.
        zone: whose day it is.
    """

    every_s: float | None = None
    days: tuple[int, ...] = tuple(range(7))
    minute: int = 0
    zone: tzinfo = UTC

    def due(self, after_s: float, until_s: float, begun_s: float) -> tuple[int, float | None, float | None]:
        """How many times lie in (``after_s``, ``until_s``], the first and the newest of them; None without any.

        Args:
            after_s, until_s: Unix seconds.
            begun_s: when the plan was given: of ``every`` the first time.
        """
        if until_s <= after_s:
            return 0, None, None
        if self.every_s is not None:
            # The k-th time is begun + k every, k = 0, 1, ...
            first = max(0, math.floor((after_s - begun_s) / self.every_s) + 1)
            last = math.floor((until_s - begun_s) / self.every_s)
            if last < first:
                return 0, None, None
            return last - first + 1, begun_s + first * self.every_s, begun_s + last * self.every_s
        found = [value for value in self._from(after_s, until_s) if after_s < value <= until_s]
        return (len(found), found[0], found[-1]) if found else (0, None, None)

    def next(self, after_s: float, begun_s: float) -> float:
        """The first time after an instant, Unix seconds."""
        if self.every_s is not None:
            return begun_s + max(0, math.floor((after_s - begun_s) / self.every_s) + 1) * self.every_s
        # Nine days hold each day of the week, and whatever a zone does to its clocks.
        return next(value for value in self._from(after_s, after_s + 9 * DAY_S) if value > after_s)

    def _from(self, after_s: float, until_s: float) -> Iterator[float]:
        """Times of day around (``after_s``, ``until_s``], in their order; of a very long stretch the newest."""
        last = datetime.fromtimestamp(until_s, self.zone).date() + timedelta(days=1)
        first = max(
            datetime.fromtimestamp(after_s, self.zone).date() - timedelta(days=1), last - timedelta(days=_MOST_DAYS)
        )
        for number in range((last - first).days + 1):
            day = first + timedelta(days=number)
            if day.weekday() in self.days:
                yield self._at(day)

    def _at(self, day: date) -> float:
        hour, minute = divmod(self.minute, 60)
        return datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone, fold=0).timestamp()


def times_of(schedule: str | None, every: str | None, where: str) -> Times | None:
    """What the two keys mean; None where neither is there.

    Raises:
        PlanError: both are, or one cannot be read.

    >>> times_of("mon,thu 02:30", None, "plan").days
    (0, 3)
    """
    if schedule is None and every is None:
        return None
    if schedule is not None and every is not None:
        what = "run.schedule and run.every both say when the run starts"
        raise PlanError(what, where=where, fix="keep one of them")
    if every is not None:
        place = f"{where}: run.every"
        try:
            every_s = duration_s(every, place)
        except UsageError as error:
            raise PlanError(error.what, where=place, fix=error.fix) from error
        if every_s < LEAST_S:
            raise PlanError(f"{every!r} is less than a minute", where=place, fix='write "1m" or more')
        # Times are whole seconds: they are written down and found again.
        return Times(every_s=float(round(every_s)))
    assert schedule is not None
    place, fix = f"{where}: run.schedule", 'write it like "daily 02:00", "mon,thu 02:00" or "daily 02:00 Europe/Berlin"'
    found = _WRITTEN.fullmatch(schedule.strip())
    if found is None or int(found[2]) > 23 or int(found[3]) > 59:
        raise PlanError(f"{schedule!r} is no time of day", where=place, fix=fix)
    names = DAYS if found[1] == "daily" else tuple(found[1].split(","))
    for name in names:
        if name not in DAYS:
            raise PlanError(f"no day is called {name!r}", where=place, fix=f"take some of {', '.join(DAYS)}")
    days = tuple(sorted({DAYS.index(name) for name in names}))
    return Times(days=days, minute=60 * int(found[2]) + int(found[3]), zone=_zone(found[4], place))


def _zone(name: str | None, place: str) -> tzinfo:
    if name is None or name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # what is not there is a KeyError
        fix = "take a name such as Europe/Berlin, or leave it out for UTC"
        raise PlanError(f"no zone is called {name!r} here", where=place, fix=fix) from error


def in_words(unix_s: float) -> str:
    """An instant as people read it, in UTC: ``2026-11-30 02:00 UTC``."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"
