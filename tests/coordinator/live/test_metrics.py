"""Figures for Prometheus: read by its own parser, off unless asked for, and for this machine alone."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from live.played_run import EVIL, played, soon

from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceStatus
from coordinator.server import metrics
from coordinator.server.metrics import METRICS, check_metrics, exposition
from coordinator.server.serving import Settings, serve
from protos.errors import UsageError
from protos.orders import Engine, MeterCard

ROOT = Path(__file__).resolve().parents[3]
Fleet = Callable[..., Any]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, on which coordinators of this test tell their figures."""
    monkeypatch.setattr(metrics, "FRESH_S", 0.0)
    number = free_port()
    real = Settings.__init__

    def with_metrics(self: Settings, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **{"metrics": f"127.0.0.1:{number}", **named})

    monkeypatch.setattr(Settings, "__init__", with_metrics)
    return number


@pytest.fixture
def told(port: int, address: str) -> Callable[..., tuple[int, str, str]]:
    """`told(path, method, **headers)`: status, kind, body."""

    def ask(path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("content-type", ""), answer.read().decode()
        finally:
            connection.close()

    return ask


def families(text: str) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client")
    return {one.name: one for one in parser.text_string_to_metric_families(text)}


def test_the_figures_are_those_of_status_and_the_parser_of_prometheus_reads_them(
    told: Callable[..., Any], address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=2, name="a b")
    status, kind, text = told()
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = families(text)
    with Operator(address) as operator:
        devices = {device.device_id: device for device in operator.devices()}
    (rounds,) = found["edgejoule_run_closed_rounds"].samples
    assert (rounds.labels, rounds.value) == ({"run": run_id, "name": "a b"}, 2.0)
    joules = {sample.labels["device"]: sample.value for sample in found["edgejoule_device_energy_joules"].samples}
    assert joules == {name: device.energy_j for name, device in devices.items() if device.energy_j is not None}
    assert set(joules) == {EVIL, "pi-b"}, "what is unknown has no sample, which is not 0"
    unknown = {sample.labels["device"]: sample.value for sample in found["edgejoule_device_unknown_phases"].samples}
    assert unknown["pi-c"] == 2.0
    reports = {sample.labels["reason"]: sample.value for sample in found["edgejoule_reports"].samples}
    assert reports == {"accepted": 5.0, "wrong_plan": 1.0}
    assert "edgejoule_run_accuracy_ratio" not in found, "nothing was evaluated"
    for name, family in found.items():
        assert METRICS.get(name, METRICS.get(f"{name}_total")) == (family.type, family.documentation)


def test_other_names_paths_and_methods_get_nothing(told: Callable[..., Any]) -> None:
    assert told(Host="evil.example")[0] == 421
    assert told("/")[0] == 404
    assert told(method="POST")[0] == 405
    assert told("/metrics?x=1", Host="localhost:1")[0] == 200


def test_it_is_off_unless_asked_for_and_never_beyond_loopback(tmp_path: Path) -> None:
    assert Settings(tmp_path).metrics is None
    for listen in ("0.0.0.0:9464", "192.0.2.1:1", "9464", "[::]:1"):
        with pytest.raises(UsageError, match=r"--metrics"):
            check_metrics(listen)
    with pytest.raises(UsageError, match="not loopback"):
        asyncio.run(serve(Settings(tmp_path / "state", "127.0.0.1:0", metrics="0.0.0.0:0"), stop=asyncio.Event()))
    assert not (tmp_path / "state").exists(), "refused before anything is opened"


def test_the_command_says_where_its_figures_are(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(tmp_path / "state")]
    options = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--ready-file", str(ready)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        soon(lambda: ready.exists() or process.poll() is not None, "the coordinator", 60)
        process.terminate()
        out, _ = process.communicate(timeout=30)
    assert re.search(r"^coordinator: metrics on http://127\.0\.0\.1:\d+/metrics$", out, re.MULTILINE)


def test_a_name_with_a_newline_breaks_no_line() -> None:
    device = DeviceStatus(
        'x"\n} 1\\', "present", "b", Engine("e", "1", "d"), MeterCard("unknown", ""), "0", 1, 0, 5.0, None, 0, None
    )
    found = families(exposition([], [device], {}, version="0", took_s=0.0))
    (sample,) = found["edgejoule_device_present"].samples
    assert sample.labels["device"] == device.device_id


def test_the_dashboard_of_grafana_asks_for_figures_that_there_are() -> None:
    board = json.loads((ROOT / "packaging/grafana/edgejoule.json").read_text())
    asked = {name for panel in board["panels"] for target in panel["targets"] for name in _names(target["expr"])}
    asked |= {name for row in board["templating"]["list"] for name in _names(row["query"])}
    assert asked
    assert asked <= METRICS.keys()
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    described = (ROOT / "docs/live.md").read_text()
    assert [name for name in METRICS if f"`{name}`" not in described] == []


def _names(text: str) -> set[str]:
    return set(re.findall(r"edgejoule_\w+", text))
