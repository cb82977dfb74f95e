"""Who is here, who may take part, and what is asked of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.run.forgetting import Rest, head_without
from coordinator.run.planning import budget_for, held_out, prepare, seed_for, steps_for, summary, train_inputs
from coordinator.run.rounds.roster import Roster, in_short
from coordinator.server.fleet import Fleet
from coordinator.store.models.bundle_store import BundleStore
from protos.errors import IntegrityError, PlanError, UnknownRunError
from protos.model.bundle import open_bundle
from protos.orders import DeviceCard, Engine, MeterCard
from protos.plan.plan import RunPlan, parse
from protos.update import trees

LITERT, OLD = Engine("litert", "2.3", "xnnpack"), Engine("tflite-runtime", "2.14", "builtin")


def _card(name: str, **fields: Any) -> DeviceCard:
    card = DeviceCard(name, "s", "0", "pi4", LITERT, MeterCard("measured"), 40, 10)
    return dataclasses.replace(card, **fields)


def _plan(more: str = "") -> RunPlan:
    return parse('[run]\nbundle = "b"\n' + more)


def test_a_silent_device_is_away_until_it_calls_again_and_a_busy_one_is_not() -> None:
    fleet = Fleet()
    for name in ("quiet", "busy", "loud"):
        fleet.join(_card(name), 100.0, 0.0)
    fleet.heard("loud", "s", 112.0, 0.0)
    assert fleet.sweep(114.9, lambda name: False) == []
    assert fleet.sweep(116.0, lambda name: name == "busy") == ["quiet"]
    assert [each_member.state for each_member in fleet] == ["away", "present", "present"]
    assert fleet.present == 2
    member = fleet.heard("quiet", "s", 117.0, 0.0)
    assert member is not None
    assert member.state == "present"


def test_a_device_known_from_before_a_restart_must_join_again() -> None:
    fleet = Fleet()
    fleet.remember(_card("a"), left=False, seen_unix_s=5.0)
    assert fleet.heard("a", "s", 1.0, 1.0) is None
    assert fleet.heard("never", "s", 1.0, 1.0) is None
    fleet.join(_card("a", session="s2"), 2.0, 2.0)
    assert fleet.heard("a", "s", 3.0, 3.0) is None, "an earlier session"
    assert fleet.heard("a", "s2", 3.0, 3.0) is not None
    assert not fleet.leave("a", "s", 4.0)
    assert fleet.leave("a", "s2", 4.0)
    assert fleet.heard("a", "s2", 5.0, 5.0) is None
    assert fleet.present == 0


def test_large_fleets_are_told_to_come_more_seldom() -> None:
    fleet = Fleet()
    for number in range(2000):
        fleet.join(_card(f"d{number}"), 1.0, 0.0)
    assert fleet.pace_s(busy=True) == 20.0
    assert fleet.away_after_s == 100.0


def test_the_most_common_engine_counts_until_the_run_is_tied_to_one() -> None:
    roster = Roster(_plan())
    roster.add(_card("old", engine=OLD))
    assert roster.eligible() == ["old"]
    assert not roster.add(_card("older", engine=OLD))
    assert not roster.add(_card("a"))
    roster.remove("older")
    assert not roster.remove("nobody")
    assert roster.eligible() == ["a"], "one of each: the first in the alphabet"
    assert roster.add(_card("older", engine=OLD))
    assert roster.add(_card("b")), "who may take part has changed"
    assert not roster.add(_card("c"))
    roster.remove("older")
    assert roster.eligible() == ["a", "b", "c"]
    assert roster.warnings() == ["left out: old runs tflite-runtime/builtin, this run uses litert/xnnpack"]
    roster.engine = roster.chosen
    for name in ("older", "oldest", "eldest"):
        assert not roster.add(_card(name, engine=OLD))
    assert roster.eligible() == ["a", "b", "c"]


def test_unlike_versions_of_one_engine_are_a_warning_only() -> None:
    roster = Roster(_plan())
    roster.add(_card("a"))
    roster.add(_card("b", engine=Engine("litert", "2.2", "xnnpack")))
    assert roster.eligible() == ["a", "b"]
    assert roster.warnings() == ["engine versions differ: 2.2, 2.3"]
    assert in_short(["1", "2", "3", "4", "5"]) == "1; 2; 3 and 2 more"


def test_a_budget_needs_a_meter_and_training_needs_examples() -> None:
    roster = Roster(_plan("[budget]\nper_round_j = 9\n"))
    blind, empty, fine = _card("blind", meter=MeterCard("unknown")), _card("empty", train_examples=0), _card("fine")
    for card in (blind, empty, fine):
        roster.add(card)
    assert roster.eligible() == ["fine"]
    assert roster.why_not(blind) == "has a budget and no meter to keep it"
    assert Roster(_plan()).why_not(_card("own", meter=MeterCard("unknown"))) is not None, "not yet in the roster"
    own = Roster(_plan())
    own.add(_card("own", meter=MeterCard("unknown"), budget_j=1.0))
    assert own.eligible() == []


@given(st.integers(1, 10_000), st.integers(1, 256), st.floats(0.01, 20))
def test_epochs_are_passes_over_the_devices_own_examples(examples: int, batch: int, epochs: float) -> None:
    steps = steps_for(_plan(f"[train]\nepochs = {epochs!r}\n"), batch, examples)
    assert steps >= 1
    assert steps - 1 < max(1.0, math.ceil(examples / batch) * epochs)
    assert steps >= math.ceil(examples / batch) * epochs - 1e-6


def test_steps_count_as_they_are_and_two_epochs_are_the_default() -> None:
    assert steps_for(_plan("[train]\nsteps = 7\n"), 8, 1000) == 7
    assert steps_for(_plan(), 8, 41) == 12


@pytest.mark.parametrize(
    ("train", "work"), [("steps = 7", "7 steps"), ("epochs = 1.5", "1.5 epochs"), ("", "2 epochs")]
)
def test_what_is_planned_names_the_work_of_a_round(plain_bundle: Path, train: str, work: str) -> None:
    text = f'[run]\nbundle = "{plain_bundle.name}"\n[train]\n{train}\n'
    found = summary(prepare(text, plain_bundle.parent))
    assert str(found["work_per_round"]).startswith(f"{work} in batches of ")


def test_the_smaller_budget_counts() -> None:
    plan = _plan("[budget]\nper_round_j = 9\n[budget.device]\nb = 3\n")
    assert [budget_for(plan, *entry) for entry in (("a", None), ("a", 4.0), ("b", 4.0))] == [9, 4, 3]
    assert budget_for(_plan(), "a", None) is None


def test_seeds_depend_on_plan_device_and_round_alone() -> None:
    seeds = {seed_for(_plan(f"seed = {s}\n"), d, r) for s in (0, 1) for d in "ab" for r in (1, 2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(_plan(), "a", 1) == seed_for(_plan(), "a", 1)


def test_inputs_are_held_against_the_bundle(plain_bundle: Path) -> None:
    manifest = open_bundle(plain_bundle).manifest
    assert train_inputs(_plan("[train]\nmomentum = 0.5\n"), manifest)["momentum"] == 0.5
    with pytest.raises(PlanError, match="takes no 'temperature'"):
        train_inputs(_plan("[train.inputs]\ntemperature = 1\n"), manifest)
    with pytest.raises(PlanError, match="leap past"):
        train_inputs(_plan("[train]\nrate = 0.5\nproximal_mu = 2\n"), manifest)


def test_a_head_without_steps_takes_no_inputs_and_one_with_steps_keeps_its_own(plain_bundle: Path) -> None:
    manifest = open_bundle(plain_bundle).manifest
    plan = _plan('[train]\nmethod = "closed_form"\nrate = 0.07\nproximal_mu = 0.5\n')
    assert train_inputs(plan, manifest)["rate"] == 0.07
    stepless = replace(manifest, head=replace(manifest.head, inputs=()))
    assert train_inputs(plan, stepless) == {}
    with pytest.raises(PlanError, match="takes no 'proximal_mu'"):
        train_inputs(_plan("[train]\nproximal_mu = 0.5\n"), stepless)


def test_evaluation_data_are_looked_for_beside_the_plan_and_their_test_part_is_taken(
    plain_bundle: Path, tmp_path: Path
) -> None:
    manifest = open_bundle(plain_bundle).manifest
    assert held_out(_plan(), manifest, tmp_path) is None
    x, y = np.arange(54, dtype=np.uint8).reshape(9, 2, 3), np.arange(9, dtype=np.int32) % 3
    (tmp_path / "data").mkdir()
    for name, is_test in (("parted", np.arange(9) >= 6), ("whole", np.zeros(9, bool))):
        np.savez(tmp_path / "data" / f"{name}.npz", x=x, y=y, is_test=is_test)
        for path in (f"data/{name}.npz", str(tmp_path / "data" / f"{name}.npz")):
            found = held_out(_plan(f'[evaluate]\ndata = "{path}"\n'), manifest, tmp_path)
            assert found is not None
            assert found.y.tolist() == (y[6:] if name == "parted" else y).tolist()


def test_a_head_without_a_device_is_judged_only_where_there_is_something_to_judge_by(plain_bundle: Path) -> None:
    bundle = open_bundle(plain_bundle)
    tree, said, *judged = head_without(Rest("run", "a", _plan(), bundle.bundle_id, None, ()), bundle, None)
    assert trees.version(tree) == trees.version(bundle.initial_head())
    assert "nobody is left" in said
    assert judged == [None, None, ""]


def test_the_shelf_keeps_a_copy_that_outlives_the_original(plain_bundle: Path, tmp_path: Path) -> None:
    bundle_store = BundleStore(tmp_path / "bundle_store")
    bundle_store.sweep()
    bundle = open_bundle(plain_bundle)
    kept = bundle_store.keep(bundle)
    assert bundle_store.keep(bundle).path == kept.path != plain_bundle
    (plain_bundle / "head.tflite").unlink()
    assert bundle_store.open(bundle.bundle_id).bundle_id == bundle.bundle_id
    (kept.path / "head.tflite").write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        bundle_store.open(bundle.bundle_id)
    with pytest.raises(UnknownRunError):
        bundle_store.open("sha256:" + "1" * 64)


def test_a_bundle_that_changes_while_it_is_copied_is_not_kept(plain_bundle: Path, tmp_path: Path) -> None:
    bundle_store = BundleStore(tmp_path / "bundle_store")
    bundle = open_bundle(plain_bundle)
    (plain_bundle / "head.tflite").write_bytes(b"changed")
    with pytest.raises(IntegrityError):
        bundle_store.keep(bundle)
    assert list((tmp_path / "bundle_store").iterdir()) == []


@pytest.mark.parametrize("codec", ["sign", "keep_largest"])
def test_a_codec_that_needs_a_memory_is_taken_since_devices_keep_one(codec: str, plain_bundle: Path) -> None:
    text = f'[run]\nbundle = "{plain_bundle.name}"\n[update]\ncodec = "{codec}"\n'
    assert prepare(text, plain_bundle.parent).plan.update.codec == codec
