"""SCAFFOLD on the device: corrected steps of a real bundle, and a control that waits for the answer to its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.round.work import work
from protos.errors import RefusedError, UpdateError, UsageError
from protos.model.bundle import Bundle
from protos.model.head import Head
from protos.orders import CodecOrder, ControlOrder
from protos.update import controls, trees
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb

Make = Callable[..., Settings]
ASKED = {"inputs": {"rate": 0.1, "weight_decay": 0.0, "correction": 1.0}, "codec": CodecOrder("float32", {})}


def never() -> bool:
    return False


def some_control(bundle: Bundle, seed: int = 3) -> Any:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in bundle.manifest.head.shapes().items()
    }


def test_a_step_goes_along_the_gradient_and_the_correction(bundle: Bundle) -> None:
    """One step: y = x - eta (g + correction), against the step without."""
    x = np.random.default_rng(1).normal(0, 1, (8, bundle.manifest.backbone.embedding_width)).astype(np.float32)
    y, given = np.arange(8, dtype=np.int32) % 3, {"rate": 0.1, "weight_decay": 0.02, "momentum": 0.0}
    head, correction = Head(bundle), some_control(bundle)
    head.train_step(x, y, None, **given)
    plain = head.read()
    head.write(bundle.initial_head())
    head.correct(correction)
    head.train_step(x, y, None, **given, correction=1.0)
    for name, value in head.read().items():
        np.testing.assert_allclose(value, plain[name] - np.float32(0.1) * correction[name], rtol=1e-5, atol=1e-6)
    # Writing a head forgets it, and without the input it does nothing.
    head.write(bundle.initial_head())
    head.train_step(x, y, None, **given, correction=1.0)
    assert trees.version(head.read()) == trees.version(plain)
    head.write(bundle.initial_head())
    head.correct(correction)
    head.train_step(x, y, None, **given)
    assert trees.version(head.read()) == trees.version(plain)


def test_the_first_round_is_a_plain_one_and_the_own_control_is_its_mean_gradient(
    settings: Make, bundle: Bundle
) -> None:
    device = Device(settings())
    try:
        bench = device.take_up(bundle)
        plain = work(order(bundle, codec=ASKED["codec"]), bench, never)
        start = controls.order_of(1, controls.zero(bundle.manifest.head.shapes()))
        assert start.tensors == (), "zero takes no bytes"
        first = order(bundle, control=start, **ASKED)
        report = work(first, bench, never)
        assert (report.update, report.control_version, report.control_held) == (plain.update, start.version, False)
        device.memory.settle("run-1", 1, accepted=True)
        own, held = device.memory.control(first, start, bundle.manifest.head.shapes())
        assert held
        sent = decode(report.update, bundle.manifest.head.shapes())
        for name, value in own.items():
            np.testing.assert_allclose(value, -sent[name] / (0.1 * report.steps_done), rtol=1e-5)
    finally:
        device.close()


def test_later_rounds_are_corrected_by_the_common_control_less_the_own(settings: Make, bundle: Bundle) -> None:
    device = Device(settings())
    try:
        bench, shapes = device.take_up(bundle), bundle.manifest.head.shapes()
        work(order(bundle, control=controls.order_of(1, controls.zero(shapes)), **ASKED), bench, never)
        device.memory.settle("run-1", 1, accepted=True)
        common = some_control(bundle)
        sent = controls.order_of(1, common)
        second = order(bundle, round=2, control=sent, steps=1, **ASKED)
        own, _ = device.memory.control(second, sent, shapes)
        plain = decode(work(dataclasses.replace(second, control=None), bench, never).update, shapes)
        report = work(second, bench, never)
        assert report.control_held
        for name, value in decode(report.update, shapes).items():
            expected = plain[name] - np.float32(0.1) * (common[name] - own[name])
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
        # c_i+ = c_i - c + (x - y) / (eta K)
        device.memory.settle("run-1", 2, accepted=True)
        after, _ = device.memory.control(second, sent, shapes)
        for name, value in decode(report.update, shapes).items():
            np.testing.assert_allclose(after[name], own[name] - common[name] - value / 0.1, rtol=1e-4, atol=1e-5)
    finally:
        device.close()


def test_a_control_of_an_earlier_epoch_or_another_run_counts_no_more(settings: Make, bundle: Bundle) -> None:
    device = Device(settings())
    try:
        bench, start = device.take_up(bundle), controls.zero(bundle.manifest.head.shapes())
        work(order(bundle, control=controls.order_of(1, start), **ASKED), bench, never)
        device.memory.settle("run-1", 1, accepted=True)
        asked = {"control": controls.order_of(1, start), **ASKED}
        assert work(order(bundle, round=2, **asked), bench, never).control_held
        assert not work(order(bundle, round=2, run_id="run-2", **asked), bench, never).control_held
        anew = {"control": controls.order_of(2, start), **ASKED}
        assert not work(order(bundle, round=2, **anew), bench, never).control_held
    finally:
        device.close()


@pytest.mark.parametrize(("verdict", "counts"), [(pb.VERDICT_ACCEPTED, True), (pb.VERDICT_DUPLICATE, True),
                                             (pb.VERDICT_LATE, False), (pb.VERDICT_REJECTED, False)])  # fmt: skip
def test_a_control_goes_on_only_when_its_report_was_accepted(
    verdict: Any, counts: bool, bundle: Bundle, peer: PeerCoordinator, started: Callable[..., Any]
) -> None:
    """Through the daemon, gRPC and a restart of the daemon in between."""
    start = controls.order_of(1, controls.zero(bundle.manifest.head.shapes()))
    peer.verdict = verdict
    for number in (1, 2):
        peer.orders.append(order(bundle, round=number, control=start, **ASKED))
        started(peer, max_rounds=1).end()
    assert [peer.read(at).control_held for at in (0, 1)] == [False, counts]


def test_a_control_that_is_not_what_it_is_called_is_refused(settings: Make, bundle: Bundle) -> None:
    device = Device(settings())
    try:
        bench = device.take_up(bundle)
        wrong = ControlOrder("control-1-other", 1)
        with pytest.raises(UpdateError, match="not the one it is called"):
            work(order(bundle, control=wrong, **ASKED), bench, never)
    finally:
        device.close()


def test_without_a_place_for_its_control_a_device_does_not_begin(
    settings: Make, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(settings())
    try:
        bench, start = device.take_up(bundle), controls.order_of(1, controls.zero(bundle.manifest.head.shapes()))

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("edge_runtime.round.codec_memory.write_tree", full)
        with pytest.raises(RefusedError, match=r"scaffold.*cannot be kept"):
            work(order(bundle, control=start, **ASKED), bench, never)
    finally:
        device.close()


def test_a_bundle_from_before_says_what_to_do(bundle: Bundle) -> None:
    head = Head(bundle)
    del head._run["correct"]
    with pytest.raises(UsageError, match=r"takes no corrections.*convert the model again"):
        head.correct(some_control(bundle))
