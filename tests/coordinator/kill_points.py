"""`python tests/coordinator/kill_points.py --points 2000`: kill -9 of real coordinators at so many system calls."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent), str(_HERE.parents[1])]

from killed_anywhere import ROUNDS, Life, Point, WithStandby, calls_of, missing, play  # noqa: E402
from killed_busy import play_day  # noqa: E402
from plain_bundle import make_plain_bundle  # noqa: E402
from throwaway_postgres import missing as no_server  # noqa: E402
from throwaway_postgres import throwaway_postgres  # noqa: E402
from warm_coordinator import WarmCoordinators  # noqa: E402


def kill_at(
    warm: WarmCoordinators,
    folder: Path,
    bundle: Path,
    database: Callable[[], str | None],
    seeds: Iterable[int],
    lives: int = 1,
    *,
    busy: bool = False,
    standby: bool = False,
) -> Generator[dict[str, Any], None, None]:
    """Play runs, each with a database of its own, and say of each point what came of it, point after point.

    Args:
        seeds: one for each run.
        lives: of its coordinator that have a point each. With several, a run has as many rounds and two more, so that
            points lie in restarts and in rounds that others died in.
        busy: days of :mod:`killed_busy` in place of runs of two rounds.
        standby: on these, another coordinator stands by for the one that serves, and has points of its own.
    """
    traced, rounds = folder / "calls", ROUNDS
    heads: list[str] = []
    kind = WithStandby if standby else Life
    if busy:
        wrong = play_day(warm, folder / "calm", bundle, database(), traced=traced, kind=kind).wrong
    else:
        first = calm = play(warm, folder / "calm", bundle, database(), traced=traced)
        if lives > 1:
            rounds = lives + 2
            calm = play(warm, folder / "longer", bundle, database(), rounds=rounds)
        heads, wrong = calm.heads, [str(one) for one in (first, calm) if one.died or one.lost]
    if wrong:
        raise AssertionError(f"nothing was done to it, and yet: {wrong}")
    # Of a day with several lives each is to be reached: none is as long as the day.
    made = {call: max(1, count // (lives if busy else 1)) for call, count in calls_of(traced).items()}
    for seed in seeds:
        points = Point.one_for_each_life(seed, made, lives)
        if busy:
            day = play_day(warm, folder / f"{seed}", bundle, database(), points, kind=kind)
            died, wrong = day.died, day.wrong
        else:
            found = play(warm, folder / f"{seed}", bundle, database(), points, rounds=rounds)
            died, wrong = found.died, [str(one) for one in found.lost]
            wrong += [] if found.heads == heads else ["another head"]
        # Lives begin one after the other: points after the one that was not reached were not tried.
        for number, point in enumerate(points[: died + 1]):
            row = {"seed": seed, "life": number + 1, "call": point.call, "at": point.at, "reached": number < died}
            yield row | {"good": not wrong} | ({"wrong": wrong} if wrong else {})
        shutil.rmtree(folder / f"{seed}")


def _databases(server: str) -> Callable[[], str]:
    """Makes empty databases on a server; returns the URL of each."""
    import psycopg

    numbers = itertools.count(1)

    def make() -> str:
        name = f"points{next(numbers)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{server.rsplit('/', 1)[0]}/{name}".replace("postgresql:", "postgresql+psycopg:")

    return make


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100, help="how many are to be reached, those in --json included")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--lives", type=int, default=6, help="points of one run at most, one life after the other")
    parser.add_argument("--busy", action="store_true", help="days of several runs, late reports, pauses and a backup")
    parser.add_argument("--standby", action="store_true", help="with another that stands by, on days and a server")
    parser.add_argument("--postgresql", action="store_true", help="beside a server, in place of SQLite")
    parser.add_argument(
        "--json", type=Path, help="one line for each point, as it is done; seeds that are in it are not played again"
    )
    chosen = parser.parse_args()
    if (why := missing() or (no_server() if chosen.postgresql else None)) is not None:
        parser.error(why)
    if chosen.standby and not (chosen.postgresql and chosen.busy):
        parser.error("--standby needs --postgresql and --busy")
    there: list[dict[str, Any]] = []
    if chosen.json and chosen.json.exists():
        there = [json.loads(line) for line in chosen.json.read_text().splitlines()]
    played = {row["seed"] for row in there}
    seeds = (seed for seed in itertools.count(chosen.first) if seed not in played)
    done = len(there)
    reached, bad = (
        sum(bool(row[key]) == value for row in there) for key, value in (("reached", True), ("good", False))
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-points-")))
        bundle = make_plain_bundle(folder / "plain")
        make = _databases(stack.enter_context(throwaway_postgres())) if chosen.postgresql else lambda: None
        warm = WarmCoordinators()
        stack.callback(warm.close)
        rows = kill_at(warm, folder, bundle, make, seeds, chosen.lives, busy=chosen.busy, standby=chosen.standby)
        while reached < chosen.points:
            row = next(rows)
            done, reached, bad = done + 1, reached + row["reached"], bad + (not row["good"])
            if not row["good"]:
                print(f"seed {row['seed']}: killed at {row['call']} number {row['at']}: {row}", flush=True)
            if chosen.json:
                with chosen.json.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
        rows.close()
    print(f"{done} points, {reached} reached, {bad} with something lost, double or another head")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
