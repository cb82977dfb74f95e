"""One round with a real bundle, on a virtual clock with a meter whose every joule is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_coordinator import order
from scripted_meter import ScriptedMeter, VirtualClock
from striped_data import write_data

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.round.work import Workbench, work
from protos.energy.trace import Phase
from protos.errors import DataError, LabelError, NonFiniteError, PlanError, RefusedError, ShapeError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.orders import CodecOrder, MaskedChange, MaskOrder, StopReason
from protos.update.tensors import decode

# 1 W while embedding and coding, 2 W while training; the clock ticks 10 ms whenever it is looked at.
WATTS = {Phase.EMBED: 1.0, Phase.TRAIN: 2.0, Phase.ENCODE: 1.0, Phase.SEND: 3.0, Phase.IDLE: 0.5}
FULL = {"codec": CodecOrder("float32", {})}

Open = Callable[..., Device]


@pytest.fixture
def opened(settings: Callable[..., Settings]) -> Iterator[Open]:
    devices: list[Device] = []

    def open_device(method: str = "measured", tick_s: float = 0.01, **changes: Any) -> Device:
        clock = VirtualClock(tick_s)
        devices.append(Device(settings(**changes), clock=clock, meter=ScriptedMeter(clock, WATTS, method)))
        return devices[-1]

    yield open_device
    for device in devices:
        device.close()


def never() -> bool:
    return False


def bench_of(device: Device, bundle: Bundle) -> Workbench:
    return device.take_up(bundle)


def energy(report: Any) -> dict[Phase, float]:
    return {phase_energy.phase: phase_energy.energy_j for phase_energy in report.energy}


def test_a_round_trains_and_reports_every_phase(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    report = work(order(bundle, **FULL), bench, never)
    assert (report.steps_done, report.stop_reason) == (12, StopReason.COMPLETED)
    assert (report.examples, report.embedded) == (81, 81)
    assert report.local_normaliser == 12.0  # no pull and no decay: just the steps
    assert report.loss_first is not None
    assert report.loss_last is not None
    assert report.loss_last < report.loss_first
    assert bench.meter.phases == [Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.IDLE]  # type: ignore[attr-defined]
    joules = energy(report)
    assert all(joules[phase] > 0 for phase in (Phase.EMBED, Phase.TRAIN, Phase.ENCODE))
    assert joules[Phase.TRAIN] == pytest.approx(2.0 * report.train_s, rel=0.2)


def test_the_update_is_trained_minus_received(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    start = {name: value + np.float32(0.25) for name, value in bundle.initial_head().items()}
    report = work(order(bundle, head=start, **FULL), bench, never)
    change = decode(report.update, bundle.manifest.head.shapes())
    for name, trained in bench.head.read().items():
        np.testing.assert_array_equal(change[name], trained - start[name])
        assert np.abs(change[name]).max() > 0


def test_a_masked_order_is_hidden_here_and_sends_no_update_beside_it(opened: Open, bundle: Bundle) -> None:
    bench, hidden = bench_of(opened(), bundle), []

    def hide(masked: Any, change: Any) -> MaskedChange:
        hidden.append((masked, change))
        return MaskedChange(16, b"xy")

    asked = order(bundle, mask=MaskOrder(1.0, 16), **FULL)
    report = work(asked, bench, never, hide=hide)
    assert report.masked == MaskedChange(16, b"xy")
    assert report.update == ()
    ((given, change),) = hidden
    assert given is asked
    plain = decode(work(order(bundle, **FULL), bench, never).update, bundle.manifest.head.shapes())
    for name, value in plain.items():
        np.testing.assert_array_equal(change[name], value)
    with pytest.raises(RefusedError, match="nobody can here"):
        work(asked, bench, never)


def test_the_default_codec_is_within_one_step_of_the_update(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    exact = decode(work(order(bundle, **FULL), bench, never).update, bundle.manifest.head.shapes())
    coded = decode(work(order(bundle), bench, never).update, bundle.manifest.head.shapes())
    for name, value in exact.items():
        step = 2 * np.abs(value).max() / 255
        assert np.abs(coded[name] - value).max() <= step * 1.001


def test_the_same_order_gives_the_same_bytes(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    first, second = (work(order(bundle), bench, never) for _ in range(2))
    assert first.update == second.update
    assert (first.embedded, second.embedded) == (81, 0)


def test_embeddings_in_the_cache_are_those_of_the_backbone(opened: Open, bundle: Bundle, data: Path) -> None:
    bench = bench_of(opened(), bundle)
    work(order(bundle), bench, never)
    with np.load(data) as raw:
        np.testing.assert_array_equal(bench.cache.view(), Backbone(bundle).embed(raw["x"][:81]))


def test_raw_examples_are_not_kept_once_all_is_embedded(opened: Open, bundle: Bundle, data: Path) -> None:
    bench = bench_of(opened(), bundle)
    work(order(bundle), bench, never)
    assert bench.examples._raw is None
    data.write_bytes(b"no longer a data file")
    assert work(order(bundle, 2), bench, never).steps_done == 12


def test_a_restart_with_a_full_cache_reads_no_raw_example(
    opened: Open, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    work(order(bundle), bench_of(first, bundle), never)
    first.close()

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr("protos.datafiles.dataset.load", refuse)
    report = work(order(bundle, 2), bench_of(opened(bundle=bundle.path), bundle), never)
    assert (report.embedded, report.steps_done) == (0, 12)


def test_a_spent_budget_ends_training_at_the_next_step(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    free = work(order(bundle), bench, never)
    per_step_j = energy(free)[Phase.TRAIN] / 12
    budget_j = energy(free)[Phase.EMBED] + 5 * per_step_j
    cut = work(order(bundle, 2, budget_j=budget_j, steps=1000), bench, never)
    assert cut.stop_reason is StopReason.BUDGET
    assert 0 < cut.steps_done < 1000
    # A tenth is kept back for coding and sending in the first round; the step that ends it may reach into that.
    worked_j = energy(cut)[Phase.EMBED] + energy(cut)[Phase.TRAIN]
    assert 0.9 * budget_j <= worked_j <= 0.9 * budget_j + 2 * per_step_j
    assert cut.local_normaliser == cut.steps_done
    change = decode(cut.update, bundle.manifest.head.shapes())
    assert any(np.abs(value).max() > 0 for value in change.values())


def test_the_smaller_of_both_budgets_counts(opened: Open, bundle: Bundle) -> None:
    bench = dataclasses.replace(bench_of(opened(), bundle), budget_j=2.0)
    tight = work(order(bundle, budget_j=1e6, steps=1000), bench, never)
    assert tight.stop_reason is StopReason.BUDGET


def test_a_budget_that_embedding_ate_reports_no_step_and_the_next_round_goes_on(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    first = work(order(bundle, budget_j=0.05), bench, never)
    assert (first.steps_done, first.stop_reason) == (0, StopReason.BUDGET)
    assert 0 < first.embedded < 81
    assert (first.loss_first, first.local_normaliser) == (None, 0.0)
    change = decode(first.update, bundle.manifest.head.shapes())
    assert all(not value.any() for value in change.values())
    second = work(order(bundle, 2), bench, never)
    assert (first.embedded + second.embedded, second.steps_done) == (81, 12)


def test_a_deadline_ends_training_in_time_to_send(opened: Open, bundle: Bundle) -> None:
    device = opened()
    report = work(order(bundle, deadline_s=3.0, steps=100_000), bench_of(device, bundle), never)
    assert report.stop_reason is StopReason.DEADLINE
    assert device.clock.monotonic() < 103.0


def test_a_stop_request_ends_training_and_keeps_what_was_trained(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    work(order(bundle), bench, never)
    asked = iter(range(5))
    report = work(order(bundle, 2, steps=1000), bench, lambda: next(asked, None) is None)
    assert (report.stop_reason, report.steps_done) == (StopReason.SHUTDOWN, 5)


def test_a_stop_request_in_embedding_leaves_a_cache_to_go_on_from(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    asked = iter(range(3))
    report = work(order(bundle), bench, lambda: next(asked, None) is None)
    assert (report.stop_reason, report.steps_done, report.embedded) == (StopReason.SHUTDOWN, 0, 24)
    assert work(order(bundle), bench, never).embedded == 81 - 24


def test_a_sensor_that_dies_does_not_stop_training(opened: Open, bundle: Bundle) -> None:
    device = opened()
    bench = bench_of(device, bundle)
    bench.meter.silent = True  # type: ignore[attr-defined]
    report = work(order(bundle), bench, never)
    assert report.steps_done == 12
    assert set(energy(report).values()) == {None}


def test_a_budget_without_a_sensor_is_refused(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened("unknown"), bundle)
    with pytest.raises(RefusedError, match="no sensor"):
        work(order(bundle, budget_j=3.0), bench, never)
    assert work(order(bundle), bench, never).steps_done == 12


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"inputs": {"rat": 0.1}}, UsageError),
        ({"inputs": {"weight": 0.1}}, UsageError),
        ({"inputs": {"rate": 1e6}}, UsageError),
        ({"codec": CodecOrder("uniform", {})}, PlanError),
        ({"codec": CodecOrder("uniform_stochastic", {"bits": 9.0})}, PlanError),
    ],
)
def test_an_order_that_does_not_fit_is_refused_and_its_joules_are_not_charged_to_the_next(
    opened: Open, bundle: Bundle, changes: dict[str, Any], error: type[Exception]
) -> None:
    bench = bench_of(opened(), bundle)
    with pytest.raises(error):
        work(order(bundle, **changes), bench, never)
    assert bench.meter.spent_j() == 0.0


def test_training_that_diverges_is_never_sent(opened: Open, bundle: Bundle) -> None:
    bench = bench_of(opened(), bundle)
    huge = {name: np.full_like(value, 3e38) for name, value in bundle.initial_head().items()}
    bench.head.write = lambda tree: type(bench.head).write(bench.head, huge)  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="round 1"):
        work(order(bundle, inputs={"rate": 100.0}), bench, never)
    assert bench.meter.spent_j() == 0.0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"y": np.full(90, 3)}, LabelError),
        ({"x": np.zeros((90, 7, 8, 1), np.uint8)}, ShapeError),
        ({"x": np.full((90, 8, 8, 1), np.nan, np.float32)}, NonFiniteError),
    ],
)
def test_data_that_does_not_fit_the_bundle_is_refused_before_and_after_it_is_known(
    opened: Open, bundle: Bundle, data: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    write_data(data, **changes)
    for _ in range(2):
        device = opened(bundle=bundle.path)
        assert isinstance(device.data_fault, error)
        assert device.bench is None
        assert device.card().train_examples == 0
        device.close()


def test_data_that_changes_under_a_running_daemon_is_noticed(opened: Open, bundle: Bundle, data: Path) -> None:
    bench = bench_of(opened(), bundle)
    bench.examples.release()
    write_data(data, seed=5, test=9)
    with pytest.raises(DataError, match="changed"):
        work(order(bundle), bench, never)


def test_momentum_pull_and_decay_are_in_the_normaliser(opened: Open, bundle: Bundle) -> None:
    bench, still = bench_of(opened(), bundle), {"weight_decay": 0.0}
    plain = work(order(bundle, inputs={**still, "rate": 0.1}, steps=4), bench, never).local_normaliser
    heavy = work(order(bundle, inputs={**still, "rate": 0.1, "momentum": 0.5}, steps=4), bench, never).local_normaliser
    pulled = work(
        order(bundle, inputs={**still, "rate": 0.1, "proximal_mu": 1.0}, steps=4), bench, never
    ).local_normaliser
    assert plain == 4.0
    assert heavy == pytest.approx((4 - 0.5 * (1 - 0.5**4) / 0.5) / 0.5)
    assert pulled == pytest.approx((1 - 0.9**4) / 0.1)
    both = {"rate": 0.1, "proximal_mu": 0.4, "weight_decay": 0.6}
    assert work(order(bundle, inputs=both, steps=4), bench, never).local_normaliser == pytest.approx(pulled)
