"""What `coordinator demo` makes of its options: plans, budgets, refusals."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from coordinator.lab import demo, demo_command, shards
from coordinator.lab.fleet import FleetPlan
from coordinator.lab.measuring import RoundCost, Times, costs_of, resolved, shortened
from coordinator.operator.status import DeviceRound, RoundStatus, RunStatus
from protos.datafiles import dataset
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import LabelError, UsageError
from protos.model.manifest import Manifest
from protos.orders import StopReason
from protos.plan import plan


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo_command.add_command(parser.add_subparsers())
    return parser.parse_args(["demo", *words])


def parts(count: int) -> shards.Shards:
    paths = tuple(Path(f"/data/{name}.npz") for name in shards.device_names(count))
    return shards.Shards(paths, Path("/data/held-out.npz"), (10,) * count, 5)


def text_of(**changes: object) -> str:
    settings = {
        "output": Path("out"),
        "bundle": Path("/b"),
        "data": "d.npz",
        "devices": 3,
        "rounds": 4,
        "partition": "iid",
        "seed": 9,
        "fleet": FleetPlan(["pi4"]),
        **changes,
    }
    one = demo.Demo(**settings)  # type: ignore[arg-type]
    manifest = type("Named", (), {"name": 'a "quoted" name, \U0001f331'})()
    return demo.plan_text(one, manifest, Path("/b"), parts(3))


def test_the_plan_written_is_one_that_the_parser_reads_back() -> None:
    text = text_of(train={"epochs": 2.0, "rate": 0.1}, update={"codec": "uniform_stochastic", "bits": 4})
    read = plan.parse(text)
    assert (read.run.name, read.run.rounds, read.run.seed) == ('a "quoted" name, \U0001f331', 4, 9)
    assert (read.round.devices, read.train.epochs, read.update.parameters["bits"]) == (3, 2.0, 4)


def test_a_device_without_a_limit_weighs_like_the_best_endowed_one() -> None:
    read = plan.parse(text_of(budgets_j=(2.0, None, 0.5)))
    assert [read.budget.of(name) for name in shards.device_names(3)] == [2.0, 2.0, 0.5]


def test_no_budgets_leave_the_section_out() -> None:
    assert plan.parse(text_of(budgets_j=(None, None, None))).budget.per_round_j is None


def test_one_budget_counts_for_every_device() -> None:
    assert demo_command._budgets(options("--budget-j", "2.5", "--devices", "3"), False) == [2.5, 2.5, 2.5]


def test_a_budget_may_be_so_many_times_what_a_round_is_measured_to_cost() -> None:
    budgets = demo_command._budgets(options("--budget-j", "10x,0.25x,none", "--devices", "3"), False)
    assert budgets == [Times(10.0), Times(0.25), None]
    cost = RoundCost(least_train_j=0.8, most_train_j=1.0, sending_j=0.01)
    costs = {"a": cost, "b": cost}
    assert resolved(budgets, ["a", "b", "c"], costs) == [10.0, 0.22, None]
    # Those that have enough stand beside each other as they are told to, whatever each was measured to cost.
    dear = {**costs, "c": RoundCost(1.0, 5.0, 0.0)}
    assert resolved([Times(20.0), Times(0.5), Times(10.0)], ["a", "b", "c"], dear) == [100.0, 0.42, 50.0]
    with pytest.raises(UsageError, match="what a round costs b could not be metered"):
        resolved(budgets, ["a", "b", "c"], {"a": cost})


def measured_round(train_j: float | None, steps: int, send_j: float | None) -> RoundStatus:
    told = ((Phase.TRAIN, train_j), (Phase.ENCODE, 0.01), (Phase.SEND, send_j))
    energy = tuple(PhaseEnergy(phase, joules, 1.0, 0.0, "measured", "s", 0.1) for phase, joules in told)
    one = DeviceRound("a", "accepted", 100, steps, StopReason.COMPLETED, None, 1.0, 1, 1, energy, 1, 1.0, 0)
    return RoundStatus(1, "closed", None, None, (one,), 0.0, 1.0, "head-1")


def test_costs_are_those_of_a_whole_round_and_unknown_ones_are_left_out() -> None:
    def costs(*rounds: RoundStatus) -> dict[str, RoundCost]:
        status = RunStatus("run-1", "n", "finished", "", "p", "b", len(rounds), rounds, 0.0, 1.0)
        return costs_of(status, ["a", "away"])

    # A quarter of the work was done: 0.5 J of 100 steps are 2 J of 400.
    assert costs(measured_round(0.5, 100, 0.03), measured_round(0.3, 100, 0.05)) == {
        "a": RoundCost(pytest.approx(1.2), pytest.approx(2.0), pytest.approx(0.06))  # type: ignore[arg-type]
    }
    # Half of the steps were made: what all of them cost is told from those.
    assert costs(measured_round(0.5, 50, 0.03))["a"].most_train_j == pytest.approx(4.0)
    assert costs(measured_round(None, 100, 0.03)) == costs(measured_round(0.5, 0, 0.03)) == {}
    assert costs(measured_round(0.5, 100, None)) == {}


def test_a_measured_round_is_a_quarter_of_the_work() -> None:
    assert shortened({"epochs": 400, "rate": 0.1}) == {"epochs": 100.0, "rate": 0.1}
    assert shortened({"rate": 0.1}) == {"rate": 0.1, "epochs": 0.25}
    assert shortened({"steps": 2}) == {"steps": 1}


def test_without_a_sensor_nothing_can_be_a_multiple() -> None:
    with pytest.raises(UsageError, match="nothing measures what a round costs"):
        demo_command._budgets(options("--budget-j", "2x", "--devices", "3", "--sensor", "none"), False)


@pytest.mark.parametrize(
    "words",
    [
        ["--budget-j", "1,2"],
        ["--budget-j", "x"],
        ["--budget-j=-1x"],
        ["--budget-j", "nan"],
        ["--budget-j", "0"],
        ["--budget-j", "-1"],
    ],
)
def test_budgets_that_do_not_fit_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        demo_command._budgets(options("--devices", "3", *words), False)


@pytest.mark.parametrize(
    "words",
    [
        ["--bundle", "b"],
        ["--data", "d.npz"],
        ["--devices", "0"],
        ["--partition", "dirichlet"],
        ["--boards", "pi9"],
        ["--max-drop", "1.5"],
        ["--epochs", "1", "--steps", "3"],
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_starts(words: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(UsageError):
        demo_command.run(options("--output", str(output), *words))
    assert not output.exists()


def test_a_folder_with_files_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no demo made"):
        demo._fresh(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_what_an_earlier_demo_left_is_removed_only_when_asked(tmp_path: Path) -> None:
    (demo._fresh(tmp_path / "out") / "old").touch()
    with pytest.raises(UsageError, match=r"holds an earlier demo; .* --again"):
        demo._fresh(tmp_path / "out")
    assert (tmp_path / "out" / "old").exists()
    assert [path.name for path in demo._fresh(tmp_path / "out", again=True).iterdir()] == [demo._MARK]


class FourClasses:
    """As much of a manifest as dividing data asks for."""

    classes = ("a", "b", "c", "d")
    quantities = None
    provenance: Mapping[str, object] = MappingProxyType({})

    class backbone:  # noqa: N801
        input_shape = (2, 2, 1)
        vocabulary = None


def save(path: Path, y: list[int], is_test: list[bool] | None = None) -> str:
    count = len(y)
    x = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    held = np.zeros(count, np.bool_) if is_test is None else np.array(is_test)
    dataset.save(dataset.Dataset(x, np.array(y, np.int32), held, None, None, str(path)), path)
    return str(path)


def cut(spec: str, folder: Path) -> shards.Shards:
    manifest: Manifest = FourClasses  # type: ignore[assignment]
    return shards.cut(spec, manifest, folder, devices=2, scheme="iid", seed=3)


def test_shards_hold_every_training_example_once_and_no_held_out_one(tmp_path: Path) -> None:
    spec = save(tmp_path / "all.npz", [0, 1, 2, 3] * 10, [False] * 30 + [True] * 10)
    made = cut(spec, tmp_path / "cut")
    firsts = [int(v) for path in made.devices for v in dataset.load(path).x[:, 0, 0, 0]]
    assert sorted(firsts) == [4 * i for i in range(30)]
    assert dataset.load(made.held_out).x[:, 0, 0, 0].tolist() == [4 * i for i in range(30, 40)]
    assert made.held_out_examples == 10


def test_data_without_a_held_out_part_get_one(tmp_path: Path) -> None:
    made = cut(save(tmp_path / "all.npz", [0, 1, 2, 3] * 10), tmp_path / "cut")
    assert (made.held_out_examples, sum(made.examples)) == (8, 32)


def test_labels_beyond_the_classes_of_the_bundle_are_refused_before_a_shard_is_written(tmp_path: Path) -> None:
    spec = save(tmp_path / "all.npz", [0, 1, 2, 4])
    with pytest.raises(LabelError):
        cut(spec, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
