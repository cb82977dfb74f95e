"""Runs in the formats of other programs, read back by these programs where they are installed."""

from __future__ import annotations

import base64
import csv
import json
import os
import struct
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))
from played_run import EVIL, played

from coordinator import cli
from coordinator.commands.looking import export_results
from coordinator.operator.client import Operator
from coordinator.operator.status import RoundStatus, RunDetails, RunStatus
from coordinator.report.csv_files import DEVICES, ENERGY, ROUNDS
from coordinator.results import to_colext, to_mlperf
from coordinator.results.figures import figures_of
from protos.errors import PlanError
from protos.model.bundle import open_bundle

Fleet = Callable[..., Any]


@pytest.fixture
def run(address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path) -> str:
    """A finished run of three rounds and three devices, one of which has no meter."""
    return played(address, plain_bundle, fleet, tools, tmp_path, name="name")


def exported(address: str, run_id: str, form: str, out: Path) -> None:
    assert cli.main(["export-results", run_id, "--format", form, "-o", str(out), "--coordinator", address]) == 0


def exported_apart(address: str, run_id: str, form: str, out: Path) -> None:
    """The same by a process of its own: of libraries that read variables when they are imported, or warn of others."""
    command = [sys.executable, "-m", "coordinator.cli", "export-results", run_id, "--format", form, "-o", str(out)]
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([*command, "--coordinator", address], capture_output=True, text=True, env=place)
    assert done.returncode == 0, done.stderr


def status(address: str, run_id: str) -> RunStatus:
    with Operator(address) as operator:
        return operator.status(run_id)[0]


def known_j(this_round: RoundStatus) -> float:
    return sum(device.spent_j or 0.0 for device in this_round.devices)


def test_what_some_devices_did_not_say_is_a_bound_by_name_and_never_a_sum(address: str, run: str) -> None:
    found = figures_of(status(address, run), RunDetails("[run]\nbundle = 'b'\n", "/", (), "1"), {})
    assert [this_round.round for this_round in found.rounds] == [0, 1, 2, 3]
    assert "spent_j" not in found.rounds[1].figures
    assert found.rounds[1].figures["spent_at_least_j"] == known_j(found.run.rounds[1]) > 0
    assert found.rounds[0].figures == {}, "nobody evaluated"
    assert found.settings["run.bundle"] == "b"


def test_tensorboard_reads_the_figures_of_each_round_at_its_number_and_time(
    address: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where it is, it does without TensorFlow, which takes long to be imported.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    pytest.importorskip("tensorboardX", reason="needs tensorboardX: the extra tensorboard")
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard, of no extra"
    )
    exported(address, run, "tensorboard", tmp_path / "logs")
    found = reading.EventAccumulator(str(tmp_path / "logs" / run), size_guidance={reading.TENSORS: 0})
    found.Reload()
    told = status(address, run)
    for name in ("bytes_up", "spent_at_least_j", "devices_accepted"):
        events = found.Scalars(name)
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.wall_time for event in events] == [this_round.closed_unix_s for this_round in told.rounds[1:]]
    np.testing.assert_allclose(
        [scalar.value for scalar in found.Scalars("spent_at_least_j")],
        [known_j(this_round) for this_round in told.rounds[1:]],
        rtol=1e-6,
    )
    assert cli.main(["export-results", run, "--format", "tensorboard", "-o", str(tmp_path / "logs"),
                     "--coordinator", address]) == 2  # fmt: skip


def test_mlflow_reads_run_metrics_settings_and_plan(address: str, run: str, tmp_path: Path) -> None:
    for module in ("mlflow", "alembic"):
        pytest.importorskip(module, reason="needs mlflow-skinny and alembic: the extra mlflow")
    exported_apart(address, run, "mlflow", tmp_path / "ml")
    script = (
        "import json, sys; from mlflow.tracking import MlflowClient; client = MlflowClient(tracking_uri=sys.argv[1]); "
        "(run,) = client.search_runs([client.get_experiment_by_name('name').experiment_id]); number = run.info.run_id; "
        "history = client.get_metric_history(number, 'spent_at_least_j'); print(json.dumps([run.info.run_name, "
        "run.info.status, [[one.step, one.value, one.timestamp] for one in history], run.data.params['run.rounds'], "
        "[one.path for one in client.list_artifacts(number)]]))"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path / 'ml/mlflow.db'}"]
    name, state, history, rounds, files = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    told = status(address, run)
    assert (name, state, rounds, files) == (run, "FINISHED", "3", ["plan.toml"])
    assert history == [
        [this_round.round, known_j(this_round), round((this_round.closed_unix_s or 0) * 1000)]
        for this_round in told.rounds[1:]
    ]


def test_trackio_reads_the_logs_of_each_round(address: str, run: str, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="needs trackio: the extra trackio")
    script = (
        "import json, sys; from trackio.sqlite_storage import SQLiteStorage as S; "
        "(run,) = S.get_runs('edgejoule'); print(json.dumps([run, S.get_logs('edgejoule', run)]))"
    )
    exported_apart(address, run, "trackio", tmp_path / "t")
    read = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "t")},
    )
    name, logs = json.loads(read.stdout)
    told = status(address, run)
    assert name == f"name {run}"
    assert len([log for log in logs if log["step"]]) == 3
    with pytest.raises(AssertionError, match="is there already"):
        exported_apart(address, run, "trackio", tmp_path / "t")
    assert {log["step"]: log["spent_at_least_j"] for log in logs if log["step"]} == {
        this_round.round: known_j(this_round) for this_round in told.rounds[1:]
    }


def test_wandb_writes_what_its_own_records_say_without_a_network(address: str, run: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs wandb: the extra wandb")
    from wandb.proto import wandb_internal_pb2 as pb

    exported_apart(address, run, "wandb", tmp_path / "w")
    (file,) = (tmp_path / "w" / "wandb").glob(f"offline-run-*-{run}/*.wandb")
    history: dict[int, float] = {}
    # A header of 7 bytes, then records of a LevelDB log: CRC, size, kind, in blocks of 32 KiB.
    data, at, held = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:
            at += (1 << 15) - at % (1 << 15)
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind not in (1, 4):
            continue
        record = pb.Record.FromString(held)
        held = b""
        if record.WhichOneof("record_type") == "history":
            said = {(one.nested_key or [one.key])[0]: json.loads(one.value_json) for one in record.history.item}
            if "spent_at_least_j" in said:
                history[record.history.step.num] = said["spent_at_least_j"]
    assert history == {this_round.round: known_j(this_round) for this_round in status(address, run).rounds[1:]}


def test_a_trace_is_otlp_with_a_span_for_run_round_and_device_and_the_same_each_time(
    address: str, run: str, tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common", reason="needs OpenTelemetry: the extra otel")
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    exported(address, run, "otlp", tmp_path / "o")
    text = (tmp_path / "o" / f"{run}.otlp.jsonl").read_text()
    exported(address, run, "otlp", tmp_path / "again")
    assert (tmp_path / "again" / f"{run}.otlp.jsonl").read_text() == text
    content = json.loads(text)
    spans = content["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {len(span["traceId"]) for span in spans} == {32}
    assert len({span["spanId"] for span in spans}) == len(spans) == 1 + 3 + 9
    by_id = {span["spanId"]: span for span in spans}
    (top,) = [span for span in spans if "parentSpanId" not in span]
    rounds = [span for span in spans if span.get("parentSpanId") == top["spanId"]]
    told = status(address, run)
    assert [this_round["name"] for this_round in rounds] == ["round 1", "round 2", "round 3"]
    assert [int(this_round["endTimeUnixNano"]) for this_round in rounds] == [
        round((this_round.closed_unix_s or 0) * 1e9) for this_round in told.rounds[1:]
    ]
    refused = [span for span in spans if span.get("status", {}).get("code") == 2]
    assert [(row["name"], by_id[row["parentSpanId"]]["name"]) for row in refused] == [("pi-c", "round 2")]
    for span in spans:
        for key in ("traceId", "spanId", "parentSpanId"):
            if key in span:
                # Protobuf's own JSON has base64 there.
                span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    read = ParseDict(content, ExportTraceServiceRequest())
    (about,) = [span for span in read.resource_spans[0].scope_spans[0].spans if span.name == "round 1"]
    figures = {attribute.key: attribute.value for attribute in about.attributes}
    assert figures["edgejoule.spent_at_least_j"].double_value == known_j(told.rounds[1])


def test_mlperf_lines_are_events_in_the_order_of_time(address: str, run: str, tmp_path: Path) -> None:
    exported(address, run, "mlperf", tmp_path / "m")
    (file,) = (tmp_path / "m").iterdir()
    lines = file.read_text().splitlines()
    assert all(line.startswith(":::MLLOG {") for line in lines)
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    assert [event["time_ms"] for event in events] == sorted(event["time_ms"] for event in events)
    assert all(set(event) == {"namespace", "time_ms", "event_type", "key", "value", "metadata"} for event in events)
    by_key = {event["key"]: event for event in events}
    assert by_key["submission_benchmark"]["value"] == "name"
    assert by_key["seed"]["value"] == 7
    assert by_key["run_stop"]["metadata"]["status"] == "success"
    assert [event["metadata"]["epoch_num"] for event in events if event["key"] == "epoch_stop"] == [1, 2, 3]


def test_colext_finds_the_joules_of_each_round_in_its_own_columns(address: str, run: str, tmp_path: Path) -> None:
    exported(address, run, "colext", tmp_path / "c")

    def table(name: str) -> list[dict[str, str]]:
        with (tmp_path / "c" / run / "raw" / f"{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    info = {row["client_id"]: row["device_name"] for row in table("client_info")}
    assert set(info.values()) == {EVIL, "pi-b", "pi-c"}
    rounds = table("round_metrics")
    assert [this_round["round_number"] for this_round in rounds] == ["1", "2", "3"]
    assert len(table("client_round_metrics")) == 8, "one report was refused"
    # As its retriever does: rows within the rounds, E = sum of P times the time since the row before.
    first = min(datetime.fromisoformat(this_round["start_time"]) for this_round in rounds)
    last = max(datetime.fromisoformat(this_round["end_time"]) for this_round in rounds)
    spent: dict[str, float] = {}
    grain: dict[str, float] = {}
    before: dict[str, datetime] = {}
    for row in table("hw_metrics"):
        at, name = datetime.fromisoformat(row["time"]), info[row["client_id"]]
        assert first <= at <= last
        seconds = (at - before[name]).total_seconds() if name in before else 0.0
        watts = float(row["power_consumption"]) / 1000
        spent[name] = spent.get(name, 0.0) + watts * seconds
        # Times have a microsecond's grain, and rounds of this fleet take about a millisecond.
        grain[name] = grain.get(name, 0.0) + watts * 2e-6
        before[name] = at
    told = status(address, run)
    expected = {
        device.device_id: sum(
            other.spent_j or 0.0
            for this_round in told.rounds
            for other in this_round.devices
            if other.device_id == device.device_id
        )
        for device in told.rounds[1].devices
        if device.spent_j is not None
    }
    assert spent.keys() == expected.keys()
    for name, joules in expected.items():
        assert spent[name] == pytest.approx(joules, rel=1e-6, abs=grain[name])


def test_times_never_go_back_and_no_joule_is_lost_where_the_coordinators_clock_did(
    address: str, run: str, tmp_path: Path
) -> None:
    told = status(address, run)
    with Operator(address) as operator:
        details, cards = operator.details(run), {device.device_id: device for device in operator.devices()}
    assert figures_of(told, details, cards).moved_s < 0.01, "its own clock went forward"
    # Round 1 closes two hours before it opened, and all after it is behind; before round 3 another minute goes back.
    back_s = {1: (0.0, 7200.0), 2: (7200.0, 7200.0), 3: (7260.0, 7260.0)}
    rounds = [
        replace(
            this_round,
            opened_unix_s=this_round.opened_unix_s - first,
            closed_unix_s=(this_round.closed_unix_s or 0.0) - second,
        )
        for this_round in told.rounds
        for first, second in [back_s.get(this_round.round, (0.0, 0.0))]
    ]
    finished_s = (told.finished_unix_s or 0.0) - 7260.0
    found = figures_of(replace(told, rounds=tuple(rounds), finished_unix_s=finished_s), details, cards)
    assert found.moved_s == pytest.approx(7260.0, abs=60.0)
    assert min(this_round.figures["round_s"] for this_round in found.rounds if this_round.round) > 0
    (hw,) = [path for path in to_colext.write(found, tmp_path / "c") if path.stem == "hw_metrics"]
    spent_j, before = 0.0, None
    with hw.open(newline="") as file:
        for row in csv.DictReader(file):
            at, watts = datetime.fromisoformat(row["time"]), float(row["power_consumption"]) / 1000
            assert watts >= 0
            if before is not None and before[0] == row["client_id"]:
                seconds = (at - before[1]).total_seconds()
                assert seconds >= 0
                spent_j += watts * seconds
            before = (row["client_id"], at)
    assert spent_j == pytest.approx(
        sum(known_j(this_round) for this_round in told.rounds if this_round.round), rel=0.02
    )
    events = list(to_mlperf.lines(found))
    assert [event["time_ms"] for event in events] == sorted(event["time_ms"] for event in events)


def test_a_run_that_is_there_already_keeps_the_others_from_being_written(
    address: str, run: str, tools: Any, plain_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    with Operator(address) as operator:
        other = operator.start_run(tools.plan(plain_bundle), tmp_path)
    exported(address, run, "colext", out)
    assert cli.main(["export-results", other, run, "--format", "colext", "-o", str(out), "--coordinator", address]) == 2
    assert [path.name for path in out.iterdir()] == [run]


def test_a_reports_tables_are_parquet_with_types_and_unknown_is_null(address: str, run: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: the extra parquet")
    out = tmp_path / "report.html"
    assert cli.main(["report", run, "-o", str(out), "--parquet", "--coordinator", address]) == 0
    for kind, header in (("rounds", ROUNDS), ("devices", DEVICES), ("energy", ENERGY)):
        table = parquet.read_table(tmp_path / f"report.{kind}.parquet")
        assert tuple(table.column_names) == header
        with (tmp_path / f"report.{kind}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert table.num_rows == len(rows)
        for name in header:
            for said, read in zip(table[name].to_pylist(), (row[name] for row in rows), strict=True):
                if said is None or read == "":
                    assert said in (None, ""), (kind, name)
                    assert read == "", (kind, name)
                else:
                    assert said == type(said)(read), (kind, name)


def test_without_its_library_a_format_names_its_extra(
    address: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_results.require.__globals__["importlib"].util, "find_spec", lambda name: None)
    for form in ("tensorboard", "mlflow", "trackio", "wandb"):
        assert cli.main(["export-results", run, "--format", form, "-o", "x", "--coordinator", address]) == 2
        assert f"edgejoule[{form}]" in capsys.readouterr().err


def test_a_head_is_given_as_an_npz_that_another_plan_starts_from(
    address: str, run: str, plain_bundle: Path, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.npz"
    assert cli.main(["export", run, "--head-alone", "-o", str(out), "--coordinator", address]) == 0
    assert "tensors of the head: " in capsys.readouterr().out
    with np.load(out, allow_pickle=False) as found:
        assert {name: found[name].shape for name in found} == open_bundle(plain_bundle).manifest.head.shapes()
        assert all(found[name].dtype == np.float32 for name in found)
    text = tools.plan(plain_bundle).replace("[run]\n", f'[run]\nstart_from = "{out}"\n')
    told = status(address, run)
    with Operator(address) as operator:
        again = operator.start_run(text, tmp_path)
        tools.until(lambda: operator.status(again)[0].rounds, "round 0")
        assert operator.status(again)[0].rounds[0].head_version == told.rounds[3].head_version
        # A head that no device would train: the run would wait for ever.
        with np.load(out, allow_pickle=False) as found:
            np.savez(out, allow_pickle=False, **{name: found[name] + np.float32(1e20) for name in found})
        with pytest.raises(PlanError, match=r"head.npz: tensor out_bias holds numbers beyond 1e\+09"):
            operator.start_run(text, tmp_path)
    assert cli.main(["export", run, "--head-alone", "-o", str(tmp_path / "m"), "--coordinator", address]) == 2
