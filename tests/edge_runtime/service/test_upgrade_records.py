"""What two versions read of each other: environments, the record, units, vitals, and the state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from upgrade_rig import TRIAL, Rig, on_trial, program

from edge_runtime.config import resolve
from edge_runtime.service.systemctl import seen
from edge_runtime.service.unit import Credential, read_back
from edge_runtime.service.upgrade import record as book
from edge_runtime.service.upgrade import selfcheck
from edge_runtime.service.upgrade.environments import Environment, Versions, name_of
from edge_runtime.service.upgrade.record import Record
from edge_runtime.service.upgrade.switching import WATCH, watch_text
from edge_runtime.state import READS, StateFolder
from edge_runtime.systemd.vitals import Vitals, VitalsFile, read
from protos.errors import RefusedError, StoreError, UsageError


def test_half_of_a_version_is_never_taken_for_one(rig: Rig) -> None:
    program(rig.new)
    versions = Versions(rig.place.home)
    assert not versions.complete(rig.new.name)
    switching, _ = on_trial(rig)
    assert versions.complete(rig.new.name)
    versions.keep([str(rig.old)])
    assert not rig.new.exists()
    assert (rig.old / "bin/edge-runtime").exists(), "what somebody made by hand is theirs"
    assert switching.load().trial is not None


def test_two_builds_of_one_version_are_two_names(tmp_path: Path) -> None:
    wheel = tmp_path / "edgejoule-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"a")
    first = name_of(wheel)
    wheel.write_bytes(b"b")
    assert name_of(wheel) != first
    assert first.startswith("1.2.3-")
    with pytest.raises(UsageError, match="is no wheel of edgejoule"):
        name_of(tmp_path / "numpy-1.0-py3-none-any.whl")


def test_version_and_extras_of_an_environment_are_read_from_its_files(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    for text in ("edgejoule-0.3.1", "smbus2-0.6.1", "numpy-2.4.6"):
        (site / f"{text}.dist-info").mkdir(parents=True)
    assert (Environment(tmp_path).version, Environment(tmp_path).extras) == ("0.3.1", ("i2c",))
    assert Environment(tmp_path / "none").version == "unknown"


def test_the_record_is_read_as_it_was_written_and_a_later_one_is_refused(tmp_path: Path) -> None:
    assert book.load(tmp_path) == Record()
    record = Record(before=TRIAL.old, trial=TRIAL, bad={"a": "b"}, last="c")
    book.save(tmp_path, record)
    assert book.load(tmp_path) == record
    path = tmp_path / book.FILE
    found = json.loads(path.read_text())
    found["trial"]["a key of a later version"] = 1
    path.write_text(json.dumps(found))
    assert book.load(tmp_path) == record
    path.write_text(json.dumps({**found, "layout": 2}))
    with pytest.raises(RefusedError, match="has layout 2"):
        book.load(tmp_path)
    path.write_text("{")
    with pytest.raises(StoreError, match="move it away"):
        book.load(tmp_path)


def test_what_a_unit_says_is_read_back_with_every_strange_name(rig: Rig, tmp_path: Path) -> None:
    from edge_runtime.service.access import access_of
    from edge_runtime.service.unit import unit_text

    started, config = Path("/opt/a b%c/bin/edge-runtime"), Path("/etc/d$e;f/device.toml")
    resolved = resolve({"data": "/srv/x.npz"}, {}, None)
    keys = [Credential("device.key", Path("/etc/100%/key"))]
    access = access_of(resolved.settings, config, started)
    written = read_back(unit_text(resolved, access, program=started, config=config, credentials=keys))
    assert (written.program, written.config, written.credentials) == (started, config, tuple(keys))
    assert read_back("[Service]\nExecStart=/bin/true\n") is None


def test_what_systemctl_shows_is_seen_in_seconds() -> None:
    shown = (
        "ActiveState=activating\nMainPID=7\nNRestarts=2\nJob=55\nActiveEnterTimestampMonotonic=2500000\nStatusText=a=b"
    )
    sight = seen(shown)
    assert (sight.active, sight.pid, sight.restarts, sight.busy, sight.ready_s) == ("activating", 7, 2, True, 2.5)
    assert (sight.says, sight.fed_s, seen("").busy) == ("a=b", 0.0, False)


def test_the_watch_is_a_unit_that_systemd_accepts_and_comes_before_the_service(tmp_path: Path) -> None:
    started = tmp_path / "bin/edge-runtime"
    program(tmp_path)
    (tmp_path / WATCH).write_text(watch_text(started))
    assert "Before=edge-runtime.service\n" in watch_text(started)
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", str(tmp_path / WATCH)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs systemd-analyze (package systemd)")
    assert (done.returncode, done.stderr) == (0, "")


def test_vitals_say_who_runs_and_when_the_coordinator_first_answered(tmp_path: Path) -> None:
    clock = iter([5.0, 9.0])
    file = VitalsFile(tmp_path / "vitals.json", now_s=lambda: next(clock))
    file.ready(version="1", engine="e", delegate="xnnpack")
    assert read(tmp_path / "vitals.json") == Vitals(os.getpid(), sys.prefix, "xnnpack", None)
    file.answered()
    file.answered()
    assert read(tmp_path / "vitals.json").answered_s == 5.0
    (tmp_path / "vitals.json").write_text("{")
    assert read(tmp_path / "vitals.json") is None
    VitalsFile(tmp_path / "nowhere/vitals.json").answered()
    assert VitalsFile.of({"RUNTIME_DIRECTORY": f"{tmp_path}:/run/other"})._path == tmp_path / "vitals.json"


def test_a_state_of_another_layout_is_left_alone(tmp_path: Path) -> None:
    StateFolder(tmp_path).close()
    assert (tmp_path / "layout").read_text() == "1\n"
    StateFolder(tmp_path).close()
    (tmp_path / "layout").write_text("7\n")
    with pytest.raises(StoreError, match="holds layout '7'"):
        StateFolder(tmp_path)
    (tmp_path / "layout").unlink()
    StateFolder(tmp_path).close()


def test_the_self_check_tells_what_is_wrong_with_data_and_state(tmp_path: Path, data: Path) -> None:
    resolved = resolve({"data": str(data), "device_id": "pi-1"}, {}, None)
    state = tmp_path / "service"
    found = selfcheck.examine(resolved, "the unit", state)
    assert (found["ok"], found["unit"], found["layouts"], found["delegate"]) == (
        True,
        "the unit",
        list(READS),
        "xnnpack",
    )
    StateFolder(state).close()
    (state / "outbox/00000001-abc.report").write_bytes(b"no report")
    found = selfcheck.examine(resolved, "", state)
    assert [check["check"] for check in found["checks"] if check["verdict"] == "fail"] == ["state"]
    assert [path.name for path in (state / "outbox").iterdir()] == ["00000001-abc.report"], "and nothing was changed"
    (state / "layout").write_text("7\n")
    found = selfcheck.examine(resolve({"data": str(tmp_path / "no.npz")}, {}, None), "", state)
    assert [check["check"] for check in found["checks"] if check["verdict"] == "fail"] == ["fresh start", "state"]
