"""A plan over boards that do not exist: the real coordinator and the real rounds, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion_models import diffusion_models

from coordinator.api import simulate
from coordinator.run.evaluation import Evaluator
from coordinator.simulation.links import Link
from coordinator.simulation.results import PHASES, Simulated
from protos.energy.trace import Phase
from protos.errors import PlanError, RefusedError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle

PLAN = {
    "run": {"name": "simulated", "rounds": 3, "seed": 3},
    "train": {"rate": 0.2, "epochs": 1},
    "aggregate": {"weight": ["by_examples"]},
}

QUORUM, ALIKE = {"quorum": 0.7}, {"weight": [], "normalise": "none"}

Run = Callable[..., Simulated]


@pytest.fixture(scope="module")
def run(digits: Path) -> Run:
    """Eight boards on the digits, unless the arguments say otherwise."""

    def made(plan: Any = None, **more: Any) -> Simulated:
        given: dict[str, Any] = {"devices": 8, "data": str(digits / "digits.npz"), "bundle": digits / "digits"}
        return simulate(plan or PLAN, **(given | more))

    return made


@pytest.fixture(scope="module")
def plain(run: Run) -> Simulated:
    return run()


def test_a_simulated_run_has_the_rows_of_a_real_one(plain: Simulated) -> None:
    outcome = plain.outcome
    assert outcome.run["state"] == "finished"
    assert [row["round"] for row in outcome.rounds] == [0, 1, 2, 3]
    assert len(outcome.devices) == 3 * 8
    assert all(row["outcome"] == "accepted" and row["send_known"] for row in outcome.devices)
    assert outcome.run["final_accuracy"] > outcome.run["initial_accuracy"] + 0.05
    assert outcome.run["energy_j"] == pytest.approx(sum(row["energy_j"] for row in outcome.devices))
    assert {row["method"] for row in outcome.phases} == {"estimated"}
    assert {row["sensor"] for row in outcome.phases} == {
        f"simulated:{name}" for name in ("pi4", "pi5", "pi-zero-2", "coral-dev")
    }


def test_the_arrays_are_the_rows(plain: Simulated) -> None:
    arrays = plain.arrays
    assert arrays["energy_j"].shape == (3, 8, len(PHASES))
    assert arrays["accepted"].all()
    assert np.allclose(arrays["accuracy"], [row["accuracy"] for row in plain.outcome.rounds])
    for phase in plain.outcome.phases:
        where = phase["round"] - 1, plain.device_ids.index(phase["device_id"]), PHASES.index(phase["phase"])
        assert arrays["energy_j"][where] == phase["energy_j"]
    assert arrays["bytes_up"].sum() == plain.outcome.run["bytes_up"]
    assert arrays["examples"].sum() == 1437
    # Everything that was spent was told, since nothing was lost.
    spent_j = arrays["energy_j"][:, :, 1:]
    assert np.allclose(np.nansum(spent_j, axis=(0, 2)), arrays["true_j"])
    # Embedding is paid for once.
    embed_j = arrays["energy_j"][:, :, PHASES.index(Phase.EMBED)]
    assert (embed_j[0] > 0).all()
    assert (embed_j[1:] < 1e-4).all()


def test_the_head_is_that_of_the_last_round(plain: Simulated, digits: Path) -> None:
    bundle = open_bundle(digits / "digits")
    with np.load(digits / "digits.npz") as data:
        chosen = np.asarray(data["is_test"])
        x, y = data["x"][chosen], data["y"][chosen]
    found = Evaluator(bundle, Backbone(bundle).embed(x), y.astype(np.int32)).evaluate(plain.head)
    assert found.accuracy == pytest.approx(plain.outcome.run["final_accuracy"])


def test_the_same_arguments_give_the_same_bits(run: Run) -> None:
    hard: dict[str, Any] = {"dropout": 0.3, "stragglers": 0.25, "away_s": 5.0, "seed": 4, "spread": 0.5}
    plan = PLAN | {"round": {"quorum": 0.5, "deadline_s": 20.0}, "budget": {"per_round_j": 2.0}}
    one, other = run(plan, **hard), run(plan, **hard)
    assert one.outcome == other.outcome
    assert all(np.array_equal(one.head[name], other.head[name]) for name in one.head)
    assert all(np.array_equal(one.arrays[name], other.arrays[name], equal_nan=True) for name in one.arrays)
    assert one.virtual_s == other.virtual_s
    another = run(plan, **(hard | {"seed": 5}))
    assert another.outcome != one.outcome


@pytest.mark.workshop
def test_a_denoiser_draws_its_noise_on_boards_that_do_not_exist(tmp_path: Path) -> None:
    models = diffusion_models(tmp_path)
    # Boards have no use for one.
    plan = PLAN | {"run": PLAN["run"] | {"deliver": "none"}, "train": {"rate": 0.005, "epochs": 2}}
    found = simulate(plan, devices=3, data=str(models / "fleet.npz"), bundle=models / "bundle")
    assert found.outcome.run["state"] == "finished"
    assert found.arrays["accepted"].all()
    losses = [row["loss"] for row in found.outcome.rounds]
    assert losses[-1] < losses[0]


def test_heads_do_not_depend_on_boards_where_nothing_is_cut_short(run: Run, plain: Simulated) -> None:
    other = run(boards=["pi3b-plus"], links=["lte", "cat-m"], noise=0.5, stragglers=0.5)
    assert all(np.array_equal(plain.head[name], other.head[name]) for name in plain.head)
    assert other.virtual_s > plain.virtual_s
    assert other.outcome.run["bytes_up"] == plain.outcome.run["bytes_up"]


def test_joules_follow_the_table_of_boards_and_links(run: Run) -> None:
    free = Link("free", 0.0, 0.0, 0.0, 1e12, 1e12, 0.0)
    dear = Link("dear", 1e-3, 0.0, 5.0, 1e12, 1e12, 0.0)
    still = {"spread": 0.0, "noise": 0.0, "boards": ["pi4"]}
    one, two = run(links=[free], **still), run(links=[dear], **still)
    train, send = PHASES.index(Phase.TRAIN), PHASES.index(Phase.SEND)
    # Of a Pi 4 with one core at work: 3.15 W, by the table of boards.
    watts = one.arrays["energy_j"][..., train] / one.arrays["seconds"][..., train]
    assert np.allclose(watts, 3.15)
    more_j = two.arrays["energy_j"][..., send] - one.arrays["energy_j"][..., send]
    waited_j = 2.10 * (two.arrays["seconds"][..., send] - one.arrays["seconds"][..., send])
    assert np.allclose(more_j - waited_j, 5.0 + 1e-3 * two.arrays["bytes_up"], rtol=1e-9)


def test_a_budget_cuts_steps_and_is_kept(run: Run) -> None:
    long = PLAN | {"train": {"rate": 0.05, "epochs": 60}}
    free = run(long)
    limit_j = 0.5 * float(np.median(np.nansum(free.arrays["energy_j"][..., 1:], axis=2)))
    cut = run(long | {"budget": {"per_round_j": limit_j}})
    told_j = np.nansum(cut.arrays["energy_j"][..., 1:], axis=2)
    # In the first round nobody knows what sending costs here; a board that cannot even send makes no step.
    worked = (cut.arrays["steps"] > 0) & (np.arange(3) > 0)[:, None]
    assert worked.sum() >= 10
    assert (told_j[worked] <= limit_j).all()
    assert cut.arrays["cut"].any()
    assert cut.arrays["steps"].sum() < free.arrays["steps"].sum()


def test_boards_that_lose_their_power_are_missing_and_come_back(run: Run) -> None:
    lost = run(PLAN | {"round": {"quorum": 0.3, "deadline_s": 30.0}}, dropout=0.5, away_s=2.0, seed=1)
    assert lost.outcome.run["state"] == "finished"
    accepted = lost.arrays["accepted"]
    assert 0 < accepted.sum() <= lost.arrays["ordered"].sum()
    # What they spent before the power went was told by nobody.
    told_j = np.nansum(lost.arrays["energy_j"][..., 1:], axis=(0, 2))
    assert (lost.arrays["true_j"] >= told_j - 1e-9).all()
    assert (lost.arrays["true_j"] > told_j + 1e-9).any()


def test_who_is_slower_than_the_deadline_sends_what_it_has(run: Run) -> None:
    long = PLAN | {"train": {"rate": 0.05, "epochs": 60}, "run": {"name": "late", "rounds": 1, "seed": 3}}
    free = run(long)
    longest_s = float(np.nansum(free.arrays["seconds"][0, :, 1:], axis=1).max())
    late = run(long | {"round": {"quorum": 0.3, "deadline_s": 0.6 * longest_s}})
    reasons = {row["stop_reason"] for row in late.outcome.devices if row["outcome"] == "accepted"}
    assert reasons == {"completed", "deadline"}
    assert late.arrays["accepted"].all()
    assert late.virtual_s < free.virtual_s


def test_who_is_not_waited_for_stops_when_it_is_told(run: Run, plain: Simulated) -> None:
    early = run(PLAN | {"round": {"enough": 0.5, "quorum": 0.3, "deadline_s": 600.0}}, stragglers=0.5, slowdown=50.0)
    assert early.outcome.run["state"] == "finished"
    assert early.virtual_s < 50 * plain.virtual_s
    assert (early.arrays["accepted"].sum(axis=1) >= 4).all()
    assert (early.arrays["accepted"].sum(axis=1) < 8).any()


def test_other_methods_run_as_they_do_on_boards(run: Run) -> None:
    solved = run({"run": {"name": "solved", "seed": 3}, "train": {"method": "closed_form"}})
    assert solved.outcome.run["state"] == "finished"
    assert solved.outcome.run["final_accuracy"] > 0.9
    kept = run(PLAN | {"update": {"codec": "keep_largest", "share": 0.2}})
    assert kept.outcome.run["final_accuracy"] > kept.outcome.run["initial_accuracy"]


def test_rounds_are_told_when_they_close(run: Run) -> None:
    seen: list[tuple[int, float | None]] = []
    made = run(on_round=lambda one: seen.append((one.round, one.accuracy)))
    assert seen == [(row["round"], row["accuracy"]) for row in made.outcome.rounds if row["round"]]


def test_it_runs_where_an_event_loop_is_on_as_in_a_notebook(run: Run, plain: Simulated) -> None:
    async def cell() -> Simulated:
        return run()

    assert asyncio.run(cell()).outcome == plain.outcome


def test_a_plan_file_is_read_with_what_it_names(run: Run, plain: Simulated, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(digits / "digits")
    path = tmp_path / "plan.toml"
    path.write_text(
        '[run]\nname = "simulated"\nbundle = "digits"\nrounds = 3\nseed = 3\n[train]\nrate = 0.2\nepochs = 1\n'
        '[aggregate]\nweight = ["by_examples"]\n'
    )
    made = run(path, bundle=None)
    assert all(np.array_equal(plain.head[name], made.head[name]) for name in plain.head)


@pytest.mark.parametrize(
    ("more", "plan", "kind", "words"),
    [
        ({"devices": 0}, {}, UsageError, "devices"),
        ({"dropout": 1.5}, {}, UsageError, "dropout"),
        ({"boards": ["pi-4"]}, {}, UsageError, "pi-4"),
        ({"links": ["wi-fi"]}, {}, UsageError, "wi-fi"),
        ({"engine": "quick"}, {}, UsageError, "quick"),
        ({}, {"train": {"rat": 1}}, PlanError, "rat"),
        ({}, {"round": {"devices": 9}}, UsageError, "fewer than round.devices"),
        (
            {},
            {"privacy": {"masked": 1, "clip": 1.0}, "aggregate": ALIKE, "round": QUORUM},
            UsageError,
            "masks",
        ),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(
    run: Run, more: dict[str, Any], plan: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        run(PLAN | plan, **more)
    assert "\n" not in str(caught.value)


def test_a_run_that_every_board_declines_ends_in_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: Any) -> Any:
        raise RefusedError("no room for what it needs")

    monkeypatch.setattr("coordinator.simulation.devices.work", refuses)
    with pytest.raises(RefusedError, match=r"every board has declined.*no room for what it needs"):
        run(devices=2)
