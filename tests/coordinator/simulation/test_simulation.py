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

# As many as half a minute takes.
_SEEDS = 80
_TOGETHER = 20
# Where each old fault is found soon: within 500 seeds from 0 on, and within a few from here.
_NEAR = {1: 0, 2: 10, 3: 0, 4: 0, 5: 80, 6: 0}
_FEW = 40


@pytest.mark.parametrize("first", range(0, _SEEDS, _TOGETHER))
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


@pytest.mark.parametrize("number", sorted(MUTATIONS))
def test_an_old_fault_that_is_put_back_is_found(plain_bundle: Path, number: int) -> None:
    found = first_failure(number, plain_bundle, _NEAR[number], _FEW)
    assert found, f"not within {_FEW} seeds from {_NEAR[number]} on"


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
