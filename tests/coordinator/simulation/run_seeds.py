"""`make sim SEEDS=N`: plays N seeds, and says which fail and with what command to see why."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent), str(_HERE.parents[2])]

from mutations import MUTATIONS  # noqa: E402
from plain_bundle import make_plain_bundle  # noqa: E402
from world import Outcome, World  # noqa: E402


def fast_folder() -> Path | None:
    """A folder in memory, where there is one: the simulated disk has faults of its own, and need not be a real one."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else None


def play(seed: int, bundle: Path, log: object = None) -> Outcome:
    """One seed.

    Raises:
        AssertionError: an invariant is broken.
    """
    with tempfile.TemporaryDirectory(prefix="sim-", dir=fast_folder()) as folder:
        (Path(folder) / "world").mkdir()
        return World(seed, Path(folder) / "world", bundle, log).run()


def first_failure(number: int, bundle: Path, first: int, seeds: int) -> str:
    """With an old fault put back: the first seed that fails, and how; or ""."""
    with MUTATIONS[number]():
        for seed in range(first, first + seeds):
            try:
                play(seed, bundle)
            except AssertionError as error:
                return f"seed {seed}: {error}"
    return ""


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trace", action="store_true", help="say everything that happens")
    parser.add_argument("--json", type=Path, help="write the counts there")
    parser.add_argument(
        "--put-back", type=int, choices=sorted(MUTATIONS), help="with this old fault, until it is found"
    )
    chosen = parser.parse_args()
    if chosen.put_back:
        with tempfile.TemporaryDirectory(prefix="sim-bundle-") as folder:
            found = first_failure(
                chosen.put_back, make_plain_bundle(Path(folder) / "plain"), chosen.first, chosen.seeds
            )
        print(f"fault {chosen.put_back}: {found or 'not found'}")
        return 0 if found else 1
    faults: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    failed: list[int] = []
    begin_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sim-bundle-") as folder:
        bundle = make_plain_bundle(Path(folder) / "plain")
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            try:
                outcome = play(seed, bundle, print if chosen.trace else None)
            except AssertionError as error:
                failed.append(seed)
                print(
                    f"seed {seed}: {type(error).__name__}: {error}\n    see: make sim SEEDS=1 FIRST={seed} TRACE=1",
                    flush=True,
                )
                continue
            except Exception:
                failed.append(seed)
                print(f"seed {seed}: see: make sim SEEDS=1 FIRST={seed} TRACE=1\n{traceback.format_exc()}", flush=True)
                continue
            faults += outcome.faults
            checked += outcome.checked
            ends[outcome.state] += 1
    took_s = time.perf_counter() - begin_s
    print(f"{chosen.seeds} seeds in {took_s:.1f} s: {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))}")
    for title, counts in (("faults", faults), ("invariants checked", checked)):
        print(f"{title}:")
        for name, count in sorted(counts.items()):
            print(f"  {count:9d} {name}")
    if chosen.json:
        found = {"seeds": chosen.seeds, "first": chosen.first, "seconds": round(took_s, 1), "ends": ends,
                 "faults": faults, "checked": checked, "broken": failed}  # fmt: skip
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"broken: {len(failed)}{' ' + str(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
