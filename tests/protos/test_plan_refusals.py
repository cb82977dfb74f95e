"""Plans that are refused: unknown names, contradictions, and what is no plan at all; one line each."""

from __future__ import annotations

import numpy as np
import pytest
from written_plans import PLANS, plan

from protos.errors import PlanError
from protos.plan.plan import parse


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[trian]\nrate = 1", r"no section is called \[trian\]; did you mean 'train'"),
        ("[train]\nrates = 1", r"\[train\] has no key 'rates'; did you mean 'rate'"),
        ("[train]\nlearning = 1", r"\[train\] has no key 'learning'"),
        ("[update]\nbit = 4", r"\[update\] has no key 'bit'; did you mean 'bits'"),
        ('[update]\ncodec = "float32"\nbits = 4', r"\[update\] has no key 'bits'"),
        ('[update]\ncodec = "float23"', r"no codec is called 'float23'; did you mean 'float32'"),
        ('[update]\ncodec = "float23"\nbits = 2', r"no codec is called 'float23'; did you mean 'float32'"),
        ('[update]\nbits = 2\ncodec = "entropy_code"', r"update: no codec is called 'entropy_code'; .*'entropy_coded'"),
        ('[downlink]\nbits = 2\ncodec = "entropy_code"', r"downlink: no codec is called 'entropy_code'"),
        ("[update]\nbits = 3\ncodec = []", r"update.codec"),
        ('[aggregate]\nweight = ["by_example"]', "no weight is called 'by_example'; did you mean 'by_examples'"),
        ('[aggregate]\nnormalise = "FedNova"', "no normalisation is called 'FedNova'; did you mean 'fednova'"),
        ('[train]\nmethod = "closed-form"', "no method is called 'closed-form'; did you mean 'closed_form'"),
        ('[train]\nmethod = "closed_form"\n[closed_form]\nhead = "lga"', "no head is called 'lga'; did you mean 'lda'"),
        ('[train]\nmethod = "closed_form"\n[closed_form]\npriors = "even"', "no prior is called 'even'"),
        ('[aggregate]\nserver = "adams"', "no server optimiser is called 'adams'; did you mean 'adam'"),
        ("train = 3", r"\[train\] is a section, not a value"),
        ("[[train]]\nrate = 1", r"\[train\] is a section, not a value"),
        ("[train\nrate = 1", "not TOML"),
        ("[train]\nrate = 1\nrate = 2", "not TOML"),
    ],
)
def test_a_name_that_is_not_known_is_answered_with_the_nearest(text: str, words: str) -> None:
    # Top-level keys must come before the first section.
    with pytest.raises(PlanError, match=words):
        parse(f'{text}\n[run]\nbundle = "b"\n', where="p.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nepochs = 1\nsteps = 5", "train.epochs and train.steps contradict each other; keep one"),
        ("[train.inputs]\nrate = 0.1", r"rate is in \[train\] and in train.inputs"),
        ("[train.inputs]\nmomentum = 0.1", r"momentum is in \[train\] and in train.inputs"),
        ("[train.inputs]\nproximal_mu = 0.1", r"proximal_mu is in \[train\] and in train.inputs"),
        ('[aggregate]\nweight = ["by_budget", "by_budget"]', "names a factor twice"),
        ("[budget.device]\npi = 0", "budget.device.pi = 0 allows no work; leave the device out"),
        ("[budget.device]\npi = -1.5", "budget.device.pi = -1.5 allows no work"),
        ("[budget.device]\npi = 3", "by_budget cannot weigh devices that have no budget against those that have; set"),
        ("[update]\nbits = 4\nparameters = {bits = 8}", "update.bits and update.parameters.bits contradict"),
        ("[update]\nparameters = {bits = 8}\nbits = 4", "update.bits and update.parameters.bits contradict"),
        ("[update.parameters]\nbits = 9", "bits = 9 is not a whole number from 1 to 8"),
        ('[downlink]\ncodec = "eden"', "what devices read depends on their processor; take entropy_coded_mmse"),
        ('[downlink]\ncodec = "sign"\nbits = 1', r"\[downlink\] has no key 'bits'"),
        ('[closed_form]\nhead = "ridge"', r"has no effect with train.method = 'sgd'; set train.method"),
        ('[train]\nmethod = "closed_form"\nsteps = 3', "a method without steps; leave it out"),
        ('[train]\nmethod = "closed_form"\n[planner]\npolicy = "joules"\n[update]\ncodec = "eden"', "no steps to plan"),
        ("[downlink]\nbits = 9", "bits = 9 is not a whole number from 1 to 8"),
        ('[downlink]\ncodec = "float32"\nbits = 2', r"\[downlink\] has no key 'bits'"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(text)


@pytest.mark.parametrize("table", ["train.inputs", "budget.device", "update.parameters"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1.1e9", "-1.1e9", "true", '"1"', "[1]"])
def test_tables_of_numbers_hold_finite_numbers_alone(table: str, value: str) -> None:
    with pytest.raises(PlanError, match=rf"p\.toml: {table}\.bits: .* is not a number from -1e9 to 1e9"):
        plan(f"[{table}]\nbits = {value}")


def test_mutated_plans_are_plans_or_plan_errors() -> None:
    rng = np.random.default_rng(1)
    texts = [path.read_text() for path in PLANS]
    parts = [
        "nan",
        "-1",
        "[",
        "]",
        "{",
        "}",
        "=",
        '"',
        "true",
        "0x" + "f" * 5000,
        "9" * 5000,
        "[" * 2000,
        "\0",
        "é",
        "\n",
    ]
    lines = []
    for number in range(3000):
        text = texts[number % len(texts)]
        for _ in range(int(rng.integers(1, 4))):
            at, cut = int(rng.integers(len(text))), int(rng.integers(0, 12))
            text = text[:at] + (parts[int(rng.integers(len(parts)))] if rng.random() < 0.7 else "") + text[at + cut :]
        try:
            parse(text, where="p.toml")
        except PlanError as error:
            lines.append(str(error))
    assert 300 < len(lines) < 2900
    assert all(len(line.splitlines()) == 1 for line in lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[planner]\npolicy = "joule"', r"no policy is called 'joule'; did you mean 'joules'"),
        ('[planner]\nparticipation = "fedavg"', r"no participation is called 'fedavg'"),
        ('[planner]\npolicy = "joules"\n[update]\ncodec = "float32"', r"codec 'float32' has no bits to plan"),
        ("[budget.scale]\na = 0", r"budget\.scale\.a = 0 allows no work"),
    ],
)
def test_a_planner_that_cannot_plan_is_refused(text: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        plan(text)
