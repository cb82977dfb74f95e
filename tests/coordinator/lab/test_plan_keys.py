"""Any key of a plan on the demo's command line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from test_demo_settings import options, text_of

from coordinator.lab import demo_command, plan_keys
from protos.errors import PlanError, UsageError
from protos.plan import plan


def test_keys_count_above_the_plan_file_and_both_above_the_options(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('[run]\nbundle = "other"\nrounds = 8\n[train]\nrate = 0.5\nmomentum = 0.9\n')
    read = plan.parse(
        text_of(
            train={"rate": 0.1, "epochs": 3.0},
            plan_file=plan_keys.read_file(file),
            plan_keys=plan_keys.read_settings(["train.rate=0.25", "budget.device.device-1=2", "budget.per_round_j=4"]),
        )
    )
    assert (read.run.bundle, read.run.rounds) == ("/b", 8), "the bundle is the one that the devices hold"
    assert (read.train.rate, read.train.momentum, read.train.epochs) == (0.25, 0.9, 3.0)
    assert (read.budget.of("device-1"), read.budget.of("device-2")) == (2.0, 4.0)


def test_a_closed_form_has_one_round_unless_somebody_says_otherwise() -> None:
    keys = plan_keys.read_settings(["train.method=closed_form"])
    assert plan.parse(text_of(rounds=None, plan_keys=keys)).run.rounds == 1
    assert plan.parse(text_of(rounds=3, plan_keys=keys)).run.rounds == 3
    assert plan.parse(text_of(rounds=None)).run.rounds == 6


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("train.rate", "is no SECTION.KEY=VALUE; such as train.method=closed_form"),
        ("rate=3", "is no SECTION.KEY=VALUE"),
        ("run.bundle=x", "run.bundle is made by the demo; see --bundle"),
        ("evaluate.data=x", "evaluate.data is made by the demo; see --data"),
        ("round.devices=3", "round.devices is made by the demo; see --devices"),
    ],
)
def test_what_cannot_be_set_is_refused_with_what_to_do(word: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_keys.read_settings([word])


def test_a_wrong_key_is_said_before_anything_is_made(tmp_path: Path) -> None:
    target = tmp_path / "out"
    words = options("--output", str(target), "--set", "train.methot=closed_form")
    with pytest.raises(PlanError, match="did you mean 'method'"):
        demo_command.run(words)
    assert not target.exists()
    with pytest.raises(PlanError, match="cannot be read"):
        demo_command.run(options("--plan", str(tmp_path / "none.toml")))


def test_the_demo_runs_once_whatever_a_plan_says_of_times(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('[run]\nbundle = "b"\nschedule = "daily 02:00"\nrounds = 3\n')
    assert plan_keys.read_file(path) == {"run": {"rounds": 3}}
    with pytest.raises(UsageError, match=r"the demo runs once; leave it out"):
        plan_keys.read_settings(["run.every=6h"])


def test_a_document_reads_back_as_it_was() -> None:
    document = {
        "run": {"name": 'a "quoted" name, \U0001f331', "rounds": 3},
        "train": {"inputs": {"weight_decay": 0.0}},
        "aggregate": {"weight": ["by_examples"]},
        "budget": {"device": {"pi.one": 2.5, "pi-two": 1}},
    }
    assert tomllib.loads(plan_keys.as_toml(document)) == document
