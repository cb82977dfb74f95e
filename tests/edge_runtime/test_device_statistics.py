"""Orders of statistics, and steps in whitened coordinates: a real bundle, a meter whose every joule is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_coordinator import order
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.round.held_heads import CannotRebuildError
from edge_runtime.round.training_basis import HeldBasis
from edge_runtime.round.work import work
from protos.energy.trace import Phase
from protos.errors import UpdateError
from protos.model.bundle import Bundle
from protos.model.head_algebra import MEAN_SQUARE_LENGTH
from protos.orders import BasisOrder, CodecOrder, StopReason
from protos.statistics import whitening
from protos.statistics.coding import decode
from protos.statistics.features import FeatureMap, centre_of
from protos.statistics.moments import moments_of
from protos.statistics.whitening import basis_of
from protos.update import tensors

WATTS = {Phase.EMBED: 1.0, Phase.TRAIN: 2.0, Phase.ENCODE: 1.0, Phase.SEND: 3.0, Phase.IDLE: 0.5}
Open = Callable[..., Device]


@pytest.fixture
def opened(settings: Callable[..., Settings]) -> Iterator[Open]:
    devices: list[Device] = []

    def open_device(**changes: Any) -> Device:
        clock = VirtualClock(0.01)
        devices.append(Device(settings(**changes), clock=clock, meter=ScriptedMeter(clock, WATTS, "measured")))
        return devices[-1]

    yield open_device
    for device in devices:
        device.close()


def never() -> bool:
    return False


def features(bundle: Bundle, **fields: Any) -> FeatureMap:
    return FeatureMap(bundle.manifest.backbone.output_zero_point, **fields)


def test_statistics_are_the_exact_sums_of_all_training_examples(opened: Open, bundle: Bundle) -> None:
    bench = opened().take_up(bundle)
    asked = order(bundle, steps=0, head=None, statistics=features(bundle))
    report = work(asked, bench, never)
    assert (report.steps_done, report.stop_reason, report.update) == (0, StopReason.COMPLETED, ())
    assert (report.examples, report.embedded, report.local_normaliser) == (81, 81, 0.0)
    assert report.statistics is not None
    spec, classes = bundle.manifest.backbone, len(bundle.manifest.classes)
    sums = decode(
        report.statistics,
        classes=classes,
        width=spec.embedding_width,
        offset=bundle.manifest.backbone.output_zero_point,
    )
    embeddings, labels = bench.cache.view(), bench.summary.labels
    z = embeddings.astype(np.int64) - spec.output_zero_point
    np.testing.assert_array_equal(sums.square(), z.T @ z)
    np.testing.assert_array_equal(sums.counts, np.bincount(labels, minlength=classes))
    np.testing.assert_array_equal(sums.sums, [z[labels == k].sum(axis=0) for k in range(classes)])
    spent = {phase_energy.phase: phase_energy.energy_j for phase_energy in report.energy}
    assert all((spent[phase] or 0) > 0 for phase in (Phase.EMBED, Phase.TRAIN, Phase.ENCODE))
    again = work(asked, bench, never)
    assert (again.embedded, again.statistics) == (0, report.statistics)


def test_a_projection_sends_fewer_numbers_that_are_as_exact(opened: Open, bundle: Bundle) -> None:
    bench = opened().take_up(bundle)
    asked = features(bundle, project=5, shift=2, seed=3)
    report = work(order(bundle, steps=0, statistics=asked), bench, never)
    assert report.statistics is not None
    sums = decode(report.statistics, classes=len(bundle.manifest.classes), width=5, offset=0)
    spec = bundle.manifest.backbone
    centre = centre_of(bundle.feature_affine()[0], spec.output_scale, spec.output_zero_point)
    numbers = asked.of(bench.cache.view(), centre)
    assert sums == moments_of(numbers, bench.summary.labels, len(bundle.manifest.classes), 0)


def test_when_joules_run_out_what_is_embedded_by_then_is_summed(opened: Open, bundle: Bundle) -> None:
    bench = opened().take_up(bundle)
    report = work(order(bundle, steps=0, statistics=features(bundle), budget_j=0.2), bench, never)
    assert report.stop_reason is StopReason.BUDGET
    assert 0 < report.examples == report.embedded < 81
    assert report.statistics is not None
    assert sum(report.statistics.counts) == report.examples


def test_an_order_for_another_offset_is_refused(opened: Open, bundle: Bundle) -> None:
    wrong = FeatureMap(bundle.manifest.backbone.output_zero_point + 1)
    with pytest.raises(UpdateError, match="statistics of embeddings less"):
        work(order(bundle, steps=0, statistics=wrong), opened().take_up(bundle), never)


def basis_for(bundle: Bundle, bench: Any) -> whitening.Basis:
    spec = bundle.manifest.backbone
    mean, scale = bundle.feature_affine()
    x = (bench.cache.view().astype(np.float64) - spec.output_zero_point) * spec.output_scale
    x = (x - mean) * scale
    return basis_of(x.mean(axis=0), np.cov(x.T, bias=True))


def test_steps_in_whitened_coordinates_start_from_the_received_head_and_send_the_change_in_them(
    opened: Open, bundle: Bundle
) -> None:
    device = opened()
    bench = device.take_up(bundle)
    work(order(bundle, steps=0, statistics=features(bundle)), bench, never)
    basis = basis_for(bundle, bench)
    asked = {"codec": CodecOrder("float32", {}), "steps": 40, "inputs": {"rate": 0.2, "weight_decay": 0.0}}
    whole = BasisOrder(basis.version, basis.tensors())
    report = work(order(bundle, basis=whole, **asked), bench, never)
    assert report.basis_version == basis.version == device.bases.version
    assert report.loss_first is not None
    assert report.loss_last is not None
    assert report.loss_last < report.loss_first
    # The head in plain coordinates that the change leads to is what the device trained.
    change = basis.back(tensors.decode(report.update, bundle.manifest.head.shapes()))
    start = bundle.initial_head()
    moved = {name: start[name] + change[name] for name in start}
    trained = basis.back(bench.head.read())
    for name, value in moved.items():
        np.testing.assert_allclose(value, trained[name], rtol=1e-3, atol=1e-3)
    spec = bundle.manifest.backbone
    x = ((bench.cache.view().astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)).astype("f4")
    bench.head.write(moved)
    after = bench.head.evaluate(x, bench.summary.labels)
    assert after.loss < report.loss_first
    # By name it is enough, also after a restart; what is not here is asked for.
    assert work(order(bundle, round=2, basis=BasisOrder(basis.version), **asked), bench, never).steps_done == 40
    with pytest.raises(CannotRebuildError, match="not here"):
        work(order(bundle, round=2, basis=BasisOrder("head-other"), **asked), bench, never)
    assert device.bases.version == "", "the next question asks for it"


def test_of_two_bases_on_disk_the_newer_one_is_held_after_a_restart(
    opened: Open, bundle: Bundle, tmp_path: Path
) -> None:
    bench = opened().take_up(bundle)
    work(order(bundle, steps=0, statistics=features(bundle)), bench, never)
    first, width = basis_for(bundle, bench), bundle.manifest.backbone.embedding_width
    second = whitening.Basis({**first.tree, "middle": first.tree["middle"] + np.float32(1)})
    (tmp_path / "bases").mkdir()
    for newer in (first, second):
        held = HeldBasis(tmp_path / "bases")
        for basis, at_s in ((first, 1e9), (second, 1e9)):
            held.receive(BasisOrder(basis.version, basis.tensors()), width)
            os.utime(tmp_path / "bases" / f"{basis.version}.tree", (at_s, at_s + (basis is newer)))
        assert HeldBasis(tmp_path / "bases").version == newer.version


def test_a_basis_is_kept_on_disk(
    opened: Open, settings: Callable[..., Settings], bundle: Bundle, tmp_path: Path
) -> None:
    device = opened()
    bench = device.take_up(bundle)
    work(order(bundle, steps=0, statistics=features(bundle)), bench, never)
    basis = basis_for(bundle, bench)
    work(order(bundle, basis=BasisOrder(basis.version, basis.tensors())), bench, never)
    device.close()
    again = opened()
    assert again.bases.version == basis.version
    again.close()
    (kept,) = (tmp_path / "state" / "bases").glob("*.tree")
    kept.write_bytes(kept.read_bytes()[:-4])
    assert opened().bases.version == "", "what is damaged is fetched again"


def test_whitened_features_are_as_long_as_standardised_ones() -> None:
    assert whitening.MEAN_SQUARE_LENGTH == MEAN_SQUARE_LENGTH
