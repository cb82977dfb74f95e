"""Coordinator and devices in a world of faults. `make sim SEEDS=2000` plays more of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutations import MUTATIONS
from run_seeds import first_failure, play
from scenario import STRAGGLERS_FROM

from coordinator.server import run_scheduler

# As many as half a minute takes.
_SEEDS = 40
_TOGETHER = 10
# Within so many seeds each old fault is found; but for one, which takes a restart in a further attempt.
_FEW, _MANY = 60, 500
_RARE = {5}
# Where a fault was found that takes many seeds from the first on: looked at before them.
_FOUND_AT = {2: 53}
# In worlds that have such a thing.
_FROM = {7: STRAGGLERS_FROM}


@pytest.fixture(autouse=True)
def _short_hold() -> None:
    """Calls are held as long as they are on a real fleet: what waits long is a part of this world."""


@pytest.mark.parametrize("first", [*range(0, _SEEDS, _TOGETHER), STRAGGLERS_FROM])
def test_no_invariant_breaks_whatever_goes_wrong(plain_bundle: Path, first: int) -> None:
    faults: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    for seed in range(first, first + _TOGETHER):
        try:
            outcome = play(seed, plain_bundle)
        except AssertionError as error:
            raise AssertionError(f"{error}; see: make sim SEEDS=1 FIRST={seed} TRACE=1") from error
        faults += outcome.faults
        checked += outcome.checked
    # A world in which nothing happens shows nothing.
    assert {"answers lost", "requests lost", "calls doubled", "calls delayed", "deaths of the coordinator"} <= set(
        faults
    )
    assert checked["each head is that of an undisturbed run"] >= _TOGETHER


# Given up with its quorum there; what a board was granted before it lost power; a budget that only seemed to refill; a
# run that was resumed, whose commit was not answered, and that nobody took up; what a paused order had cost, which the
# ledger did not count as granted when it was granted again.
@pytest.mark.parametrize("seed", [70, 5348, 7239, 10_014, 10_345])
def test_seeds_that_found_something_hold(plain_bundle: Path, seed: int) -> None:
    play(seed, plain_bundle)


@pytest.mark.parametrize(
    "number", [pytest.param(one, marks=[pytest.mark.slow] if one in _RARE else []) for one in sorted(MUTATIONS)]
)
def test_an_old_fault_that_is_put_back_is_found(plain_bundle: Path, number: int) -> None:
    most, first = _MANY if number in _RARE else _FEW, _FROM.get(number, 0)
    # Some faults need calls that are held for long, some that come again soon; both are worlds there are.
    found = _found_soon(number, plain_bundle, _FOUND_AT[number], 1) if number in _FOUND_AT else ""
    found = found or first_failure(number, plain_bundle, first, most) or _found_soon(number, plain_bundle, first, most)
    assert found, f"not within {most} seeds of either kind"


def _found_soon(number: int, bundle: Path, first: int, seeds: int) -> str:
    """In a world whose calls come again soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_scheduler, "HOLD_S", 0.1)
        patch.setattr(run_scheduler, "MOST_HOLD_S", 0.1)
        return first_failure(number, bundle, first, seeds)


def test_a_seed_is_the_same_world_each_time() -> None:
    here = Path(__file__).parent
    code = (
        f"import sys, tempfile, pathlib; sys.path.insert(0, {str(here)!r}); import run_seeds\n"
        "bundle = run_seeds.make_plain_bundle(pathlib.Path(tempfile.mkdtemp()) / 'plain')\n"
        "print([(o.digest, sorted(o.faults.items())) for o in (run_seeds.play(s, bundle) for s in (1, 2, 3))])"
    )
    said = []
    for order_of_sets in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": order_of_sets}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]
