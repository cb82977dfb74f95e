"""The daemon and heads that come as differences, on loopback."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.config import Settings
from edge_runtime.daemon import process as daemon
from edge_runtime.daemon.device import Device
from edge_runtime.round.held_heads import CannotRebuildError
from edge_runtime.round.work import work
from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import CodecOrder
from protos.update.codecs import build, generator
from protos.update.downlink import step_towards
from protos.update.trees import version

Make = Callable[..., Settings]


def test_a_head_made_from_differences_is_the_one_that_is_trained(
    peer: PeerCoordinator, settings: Make, bundle: Bundle, tmp_path: Path
) -> None:
    first = bundle.initial_head()
    target = {name: array + np.float32(0.25) for name, array in first.items()}
    found = step_towards(target, first, build("uniform_stochastic", {"bits": 4}), generator(1))
    assert found is not None
    difference, second = found
    full = CodecOrder("float32", {})
    made = order(bundle, 2, head=second, codec=full)
    made = dataclasses.replace(made, head=(), base=version(first), differences=(difference,))
    peer.orders.extend([order(bundle, 1, codec=full), made, order(bundle, 3, head=second, codec=full)])
    daemon.run(settings(coordinator=peer.address, max_rounds=3))
    assert peer.read(1).head_version == version(second)
    device = Device(settings(state=tmp_path / "other", sensor="none"))
    alike = work(order(bundle, 2, head=second, codec=full), device.take_up(bundle), lambda: False)
    device.close()
    assert peer.read(1).update == alike.update, "as if the head had come whole"
    assert all(holding.rebuilds for holding in peer.holdings)
    assert peer.holdings[-1].head_version == version(second)


def test_a_head_that_cannot_be_made_is_asked_for_again_and_comes_whole(
    peer: PeerCoordinator, settings: Make, bundle: Bundle
) -> None:
    lost = dataclasses.replace(order(bundle, 1), head=(), base="head-000000000000")
    peer.orders.extend([lost, order(bundle, 1), order(bundle, 2)])
    daemon.run(settings(coordinator=peer.address, max_rounds=2))
    assert [peer.read(index).round for index in range(len(peer.reports))] == [1, 2]
    assert [holding.rebuilds for holding in peer.holdings[:3]] == [True, False, True]
    assert peer.leaves == ["done"], "it never declined"


def test_making_a_head_is_work_that_counts_and_a_failure_is_not_charged_to_the_next_round(
    settings: Make, bundle: Bundle
) -> None:
    clock = VirtualClock(0.01)
    watts = dict.fromkeys(Phase, 1.0)
    device = Device(settings(), clock=clock, meter=ScriptedMeter(clock, watts, "measured"))
    bench = device.take_up(bundle)
    held = dataclasses.replace(order(bundle, 1), head=(), base=version(bundle.initial_head()))
    with pytest.raises(CannotRebuildError):
        work(dataclasses.replace(held, base="head-000000000000"), bench, lambda: False)
    assert bench.meter.spent_j() == 0.0
    work(order(bundle, 1), bench, lambda: False)  # asked for whole once, and then trusted again
    bench.meter.phases.clear()  # type: ignore[attr-defined]
    assert work(held, bench, lambda: False).steps_done == 12
    phases = [Phase.TRAIN, Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.IDLE]
    assert bench.meter.phases == phases  # type: ignore[attr-defined]
    device.close()
