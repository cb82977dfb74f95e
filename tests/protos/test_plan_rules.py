"""Plans: every key has a type, limits and a default, and the identity depends on all of them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_plans import PLANS, plan

from protos.errors import PlanError
from protos.plan.plan import RunPlan, parse
from protos.plan.sections import (
    AggregateSection,
    BudgetSection,
    ClosedFormSection,
    DownlinkSection,
    EvaluateSection,
    PlannerSection,
    RoundSection,
    RunSection,
    TrainSection,
    UpdateSection,
)

SECTIONS = {field.name: field for field in dataclasses.fields(RunPlan)}

# section, key, lowest, highest
NUMBERS: list[tuple[str, str, float, float]] = [
    ("run", "rounds", 1, 100_000),
    ("run", "seed", 0, 2**63 - 1),
    ("run", "priority", -100, 100),
    ("run", "share", 0.001, 1000.0),
    ("round", "devices", 1, 1_000_000),
    ("round", "quorum", 0.0, 1.0),
    ("round", "sample", 1, 1_000_000),
    ("round", "enough", 0.0, 1.0),
    ("round", "deadline_s", 0.001, 1e7),
    ("round", "late", 0, 1000),
    ("round", "buffer", 1, 1_000_000),
    ("train", "epochs", 0.001, 100_000.0),
    ("train", "steps", 1, 10_000_000),
    ("train", "rate", 1e-9, 1e3),
    ("train", "rate_decay", 0.01, 1.0),
    ("train", "momentum", 0.0, 0.999),
    ("train", "proximal_mu", 0.0, 1e6),
    ("update", "bits", 1, 8),
    ("update", "bucket", 16, 1 << 20),
    ("aggregate", "server_rate", 1e-6, 100.0),
    ("aggregate", "server_momentum", 0.0, 0.999),
    ("aggregate", "server_second", 0.0, 0.9999),
    ("aggregate", "server_tau", 1e-9, 1.0),
    ("budget", "per_round_j", 1e-6, 1e9),
    ("budget", "per_day_j", 1e-6, 1e9),
    ("budget", "total_j", 1e-6, 1e12),
    ("budget", "battery_j", 1e-6, 1e9),
    ("budget", "battery_share", 0.001, 1.0),
    ("budget", "harvest_share", 0.001, 1.0),
    ("budget", "fleet_j", 1e-6, 1e12),
    ("planner", "p_min", 0.001, 1.0),
    ("planner", "error_bound", 1e-5, 100.0),
    ("evaluate", "patience", 0, 100_000),
    ("evaluate", "until", -1e6, 1.0),
    ("evaluate", "until_j", 1e-6, 1e12),
    ("aggregate", "staleness", -1.0, 10.0),
    ("aggregate", "clip", 0.0, 100.0),
    ("aggregate", "mix", 0, 1),
    ("aggregate", "malicious", 0.0, 0.45),
    ("aggregate", "weight_cap", 1.0, 1e6),
    ("privacy", "clip", 1e-6, 1e6),
    ("privacy", "noise", 0.01, 1e3),
    ("privacy", "epsilon", 0.01, 100.0),
    ("privacy", "delta", 1e-12, 0.1),
    ("privacy", "masked", 0, 1),
    ("privacy", "bits", 4, 24),
    ("closed_form", "shrinkage", 1e-9, 1e6),
    ("closed_form", "project", 0, 4096),
]
WHOLE = {
    "late",
    "buffer",
    "masked",
    "mix",
    "priority",
    "rounds",
    "seed",
    "devices",
    "steps",
    "bits",
    "bucket",
    "patience",
    "project",
}
OTHERS = [
    ("run", "bundle"),
    ("run", "name"),
    ("run", "start_from"),
    ("run", "beside"),
    ("run", "deliver"),
    ("run", "schedule"),
    ("run", "every"),
    ("train", "inputs"),
    ("update", "codec"),
    ("update", "parameters"),
    ("downlink", "codec"),
    ("downlink", "parameters"),
    ("aggregate", "weight"),
    ("aggregate", "normalise"),
    ("aggregate", "server"),
    ("aggregate", "rule"),
    ("budget", "device"),
    ("budget", "scale"),
    ("budget", "harvest"),
    ("planner", "policy"),
    ("planner", "participation"),
    ("evaluate", "data"),
    ("train", "method"),
    ("train", "correction"),
    ("closed_form", "head"),
    ("closed_form", "priors"),
    ("closed_form", "add_to"),
    ("closed_form", "choose"),
]


def with_value(section: str, key: str, value: str) -> RunPlan:
    line = f"{key} = {value}"
    if section == "closed_form":
        return plan(f'[train]\nmethod = "closed_form"\n[{section}]\n{line}')
    if section == "privacy":
        others = {"clip": "1", "noise": "1", "epsilon": "8"} | {key: value}
        lines = "\n".join(f"{name} = {said}" for name, said in others.items())
        other = '[round]\nquorum = 1\ndevices = 3\n[aggregate]\nweight = []\nnormalise = "none"\n'
        return plan(f"{other}[privacy]\n{lines}")
    if key == "enough":
        # Enough reports are at least a quorum.
        line = f"quorum = 0\n{line}"
    if key == "staleness":
        # Where late reports are taken.
        return plan(f"[round]\nlate = 1\n[{section}]\n{line}")
    if key == "until":
        # A goal that nobody measures is none.
        line = f'data = "d"\n{line}'
    return plan(run=line) if section == "run" else plan(f"[{section}]\n{line}")


def held(made: RunPlan, section: str, key: str) -> Any:
    part = getattr(made, section)
    return part.parameters[key] if section == "update" and key in ("bits", "bucket") else getattr(part, key)


def test_the_tables_here_name_every_key_there_is() -> None:
    known = {(name, key.name) for name in SECTIONS for key in dataclasses.fields(getattr(plan(), name))}
    assert {(section, key) for section, key, *_ in NUMBERS} - {("update", "bits"), ("update", "bucket")} | set(
        OTHERS
    ) == known


def test_all_but_the_bundle_has_a_default() -> None:
    assert plan() == RunPlan(
        run=RunSection("b", "run", 10, 0),
        round=RoundSection(1, 0.5, 600.0),
        train=TrainSection(None, None, 0.05, 0.0, 0.0, {}, "sgd", 1.0),
        update=UpdateSection("uniform_stochastic", {"bits": 8.0, "bucket": 1024.0}),
        downlink=DownlinkSection("uniform_stochastic", {"bits": 8.0, "bucket": 1024.0}),
        aggregate=AggregateSection(("by_examples", "by_budget"), "fednova", 1.0, "mean", 0.9, 0.99, 1e-3),
        budget=BudgetSection(None, {}, None, None, 1.0, None, 1.0, {}, None),
        planner=PlannerSection("none", 0.05, 0.1, "known"),
        evaluate=EvaluateSection(None, 3),
        closed_form=ClosedFormSection("lda", "data", None, 0, None, "held_out"),
    )
    with pytest.raises(PlanError, match=r"run.bundle is missing; add \[run\] bundle"):
        parse("[run]\nrounds = 3")
    with pytest.raises(PlanError, match=r"run.bundle is missing"):
        parse("")


@pytest.mark.parametrize(("section", "key", "lowest", "highest"), NUMBERS)
def test_a_number_is_taken_up_to_its_limits_and_not_beyond(
    section: str, key: str, lowest: float, highest: float
) -> None:
    for value in (lowest, highest):
        assert held(with_value(section, key, repr(value)), section, key) == value
    if key in WHOLE:
        below, above = str(int(lowest) - 1), str(int(highest) + 1)
    else:
        below, above = (repr(float(np.nextafter(limit, side))) for limit, side in ((lowest, -9e99), (highest, 9e99)))
    wrong = [below, above, "true", '"3"', "[3]", "{a = 3}", "1979-05-27", "nan", "inf", "-inf"]
    if key in WHOLE:
        wrong.append("2.5")
    for value in (v for v in wrong if v != "-1" or lowest >= 0):
        with pytest.raises(PlanError, match=rf"p\.toml: {section}.*{key}") as caught:
            with_value(section, key, value)
        assert "\n" not in str(caught.value)
        if value in (below, above) and key != "sample":  # a share as well, of which the message tells
            kind = "whole number" if key in WHOLE else "number"
            named = re.search(rf"is not a {kind} from (\S+) to (\S+)$", str(caught.value))
            assert named is not None
            assert (float(named[1]), float(named[2])) == (float(lowest), float(highest))


@pytest.mark.parametrize(("section", "key"), OTHERS)
@pytest.mark.parametrize("value", ["7", "true", "1979-05-27T07:32:00Z", "nan", "[[1]]", '{a = "x"}', '"?"'])
def test_what_is_of_another_type_is_refused_with_its_place(section: str, key: str, value: str) -> None:
    if value == '"?"' and (section, key) in {
        ("run", "bundle"),
        ("run", "name"),
        ("run", "start_from"),
        ("budget", "harvest"),
        ("evaluate", "data"),
        ("closed_form", "add_to"),
    }:
        return
    if value == "true" and (section, key) == ("run", "beside"):
        return
    text = f"[{section}]\n{key} = {value}\n" + ('bundle = "b"\n' if section == "run" and key != "bundle" else "")
    with pytest.raises(PlanError, match=r"^p\.toml: "):
        parse(text if section == "run" else f'[run]\nbundle = "b"\n{text}', where="p.toml")


def test_whole_numbers_are_good_where_a_number_is_wanted_and_become_floats() -> None:
    made = plan("[train]\nrate = 1\nepochs = 3\n[budget]\nper_round_j = 4\n[budget.device]\npi = 2")
    assert [type(v) for v in (made.train.rate, made.train.epochs, made.budget.per_round_j)] == [float] * 3
    assert type(made.budget.device["pi"]) is float


def test_codec_parameters_may_stand_beside_the_codec_or_in_a_table() -> None:
    beside = plan("[update]\nbits = 4")
    assert beside.update.parameters == {"bits": 4.0, "bucket": 1024.0}
    assert beside == plan("[update.parameters]\nbits = 4")
    assert plan("[update]\nbits = 4\nparameters = {bucket = 64}").update.parameters == {"bits": 4.0, "bucket": 64.0}
    assert plan('[update]\ncodec = "float32"').update.parameters == {}


def test_the_way_down_has_a_codec_of_its_own() -> None:
    made = plan('[downlink]\ncodec = "entropy_coded_mmse"\nbits = 3')
    assert made.downlink.parameters == {"bits": 3.0, "per_tensor": 0.0}
    assert made == parse('downlink = { codec = "entropy_coded_mmse", bits = 3 }\n[run]\nbundle = "b"')
    assert made.update == plan().update
    assert made.plan_id != plan().plan_id


def test_a_budget_of_a_device_is_its_own_line_or_that_of_all() -> None:
    budget = plan("[budget]\nper_round_j = 5\n[budget.device]\npi-solar = 2").budget
    assert (budget.of("pi-solar"), budget.of("pi-1")) == (2.0, 5.0)
    some = plan('[aggregate]\nweight = ["by_examples"]\n[budget.device]\npi-solar = 2').budget
    assert (some.of("pi-solar"), some.of("pi-1")) == (2.0, None)


def test_a_plan_id_depends_on_the_content_and_not_on_how_it_is_repr() -> None:
    text = '[run]\nbundle = "b"\nrounds = 3\n[train]\nrate = 1.0\nmomentum = 0.5\n'
    same = [
        f"# a comment\n\n{text}",
        '[train]\nmomentum = 5e-1\nrate = 1\n[run]\nrounds = 0x3\nbundle = "b"',
        f'{text}[update]\ncodec = "uniform_stochastic"\nbits = 8\n',
        f"{text}[update.parameters]\nbucket = 1024.0\nbits = 8\n",
        f"{text}[round]\nquorum = 0.5\n",
    ]
    assert {parse(one).plan_id for one in same} == {parse(text).plan_id}
    inputs = "[train.inputs]\na = 1\nb = 2", "[train.inputs]\nb = 2\na = 1"
    assert plan(inputs[0]).plan_id == plan(inputs[1]).plan_id


def test_a_plan_that_says_nothing_of_newer_keys_keeps_its_id() -> None:
    """Reports that are on their way while a coordinator is upgraded name the plan by it."""
    assert plan().plan_id == "plan-70e934aa8adabae4"
    text = '[run]\nbundle = "b"\nrounds = 4\n[train]\nsteps = 7\n[evaluate]\ndata = "d.npz"'
    assert parse(text).plan_id == "plan-7c46871c47d712a6"


def test_a_closed_form_has_one_round_unless_the_plan_says_otherwise() -> None:
    closed = '[train]\nmethod = "closed_form"'
    assert plan(closed).run.rounds == 1
    assert plan(closed, run="rounds = 4").run.rounds == 4
    assert plan('[train]\nmethod = "closed_form+sgd"').run.rounds == 10


def test_whitened_steps_have_a_rate_of_their_own_unless_the_plan_says_otherwise() -> None:
    whitened = '[train]\nmethod = "closed_form+sgd"\n'
    assert (plan(whitened).train.rate, plan(whitened).train.rate_decay) == (0.2, 0.9)
    assert plan(f'{whitened}correction = "none"\n').train.rate_decay == 0.7
    assert plan(whitened + "rate = 0.05").train.rate == 0.05
    assert plan(whitened + "[closed_form]\nproject = 8").train.rate == 0.05, "projected statistics whiten nothing"
    assert plan().train.rate_decay == 1.0


def test_a_plan_id_changes_with_every_key() -> None:
    changed = [with_value(section, key, repr(lowest)) for section, key, lowest, _ in NUMBERS if key != "seed"]
    changed = [each_plan for each_plan in changed if each_plan != plan()]
    changed += [
        with_value("run", "seed", "1"),
        with_value("run", "name", '"other"'),
        with_value("run", "start_from", '"x"'),
    ]
    changed += [with_value("train", "momentum", "0.5"), with_value("train", "proximal_mu", "0.5")]
    changed += [parse('[run]\nbundle = "c"'), with_value("evaluate", "data", '"d.npz"')]
    changed += [plan("[train.inputs]\nt = 1"), plan("[train.inputs]\nt = 2"), plan("[train.inputs]\nu = 1")]
    changed += [plan('[planner]\npolicy = "joules"'), plan('[planner]\npolicy = "on_demand"')]
    changed += [plan('[planner]\nparticipation = "fedau"'), plan('[budget]\nharvest = "sun.csv"')]
    changed += [plan('[update]\ncodec = "float16"'), plan('[aggregate]\nnormalise = "none"')]
    changed += [plan("[aggregate]\nweight = []"), plan('[aggregate]\nweight = ["by_budget"]')]
    changed += [
        plan("[budget]\nper_round_j = 1\ndevice = {a = 1}"),
        plan("[budget]\nper_round_j = 1\ndevice = {b = 1}"),
    ]
    ids = [one.plan_id for one in (plan(), *changed)]
    assert len(set(ids)) == len(ids) > 25
    assert all(len(text) == 21 and text.startswith("plan-") for text in ids)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_that_comes_with_the_package_parses(path: Path) -> None:
    made = parse(path.read_text(), where=str(path))
    assert made.run.rounds >= 1
    assert json.dumps(dataclasses.asdict(made))
