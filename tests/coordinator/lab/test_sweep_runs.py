"""A sweep for real: a coordinator and daemons as processes, cut in the middle, gone on with, read and compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

import coordinator.cli
from coordinator.operator.client import Operator
from protos.plan.plan import parse

pytestmark = [pytest.mark.workshop, pytest.mark.processes]

SWEEP = """
[sweep]
devices = 2
data = "digits.npz"
sensor = "estimate"

[run]
bundle = "digits"
rounds = 1
seed = [0, 1]

[train]
steps = 3

[policy.fine]
"update.bits" = 8

[policy.coarse]
"update.bits" = 2
"""


def test_a_sweep_that_was_ended_goes_on_and_ends_in_a_table(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("digits.npz", "digits"):
        (tmp_path / name).symlink_to(digits / name)
    (tmp_path / "trial.toml").write_text(SWEEP)
    folder = tmp_path / "out"
    words = [sys.executable, "-m", "coordinator.cli", "sweep", "trial.toml", "-o", "out"]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with process:
        lines = []
        for line in process.stderr:
            lines.append(line.decode())
            if lines[-1].startswith("1 of 4: "):
                process.send_signal(signal.SIGTERM)
                break
        lines += [line.decode() for line in process.stderr]
    assert process.returncode == 143, lines
    kept = sorted(path.name for path in (folder / "runs").iterdir())
    assert kept in (["fine-seed-0.json"], ["coarse-seed-0.json", "fine-seed-0.json"]), lines
    first = (folder / "runs" / "fine-seed-0.json").read_bytes()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay as they are
    assert coordinator.cli.main(["sweep", "trial.toml", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    assert f"{len(kept)} of 4 runs are done already" in err
    assert (folder / "runs" / "fine-seed-0.json").read_bytes() == first
    assert len(list((folder / "runs").iterdir())) == 4
    said = json.loads((folder / "sweep.json").read_text())
    assert [cell["cell"] for cell in said["cells"]] == ["fine", "coarse"]
    for cell in said["cells"]:
        assert (cell["runs"], cell["rounds"]["mean"]) == (2, 1.0)
        assert cell["energy_j"]["mean"] > 0
        assert cell["best"]["half95"] is not None
    # Fewer bits are fewer bytes, in both seeds.
    (bytes_up,) = [difference for difference in said["differences"] if difference["figure"] == "bytes_up"]
    assert bytes_up["difference"] < 0
    assert (bytes_up["higher"], bytes_up["pairs"]) == (0, 2)
    assert "against fine, over the same seeds" in out
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    # The exact plans are there, and each can be started by itself.
    for path in (folder / "plans").iterdir():
        assert parse(path.read_text(), where=path.name).round.devices == 2
    # A third time nothing is left to do, and a fleet is not started.
    begun = (folder / "fleet" / "coordinator.address").stat().st_mtime_ns
    assert coordinator.cli.main(["sweep", "trial.toml", "-o", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said
    assert (folder / "fleet" / "coordinator.address").stat().st_mtime_ns == begun
    # Its files can be compared on their own.
    files = [str(path) for path in sorted((folder / "runs").iterdir())]
    assert coordinator.cli.main(["compare", *files, "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert {cell["cell"] for cell in compared["cells"]} == {"fine", "coarse"}
    assert coordinator.cli.main(["compare", files[0], files[0]]) == 2
    # Somebody's folder is left alone.
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    assert coordinator.cli.main(["sweep", "trial.toml", "-o", "other"]) == 2


def a_round(device: Any, number: int) -> None:
    """What a device does in one round."""
    device.send(device.answer(device.order(number), 0.1))


def test_runs_of_a_coordinator_are_compared_by_what_differs_in_their_plans(
    tools: Any, plain_bundle: Path, address: str, fleet: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    device = fleet(address, "d1")
    device.join()
    ids = []
    with Operator(address) as operator:
        for rate in (1.0, 0.5):
            for seed in (1, 2):
                text = tools.plan(plain_bundle, more=f"[aggregate]\nserver_rate = {rate}\n")
                ids.append(operator.start_run(text.replace("seed = 7", f"seed = {seed}"), plain_bundle.parent))
                a_round(device, 1)
                tools.finished(operator, ids[-1])
    assert coordinator.cli.main(["compare", *ids, "--coordinator", address, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [cell["cell"] for cell in said["cells"]] == ["aggregate.server_rate 1.0", "aggregate.server_rate 0.5"]
    assert all(cell["runs"] == 2 for cell in said["cells"])
    (joules,) = [difference for difference in said["differences"] if difference["figure"] == "energy_j"]
    assert joules["pairs"] == 2
    assert coordinator.cli.main(["compare", *ids, "--coordinator", address]) == 0
    assert "over the same seeds" in capsys.readouterr().out
    assert coordinator.cli.main(["compare", "nobody", "--coordinator", address]) == 18


def test_a_plan_is_given_back_and_a_wait_taken_up_while_the_coordinator_starts_again(
    tools: Any, plain_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fleet: Any
) -> None:
    text = tools.plan(plain_bundle, rounds=2) + "# a remark\n"
    port = free_port()
    root = str(Path(__file__).parents[3])
    words = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(tmp_path / "state")]
    words += ["--listen", f"127.0.0.1:{port}", "--ready-file", str(tmp_path / "ready")]

    def serve() -> subprocess.Popen[bytes]:
        (tmp_path / "ready").unlink(missing_ok=True)
        made = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.DEVNULL)
        tools.until((tmp_path / "ready").exists, "the coordinator")
        return made

    server = serve()
    try:
        address = f"127.0.0.1:{port}"
        with Operator(address) as operator:
            run_id = operator.start_run(text, plain_bundle.parent)
        assert coordinator.cli.main(["plan", run_id[:8], "--coordinator", address]) == 0
        assert capsys.readouterr().out == text
        kept = tmp_path / "again.toml"
        assert coordinator.cli.main(["plan", run_id, "-o", str(kept), "--coordinator", address]) == 0
        assert kept.read_text() == text
        assert coordinator.cli.main(["plan", run_id, "-o", str(kept), "--coordinator", address]) == 2
        waiting = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "wait", run_id, "--coordinator", address],
            env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE,
        )  # fmt: skip
        with waiting:
            device = fleet(address, "d1")
            device.join()
            a_round(device, 1)
            assert waiting.stdout is not None
            seen = [waiting.stdout.readline(), waiting.stdout.readline()]
            server.kill()
            server.wait()
            time.sleep(0.5)
            server = serve()
            device.join()
            a_round(device, 2)
            seen += waiting.stdout.readlines()
        assert waiting.returncode == 0
        assert [line.split(b":")[0] for line in seen] == [b"round 0", b"round 1", b"round 2"]
        assert coordinator.cli.main(["wait", run_id, "--coordinator", address, "--json"]) == 0
        capsys.readouterr()
    finally:
        server.terminate()
        server.wait(30)
