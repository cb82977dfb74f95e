"""A sweep's file taken apart, its statistics against scipy's, its table."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.lab.sweep import table
from coordinator.lab.sweep.intervals import holm, mean_of, paired, t_quantile, t_tail
from coordinator.lab.sweep.results import Result
from coordinator.lab.sweep.sweep_file import read
from protos.errors import EdgejouleError, PlanError

SWEEP = """
[sweep]
name = "policies"
devices = 8
data = "fleet.npz"

[run]
bundle = "bundle"
rounds = 3
seed = [0, 1, 2]

[update]
bits = [1, 4]

[aggregate]
weight = [["by_examples"], ["by_examples", "by_budget"]]

[policy.plain]
"planner.policy" = "none"

[policy.planned]
planner = { policy = "joules" }
"budget.per_round_j" = 2.0
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def test_every_combination_is_a_cell_and_trials_go_seed_by_seed(tmp_path: Path) -> None:
    sweep = read(written(tmp_path, SWEEP))
    assert len(sweep.cells) == 2 * 2 * 2
    trials = sweep.trials(held_out="h.npz")
    assert [trial.seed for trial in trials] == [0] * 8 + [1] * 8 + [2] * 8
    assert len({trial.slug for trial in trials}) == len(trials)
    last = tomllib.loads(trials[-1].plan_toml)
    assert last["run"]["bundle"] == str(tmp_path / "bundle")
    assert last["run"]["seed"] == 2
    assert last["update"] == {"bits": 4}
    assert last["aggregate"] == {"weight": ["by_examples", "by_budget"]}
    assert (last["planner"], last["budget"]) == ({"policy": "joules"}, {"per_round_j": 2.0})
    assert last["round"] == {"devices": 8}
    assert last["evaluate"] == {"data": "h.npz"}
    assert trials[-1].cell.name == "planned, update.bits 4, aggregate.weight by_examples, by_budget"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bits = [1, 4]", "bits = [1, 1]", "sweep.toml: update.bits: is empty, or has a value twice"),
        ("bits = [1, 4]", "bits = []", "is empty"),
        ("bits = [1, 4]", "bits = [1, 99]", "bits"),
        ("bits = [1, 4]", "bitz = [1, 4]", "bitz"),
        ("seed = [0, 1, 2]", "seed = [0, -1]", "are no seeds"),
        ("rounds = 3", 'rounds = 3\nname = "x"', "is made from the sweep's name"),
        ('"planner.policy" = "none"', 'policy = "none"', "names no section"),
        ('"planner.policy" = "none"', '"update.bits" = 2', "both set update.bits"),
        ('"planner.policy" = "none"', '"planer.policy" = "none"', "did you mean 'planner'"),
        ('"planner.policy" = "none"', '"run.seed" = 4', "are the sweep's own"),
        ("devices = 8", "devices = 0", "sweep.devices"),
        ("devices = 8", "devises = 8", "did you mean 'devices'"),
        ("devices = 8", 'devices = 8\nboards = ["pi9"]', "pi9"),
        ("devices = 8", 'devices = 8\npartition = "dirichlet"', "no positive ALPHA"),
        ("devices = 8\n", "", "needs sweep.devices and sweep.data"),
        ("[policy.plain]", "[policy.'Planned!']\n[policy.plain]", "two cells would be called"),
        ('bundle = "bundle"', "", "run.bundle is missing"),
        ("[update]", "[updates]", "no section is called [updates]"),
        ("[sweep]", "[sweep", "not TOML"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SWEEP
    with pytest.raises(EdgejouleError) as error:
        read(written(tmp_path, SWEEP.replace(old, new)))
    assert said in str(error.value)


def test_a_plan_that_contradicts_itself_names_its_cell(tmp_path: Path) -> None:
    text = SWEEP.replace('"planner.policy" = "none"', '"planner.policy" = "joules"\n"round.sample" = 2')
    with pytest.raises(PlanError, match=r"cell 'plain, update\.bits 1"):
        read(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new"),
    [("seed = [", 'every = "6h"\nseed = ['), ("[policy.plain]\n", '[policy.plain]\n"run.every" = "6h"\n')],
)
def test_a_sweep_whose_plan_starts_by_itself_would_never_end_and_is_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(PlanError, match="a sweep is run when it is started"):
        read(written(tmp_path, SWEEP.replace(old, new)))


def test_intervals_and_tests_are_those_of_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(3)
    for count in (2, 3, 4, 10, 40):
        a, b = rng.normal(size=count), rng.normal(0.5, size=count)
        low, high = stats.t.interval(0.95, count - 1, a.mean(), stats.sem(a))
        found = mean_of(list(a))
        assert (found.mean, found.half) == (pytest.approx(a.mean()), pytest.approx((high - low) / 2, rel=1e-9))
        both = paired(list(a), list(b))
        assert both.p == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-9)
        assert both.higher == int((b > a).sum())
    for freedom in (1, 2, 5, 100):
        assert t_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
        for t in (0.0, 0.3, 2.0, 40.0):
            assert t_tail(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)


def test_what_is_not_known_stays_unknown() -> None:
    assert mean_of([1.0, None]).mean is None
    assert mean_of([1.0]).half is None
    assert paired([1.0, None], [2.0, 3.0]).difference.count == 1
    # No spread at all says nothing of chance.
    assert paired([1.0, 2.0], [2.0, 3.0]).p is None
    assert holm([None, None]) == [None, None]


def result(cell: str, seed: int, **figures: Any) -> Result:
    values: dict[str, Any] = {
        "final": 0.8, "best": 0.8, "energy_j": 10.0, "bytes_up": 100, "bytes_down": 100, "rounds": 3, "run_s": 1.0
    }  # fmt: skip
    return Result(f"{cell}-{seed}", cell, seed, "", "accuracy", **{**values, **figures})


def test_the_table_has_means_differences_and_the_front() -> None:
    results = [
        *(result("plain", seed, best=0.80 + seed / 100, energy_j=10.0 + seed) for seed in range(3)),
        *(result("cheap", seed, best=0.79 + seed / 100, energy_j=5.0 + seed) for seed in range(3)),
        *(result("bad", seed, best=0.70, energy_j=11.0 + seed * seed) for seed in range(3)),
    ]
    rows = table.rows_of(results, ["plain", "cheap", "bad", "not run"])
    assert [row.cell for row in rows] == ["plain", "cheap", "bad"]
    assert table.front(rows, "energy_j") == {"plain", "cheap"}
    header, body = table.shown_rows(rows)
    assert len(header) == len(body[0])
    assert body[0][4] == "11 ± 2.5 *"
    found = {
        (difference["figure"], difference["cell"]): difference
        for difference in table.differences(results, ["plain", "cheap", "bad"])
    }
    assert found["energy_j", "cheap"]["difference"] == pytest.approx(-5.0)
    assert found["energy_j", "cheap"]["p"] is None
    assert (found["energy_j", "bad"]["higher"], found["energy_j", "bad"]["pairs"]) == (3, 3)
    csv_table, csv_runs = table.csv_of(rows, results)
    assert csv_table.splitlines()[1].startswith("plain,3,accuracy,")
    assert len(csv_runs.splitlines()) == 10


def test_an_unknown_joule_is_no_figure_and_on_no_front() -> None:
    rows = table.rows_of([result("a", 0, energy_j=None), result("b", 0)], ["a", "b"])
    assert table.shown_rows(rows)[1][0][4] == "?"
    assert table.front(rows, "energy_j") == {"b"}
    assert ",," in table.csv_of(rows, [])[0]
