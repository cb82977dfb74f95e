"""The file for node_exporter: what a real daemon writes, read by Prometheus' own parser."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from edge_runtime.daemon.metrics_file import METRICS, MetricsFile
from protos.energy.trace import Phase, PhaseEnergy
from protos.model.bundle import Bundle
from protos.orders import DeviceCard, Engine, MeterCard, Strain

Started = Callable[..., RunningDaemon]
CARD = DeviceCard('pi"\n', "s", "0", "pi4", Engine("e", "1", "d"), MeterCard("measured", "ina219:x"), 7, 0)


def families(text: str) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client")
    found = {one.name: one for one in parser.text_string_to_metric_families(text)}
    for name, family in found.items():
        assert METRICS.get(name, METRICS.get(f"{name}_total")) == (family.type, family.documentation)
    return found


def test_a_daemon_writes_what_its_rounds_cost(
    peer: PeerCoordinator, started: Started, bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "out" / "edgejoule.prom"
    path.parent.mkdir()
    peer.orders += [order(bundle, 1), order(bundle, 2)]
    started(peer, metrics_file=path, max_rounds=2).end()
    assert [each_path.name for each_path in path.parent.iterdir()] == ["edgejoule.prom"], "and no part of one"
    found = families(path.read_text())
    (info,) = found["edgejoule_board_info"].samples
    assert info.labels["device"] == "pi-1"
    (rounds,) = found["edgejoule_board_rounds"].samples
    assert (rounds.labels, rounds.value) == ({"answer": "accepted"}, 2.0)
    joules = {sample.labels["phase"]: sample.value for sample in found["edgejoule_board_phase_energy_joules"].samples}
    assert {"embed", "train", "encode", "send"} <= joules.keys()
    reported = [
        phase_energy for at in (0, 1) for phase_energy in peer.read(at).energy if phase_energy.phase is Phase.TRAIN
    ]
    assert joules["train"] == pytest.approx(sum(one.energy_j or 0.0 for one in reported))


def test_unknown_joules_have_no_sample_and_names_break_no_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "x.prom")
    file.ready(CARD)
    file.round("accepted", [PhaseEnergy(Phase.TRAIN, None, 0.0, 2.0, "unknown", "", None)], None)
    file.round("late", [PhaseEnergy(Phase.TRAIN, 3.0, 1.0, 0.5, "measured", "s", 0.1)], Strain(4.0, 0.0, 61.5))
    found = families((tmp_path / "x.prom").read_text())
    assert found["edgejoule_board_info"].samples[0].labels["device"] == 'pi"\n'
    assert [sample.value for sample in found["edgejoule_board_unknown_phases"].samples] == [1.0]
    assert [sample.value for sample in found["edgejoule_board_phase_energy_joules"].samples] == [3.0]
    assert [sample.value for sample in found["edgejoule_board_phase_uncovered_seconds"].samples] == [2.5]
    assert [sample.value for sample in found["edgejoule_board_hottest_celsius"].samples] == [61.5]
    file.round("late", [], Strain(0.0, 0.0, None))
    assert "edgejoule_board_hottest_celsius" not in families(file.text()), "an old temperature is no new one"


def test_a_place_that_cannot_be_written_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = MetricsFile(tmp_path / "nowhere" / "x.prom")
    with caplog.at_level(logging.WARNING):
        file.ready(dataclasses.replace(CARD, device_id="pi"))
        file.round("accepted", [], None)
    assert sum("metrics cannot be written" in record.message for record in caplog.records) == 1
    (tmp_path / "nowhere").mkdir()
    file.round("accepted", [], None)
    assert (tmp_path / "nowhere" / "x.prom").exists()


def test_nothing_is_kept_where_no_file_is_named() -> None:
    file = MetricsFile(None)
    file.ready(CARD)
    file.round("accepted", [], None)
    assert file.text() == "\n"
