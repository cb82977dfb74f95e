"""A bundle that starts from a trained head: taken by the workshop, by a coordinator and by a real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_daemon import RunningDaemon

from coordinator.cli import main
from coordinator.operator.client import Operator
from edge_runtime.config import resolve
from protos.errors import IntegrityError, UsageError
from protos.model.bundle import open_bundle

PLAN = """
[run]
bundle = {bundle}
rounds = {rounds}
[round]
devices = 1
deadline_s = 120
[train]
steps = 40
rate = 0.2
[evaluate]
data = "digits.npz"
"""


def plan(bundle: str, rounds: int) -> str:
    return PLAN.format(bundle=json.dumps(bundle), rounds=rounds)


@pytest.mark.workshop
@pytest.mark.processes
def test_a_bundle_with_the_new_head_is_taken_by_all_who_take_bundles(
    digits: Path, address: str, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "coordinator": address,
        "device_id": "pi-a",
        "state": str(tmp_path / "pi-a"),
        "data": str(digits / "digits.npz"),
        "pause_above_c": "0",
        "throttled_from": "none",
    }
    daemon = RunningDaemon(resolve(given, {}, None).settings)
    out = tmp_path / "made" / "digits-2"
    try:
        with Operator(address) as operator:
            first = tools.finished(operator, operator.start_run(plan("digits", 2), digits))
            assert first.state == "finished", first.reason
            words = ["export", first.run_id, "--bundle", "-o", str(out), "--coordinator", address]
            assert main([*words, "--json"]) == 0
            said = json.loads(capsys.readouterr().out)
            head_alone = ["export", first.run_id, "--head-alone", "-o", str(tmp_path / "head.npz")]
            assert main([*head_alone, "--coordinator", address]) == 0
            made, before = open_bundle(out), open_bundle(digits / "digits")
            assert made.bundle_id != before.bundle_id
            assert said["note"].endswith(made.bundle_id)
            with np.load(tmp_path / "head.npz") as head:
                assert {name: one.tobytes() for name, one in made.initial_head().items()} == {
                    name: head[name].tobytes() for name in head.files
                }
            assert all(
                np.array_equal(*pair) for pair in zip(made.feature_affine(), before.feature_affine(), strict=True)
            )
            assert made.manifest.provenance["starting_head"] == {
                "run": first.run_id, "version": said["head_version"], "of_bundle": before.bundle_id,
            }  # fmt: skip
            # Nothing is left beside it, nor written over it unasked.
            assert [path.name for path in out.parent.iterdir()] == ["digits-2"]
            capsys.readouterr()
            assert main(words) == UsageError.exit_code
            assert "--again" in capsys.readouterr().err
            assert main([*words, "--again"]) == 0
            assert open_bundle(out).bundle_id == made.bundle_id, "the same head gives the same bundle"
            assert [path.name for path in out.parent.iterdir()] == ["digits-2"]
            inspected = subprocess.run(
                [sys.executable, "-m", "firmware_tools.cli", "inspect", str(out)], capture_output=True, check=False
            )
            assert inspected.returncode == 0, inspected.stderr
            # A run by it begins where the first one ended, and its daemon learns on.
            second = tools.finished(operator, operator.start_run(plan(str(out), 1), digits))
            assert second.state == "finished", second.reason
            best = {this_round.head_version: this_round.accuracy for this_round in first.rounds}[said["head_version"]]
            assert best is not None
            assert best > first.rounds[0].accuracy
            assert second.rounds[0].accuracy == best
            assert [device.outcome for device in second.rounds[-1].devices] == ["accepted"]
    finally:
        daemon.stop()


def test_what_is_there_is_never_lost_and_what_is_no_bundle_never_written(
    address: str, plain_bundle: Path, fleet: Any, tools: Any, tmp_path: Path
) -> None:
    from coordinator.operator.unpacking import unpacked

    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=1), tmp_path)
        device = fleet(address, "pi-a")
        device.join()
        device.send(device.answer(device.order(round=1), 0.25))
        tools.finished(operator, run_id)
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "thesis.txt").write_text("all of it")
        with pytest.raises(UsageError, match="is no bundle"):
            operator.export_bundle(run_id, mine, again=True)
        assert (mine / "thesis.txt").read_text() == "all of it"
        summary = operator.export_bundle(run_id, tmp_path / "out")
        start, head = open_bundle(plain_bundle).initial_head(), open_bundle(tmp_path / "out").initial_head()
        for name, values in start.items():
            np.testing.assert_allclose(head[name], values + np.float32(0.25), rtol=1e-6)
        assert summary.size_bytes > 0
    with pytest.raises(IntegrityError, match="damaged"):
        unpacked(b"no archive", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert not (tmp_path / "other").exists()
