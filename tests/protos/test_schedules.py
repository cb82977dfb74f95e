"""When a plan starts by itself: its times, also where clocks are put forward and back, and the text of each run."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from written_plans import plan

from protos.errors import PlanError
from protos.plan.plan import parse
from protos.plan.plan_times import at_once, with_times
from protos.plan.schedule import Times, in_words, times_of

# A Monday, 2026-01-05 06:00 UTC.
MONDAY = 1_767_592_800.0
HOUR, DAY = 3600.0, 86_400.0


def times(schedule: str | None = None, every: str | None = None) -> Times:
    found = times_of(schedule, every, "p.toml")
    assert found is not None
    return found


def test_a_time_of_day_comes_once_a_day() -> None:
    nightly = times("daily 02:00")
    assert in_words(nightly.next(MONDAY, MONDAY)) == "2026-01-06 02:00 UTC"
    count, first, newest = nightly.due(MONDAY, MONDAY + 3 * DAY, MONDAY)
    assert (count, first, newest) == (3, MONDAY + 20 * HOUR, MONDAY + 20 * HOUR + 2 * DAY)
    assert nightly.due(MONDAY + 20 * HOUR, MONDAY + 20 * HOUR + 1, MONDAY) == (0, None, None), "it was decided"


def test_some_days_of_the_week() -> None:
    some = times("mon,thu 07:30")
    assert in_words(some.next(MONDAY, MONDAY)) == "2026-01-05 07:30 UTC"
    assert in_words(some.next(MONDAY + DAY, MONDAY)) == "2026-01-08 07:30 UTC"
    assert in_words(times("sun 05:00").next(MONDAY, MONDAY)) == "2026-01-11 05:00 UTC"


def test_every_so_often_the_first_time_is_at_once() -> None:
    often = times(every="6h")
    assert often.due(MONDAY - 1, MONDAY, MONDAY) == (1, MONDAY, MONDAY)
    assert often.next(MONDAY, MONDAY) == MONDAY + 6 * HOUR
    assert often.due(MONDAY, MONDAY + 13 * HOUR, MONDAY) == (2, MONDAY + 6 * HOUR, MONDAY + 12 * HOUR)


@pytest.mark.parametrize(
    ("day", "shown"),
    [
        ("2026-03-28", "02:30"),
        # 02:30 is not there: what the clock before would have shown.
        ("2026-03-29", "03:30"),
        ("2026-03-30", "02:30"),
        # 02:30 is there twice: the first.
        ("2026-10-25", "02:30"),
        ("2026-10-26", "02:30"),
    ],
)
def test_a_day_whose_clocks_are_changed_has_its_time_just_once(day: str, shown: str) -> None:
    zone = ZoneInfo("Europe/Berlin")
    local = times("daily 02:30 Europe/Berlin")
    begin = datetime.fromisoformat(day).replace(tzinfo=zone).timestamp()
    end = datetime.fromisoformat(day).replace(hour=23, minute=59, tzinfo=zone).timestamp()
    count, first, _ = local.due(begin, end, begin)
    assert count == 1
    assert first is not None
    assert f"{datetime.fromtimestamp(first, zone):%H:%M}" == shown
    assert datetime.fromtimestamp(first, zone).fold == 0


def test_a_coordinator_that_was_away_for_ten_years_need_not_count_each_day() -> None:
    count, _, newest = times("daily 02:00").due(MONDAY, MONDAY + 3650 * DAY, MONDAY)
    assert count >= 400
    assert newest == MONDAY + 3649 * DAY + 20 * HOUR
    assert times(every="1m").due(MONDAY, MONDAY + 3650 * DAY, MONDAY)[0] == 3650 * 1440


def test_a_clock_that_was_set_back_makes_nothing_due() -> None:
    assert times("daily 02:00").due(MONDAY + DAY, MONDAY, MONDAY) == (0, None, None)
    assert times(every="1h").due(MONDAY + DAY, MONDAY, MONDAY) == (0, None, None)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('schedule = "daily 2:00"', r"p.toml: run.schedule: 'daily 2:00' is no time of day; write it like"),
        ('schedule = "daily 24:00"', "no time of day"),
        ('schedule = "hourly"', "no time of day"),
        ('schedule = "mon,tus 02:00"', "no day is called 'tus'; take some of mon, tue"),
        ('schedule = "daily 02:00 Europe/Atlantis"', "no zone is called 'Europe/Atlantis' here"),
        ('schedule = "daily 02:00 ../etc/passwd"', "no zone is called"),
        ('every = "10s"', "p.toml: run.every: '10s' is less than a minute"),
        ('every = "sometimes"', "run.every: 'sometimes' is no length of time"),
        ('every = "6h"\nschedule = "daily 02:00"', "both say when the run starts; keep one of them"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_key(line: str, what: str) -> None:
    with pytest.raises(PlanError, match=what):
        plan(run=line)


def test_the_plan_of_each_run_is_the_same_without_its_times_and_has_the_name_of_such_a_plan() -> None:
    text = (
        '# every night\n[run]\nbundle = "b"\nschedule = "daily 02:00"  # when it is cheap\nrounds = 3\n'
        "[train]\nsteps = 2\n"
    )
    made, values = at_once(text, parse(text))
    assert made == '# every night\n[run]\nbundle = "b"\nrounds = 3\n[train]\nsteps = 2\n'
    assert values.times is None
    assert values.plan_id == parse(made).plan_id != parse(text).plan_id


def test_times_that_cannot_be_told_from_the_rest_are_refused_when_the_plan_is_given() -> None:
    text = 'run = {bundle = "b", every = "6h"}\n'
    with pytest.raises(PlanError, match=r"cannot be told from the rest; write it as a line of its own"):
        at_once(text, parse(text))


def test_times_of_a_command_take_the_place_of_those_of_the_plan() -> None:
    text = '[train]\nsteps = 2\n\n[run]  # what\nbundle = "b"\nevery = "6h"\n'
    made = with_times(text, schedule="daily 02:00")
    assert made == '[train]\nsteps = 2\n\n[run]  # what\nschedule = "daily 02:00"\nbundle = "b"\n'
    assert parse(made).times == times("daily 02:00")
    with pytest.raises(PlanError, match=r"no line \[run\]"):
        with_times('run.bundle = "b"\n', every="6h")
