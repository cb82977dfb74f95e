"""`python tests/coordinator/kill_points.py --points 2000`: kill -9 of a real coordinator at so many system calls."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent), str(_HERE.parents[1])]

from killed_anywhere import Point, calls_of, missing, play  # noqa: E402
from plain_bundle import make_plain_bundle  # noqa: E402
from throwaway_postgres import missing as no_server  # noqa: E402
from throwaway_postgres import throwaway_postgres  # noqa: E402
from warm_coordinator import WarmCoordinators  # noqa: E402


def kill_at(
    warm: WarmCoordinators, folder: Path, bundle: Path, database: Callable[[], str | None], seeds: Iterable[int]
) -> Iterator[dict[str, Any]]:
    """Play the points of these seeds, each with a database of its own, and say of each what came of it."""
    traced = folder / "calls"
    calm = play(warm, folder / "calm", bundle, database(), None, traced)
    if calm.died or calm.lost:
        raise AssertionError(f"nothing was done to it, and yet: {calm}")
    made = calls_of(traced)
    for seed in seeds:
        point = Point.drawn(seed, made)
        found = play(warm, folder / f"{seed}", bundle, database(), point)
        yield {
            "seed": seed,
            "call": point.call,
            "at": point.at,
            "reached": found.died,
            "lost": len(found.lost),
            "good": found.heads == calm.heads and not found.lost,
        }
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
    parser.add_argument("--points", type=int, default=100, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--postgresql", action="store_true", help="beside a server, in place of SQLite")
    parser.add_argument("--json", type=Path, help="one line for each point, as it is done")
    chosen = parser.parse_args()
    if (why := missing() or (no_server() if chosen.postgresql else None)) is not None:
        parser.error(why)
    seeds = range(chosen.first, chosen.first + chosen.points)
    done = reached = bad = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-points-")))
        bundle = make_plain_bundle(folder / "plain")
        make = _databases(stack.enter_context(throwaway_postgres())) if chosen.postgresql else lambda: None
        warm = WarmCoordinators()
        stack.callback(warm.close)
        for row in kill_at(warm, folder, bundle, make, seeds):
            done, reached, bad = done + 1, reached + row["reached"], bad + (not row["good"])
            if not row["good"]:
                print(f"seed {row['seed']}: killed at {row['call']} number {row['at']}: {row}", flush=True)
            if chosen.json:
                with chosen.json.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
    print(f"{done} points, {reached} reached, {bad} with something lost, double or another head")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
