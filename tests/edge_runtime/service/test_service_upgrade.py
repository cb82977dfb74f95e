"""A version beside another, and what is written down of it; systemd and pip stand in (see ``upgrade_rig``)."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from upgrade_rig import BAD, GOOD, PID, Manager, Rig, program

import edge_runtime.cli
from edge_runtime.config import resolve
from edge_runtime.service import record as book
from edge_runtime.service import selfcheck
from edge_runtime.service.environments import Environment, Versions, name_of
from edge_runtime.service.record import Record, Trial, Version
from edge_runtime.service.switching import WATCH, Switching, watch_text
from edge_runtime.service.systemd import seen
from edge_runtime.service.unit import Credential, read_back
from edge_runtime.service.upgrade import rollback, wait
from edge_runtime.service.verdict import ALONE_S, SETTLE_S, judge
from edge_runtime.service.vitals import Vitals, VitalsFile, read
from edge_runtime.state import READS, StateFolder
from protos.errors import RefusedError, StoreError, UpgradeError, UsageError

HERE = Path(__file__).parent
TRIAL = Trial(Version("new", "/new", ""), Version("old", "/old", ""), "boot-1", started_s=100.0, limit_s=600.0)
SAID = Vitals(PID, "/new", "xnnpack", answered_s=1900.0)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path / "root")
    made.root.mkdir()
    made.make()
    return made


def silent(line: str) -> None: ...


def on_trial(rig: Rig, sight=GOOD) -> tuple[Switching, Manager]:
    """An upgrade that was begun; its watch has not run yet."""
    manager = Manager(sight)
    switching = rig.switching(manager)
    assert rig.upgrade(switching) == rig.new.name
    return switching, manager


# ---- the verdict


def verdict(trial: Trial = TRIAL, said: Vitals | None = SAID, *, boottime_s: float = 200.0, **changes: object) -> str:
    sight = dataclasses.replace(GOOD, **changes)
    return judge(trial, sight, said, boottime_s=boottime_s, monotonic_s=2000.0).kind


def test_an_answer_of_the_coordinator_is_good_once_the_daemon_has_run_on_for_a_while() -> None:
    assert verdict() == "good"
    assert verdict(said=dataclasses.replace(SAID, answered_s=2000.0 - SETTLE_S / 2)) == "wait"
    assert verdict(said=dataclasses.replace(SAID, pid=PID + 1)) == "wait", "of the process before"


def test_without_a_coordinator_progress_is_good_unless_the_version_before_was_answered() -> None:
    alone = dataclasses.replace(SAID, answered_s=None)
    assert verdict(said=alone, fed_s=1000.0 + ALONE_S) == "good"
    assert verdict(said=alone, fed_s=1000.0 + ALONE_S - 1) == "wait"
    assert verdict(said=alone, fed_s=1000.0) == "wait", "time alone is no progress"
    assert verdict(dataclasses.replace(TRIAL, must_join=True), alone, fed_s=1e4) == "wait"
    assert verdict(dataclasses.replace(TRIAL, limit_s=60.0), alone, boottime_s=150.0, fed_s=1015.0) == "good"


@pytest.mark.parametrize(
    "changes",
    [{"active": "failed"}, {"active": "inactive"}, {"restarts": 2}, {"active": "activating", "restarts": 2}],
)
def test_what_ended_is_bad_and_says_how(changes: dict[str, object]) -> None:
    sight = dataclasses.replace(GOOD, **changes, result="exit-code", exit_code=15)
    found = judge(TRIAL, sight, None, boottime_s=101.0, monotonic_s=2000.0)
    assert (found.kind, "exit code 15" in found.why) == ("bad", True)


def test_one_new_start_is_forgiven() -> None:
    assert verdict(restarts=1) == "good"


def test_nothing_is_judged_while_systemd_is_still_busy_with_the_version_before() -> None:
    assert (
        verdict(active="inactive", busy=True, restarts=9, said=dataclasses.replace(SAID, environment="/old")) == "wait"
    )
    assert verdict(active="activating", busy=True, boottime_s=701.0) == "bad"


def test_another_program_or_other_kernels_are_bad() -> None:
    assert verdict(said=dataclasses.replace(SAID, environment="/old")) == "bad"
    assert (
        verdict(dataclasses.replace(TRIAL, delegate="xnnpack"), dataclasses.replace(SAID, delegate="builtin")) == "bad"
    )
    assert (
        verdict(dataclasses.replace(TRIAL, delegate="builtin"), dataclasses.replace(SAID, delegate="builtin")) == "good"
    )


def test_time_that_is_over_is_bad_with_what_is_missing() -> None:
    def why(said: Vitals | None, **changes: object) -> str:
        trial = dataclasses.replace(TRIAL, must_join=True)
        sight = dataclasses.replace(GOOD, **changes)
        return judge(trial, sight, said, boottime_s=700.0, monotonic_s=2000.0).why

    assert why(None, active="activating") == "it was not ready within 600 s"
    assert "was not answered by the coordinator" in why(dataclasses.replace(SAID, answered_s=None))


# ---- an upgrade and its end


def test_a_good_version_stays_and_the_one_before_can_be_gone_back_to(rig: Rig) -> None:
    switching, manager = on_trial(rig)
    assert rig.place.unit.read_text() == rig.unit_of(rig.old), "the watch switches, not the command"
    rig.watch(switching)
    assert rig.place.unit.read_text() == rig.unit_of(rig.new)
    assert ("--no-block", "restart", "edge-runtime.service") in manager.calls
    record = switching.load()
    assert (record.trial, record.before.path, record.bad) == (None, str(rig.old), {})
    assert not switching.watch_unit.exists()
    done = rollback(switching, dry_run=False, say=silent)
    assert "by hand" in done
    assert rig.place.unit.read_text() == rig.unit_of(rig.old)
    assert switching.load().before.path == str(rig.new)
    assert "by hand" in rollback(switching, dry_run=False, say=silent), "and forth again"
    assert rig.place.unit.read_text() == rig.unit_of(rig.new)


def test_a_bad_version_leaves_again_and_is_refused_from_then_on(rig: Rig) -> None:
    switching, _ = on_trial(rig, BAD)
    rig.watch(switching)
    assert rig.place.unit.read_text() == rig.unit_of(rig.old)
    assert list(switching.load().bad) == [rig.new.name]
    assert not rig.new.exists()
    with pytest.raises(RefusedError, match=r"was bad: it ended.*--force"):
        rig.upgrade(switching)
    assert rig.upgrade(switching, force=True) == rig.new.name
    with pytest.raises(UpgradeError, match="nobody watches"):
        wait(switching, rig.new.name, 60.0, say=silent)


def test_the_command_tells_how_the_trial_ended(rig: Rig) -> None:
    switching, _ = on_trial(rig)
    rig.watch(switching)
    assert "the coordinator took it in" in wait(switching, rig.new.name, 60.0, say=silent)
    other = Rig(rig.root.parent / "other")
    other.root.mkdir()
    other.make()
    switching, _ = on_trial(other, BAD)
    other.watch(switching)
    with pytest.raises(UpgradeError, match="it ended"):
        wait(switching, other.new.name, 60.0, say=silent)


def test_a_version_that_says_that_it_is_not_fit_is_never_switched_to(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager(GOOD)
    monkeypatch.setattr("upgrade_rig.program", lambda path, unit: program(path, unit, ok=False))
    with pytest.raises(UpgradeError, match="a wheel has come off"):
        rig.upgrade(rig.switching(manager))
    assert manager.calls == []
    assert list(rig.switching(manager).load().bad) == [rig.new.name]


@pytest.mark.parametrize("text", ["#!/bin/sh\necho broken >&2\nexit 1\n", "#!/bin/sh\necho '{}'\n", "no program", ""])
def test_a_version_that_does_not_answer_is_not_fit_and_says_what_it_said(rig: Rig, text: str) -> None:
    program(rig.new)
    if text:
        (rig.new / "bin/edge-runtime").write_text(text)
    with pytest.raises(UpgradeError, match="its self check"):
        selfcheck.ask(Environment(rig.new), rig.place.written())


def test_a_rollback_in_a_trial_ends_it_and_blames_nobody(rig: Rig) -> None:
    switching, _ = on_trial(rig)
    switching.switch()
    assert rollback(switching, dry_run=True, say=silent) == f"would end the trial of {rig.new.name}"
    assert "by hand" in rollback(switching, dry_run=False, say=silent)
    assert rig.place.unit.read_text() == rig.unit_of(rig.old)
    assert (switching.load().trial, switching.load().bad) == (None, {})
    rig.watch(switching)
    assert rig.place.unit.read_text() == rig.unit_of(rig.old), "the watch finds nothing to do"


def test_a_trial_ends_with_the_boot_that_it_began_in(rig: Rig) -> None:
    switching, manager = on_trial(rig)
    switching.switch()
    manager.boot, manager.calls = "boot-2", []
    rig.watch(switching)
    assert rig.place.unit.read_text() == rig.unit_of(rig.old)
    assert ("daemon-reload",) in manager.calls
    assert not any("restart" in call for call in manager.calls), "the boot itself starts the service"
    assert (switching.load().bad, "started again" in switching.load().last) == ({}, True)


def test_a_service_that_ends_because_the_machine_goes_down_is_not_judged(rig: Rig) -> None:
    switching, manager = on_trial(rig, BAD)
    looks = iter([True, True, False])
    manager.going_down = lambda: next(looks)
    rig.watch(switching)
    assert next(looks, None) is None, "it was judged in the third look, when the machine stays"


def test_a_disk_that_is_full_does_not_keep_the_old_version_from_coming_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    switching, _ = on_trial(rig, BAD)
    switching.switch()

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_runtime.service.switching._write", full)
    switching.condemn("no good", blame=True)
    switching.go_back()
    assert rig.place.unit.read_text() == rig.unit_of(rig.old)


def test_a_second_command_waits_for_nobody(rig: Rig) -> None:
    with book.alone(rig.place.home), pytest.raises(RefusedError, match="another command"):
        rig.upgrade(rig.switching(Manager(GOOD)))


def test_a_trial_that_is_watched_is_left_alone_and_one_that_is_not_is_ended(rig: Rig) -> None:
    switching, manager = on_trial(rig)
    manager.watching = True
    with pytest.raises(RefusedError, match="is on trial"):
        rig.upgrade(switching)
    manager.watching = False
    assert rig.upgrade(switching) == rig.new.name
    rig.watch(switching)
    assert switching.load().bad == {}


def test_an_environment_of_a_package_manager_is_left_to_it(rig: Rig) -> None:
    (rig.old / "managed-by").write_text("sudo apt-get install ./edgejoule.deb\n")
    with pytest.raises(RefusedError, match=r"upgrade it by: sudo apt-get install"):
        rig.upgrade(rig.switching(Manager(GOOD)))
    # Also behind the link that a package puts where programs are looked for.
    (rig.root / "usr/bin").mkdir(parents=True)
    (rig.root / "usr/bin/edge-runtime").symlink_to(rig.old / "bin/edge-runtime")
    rig.place.unit.write_text(rig.unit_of(rig.root / "usr"))
    with pytest.raises(RefusedError, match=r"upgrade it by: sudo apt-get install"):
        rig.upgrade(rig.switching(Manager(GOOD)))


def test_a_disk_without_room_is_told_before_anything_is_installed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (rig.old / "pyvenv.cfg").write_text("home = /usr/bin\n")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(StoreError, match=r"0 MB are free.*free some space"):
        rig.upgrade(rig.switching(Manager(GOOD)))
    assert not rig.new.exists()


def test_folders_of_versions_are_open_to_the_service_whatever_roots_umask_is(rig: Rig) -> None:
    before = os.umask(0o077)
    try:
        on_trial(rig)
    finally:
        os.umask(before)
    assert {one.stat().st_mode & 0o777 for one in (rig.place.home, rig.new.parent)} == {0o755}
    assert (rig.place.home / book.FILE).stat().st_mode & 0o777 == 0o644


def test_there_is_no_way_back_from_the_first_version(rig: Rig) -> None:
    with pytest.raises(RefusedError, match="no version before"):
        rollback(rig.switching(Manager(GOOD)), dry_run=False, say=silent)


@pytest.mark.parametrize("end", ["good", "bad"])
def test_a_kill_before_any_change_to_the_disk_leaves_the_old_version_or_the_new_one(tmp_path: Path, end: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_upgrades.py"), str(tmp_path), end],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] > 50
    assert set(found["kill"]) == {"old", "new"}
    # After a boot a version on trial is gone; one that was kept stays.
    assert set(found["boot"]) == ({"old", "new"} if end == "good" else {"old"})


# ---- environments and the record


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
    for one in ("edgejoule-0.3.1", "smbus2-0.6.1", "numpy-2.4.6"):
        (site / f"{one}.dist-info").mkdir(parents=True)
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


# ---- what the daemon shows, and the state that both versions read


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
    assert [one["check"] for one in found["checks"] if one["verdict"] == "fail"] == ["state"]
    assert [one.name for one in (state / "outbox").iterdir()] == ["00000001-abc.report"], "and nothing was changed"
    (state / "layout").write_text("7\n")
    found = selfcheck.examine(resolve({"data": str(tmp_path / "no.npz")}, {}, None), "", state)
    assert [one["check"] for one in found["checks"] if one["verdict"] == "fail"] == ["fresh start", "state"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("upgrade", "--trial", "1"), 2, "give 10 to 86400 seconds"),
        (("upgrade", "--wheel", "/nowhere.whl"), 2, "is not there"),
        (("watch-trial",), 16, "is for systemd to run"),
    ],
)
def test_mistakes_are_one_line_with_a_way_out(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.service.install.may_change", lambda place, instead: None)
    assert edge_runtime.cli.main(["service", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
