"""An upgrade, its trial and its end; systemd and pip stand in (see ``upgrade_rig``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from upgrade_rig import BAD, GOOD, Manager, Rig, on_trial, program, silent

import edge_runtime.cli
from edge_runtime.service.upgrade import record as book
from edge_runtime.service.upgrade import selfcheck
from edge_runtime.service.upgrade.environments import Environment
from edge_runtime.service.upgrade.upgrade import rollback, wait
from protos.errors import RefusedError, StoreError, UpgradeError

HERE = Path(__file__).parent


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

    monkeypatch.setattr("edge_runtime.service.upgrade.switching._write", full)
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


def test_a_switch_that_is_made_again_does_nothing_and_restarts_nothing(rig: Rig) -> None:
    switching, manager = on_trial(rig)
    switching.switch()
    unit, record, calls = rig.place.unit.read_text(), switching.load(), list(manager.calls)
    assert unit == rig.unit_of(rig.new)
    rig.place.unit.write_text(unit + "# by hand\n")
    for again in (switching, rig.switching(manager)):
        again.switch()
    assert (switching.load(), manager.calls) == (record, calls)
    assert rig.place.unit.read_text() == unit + "# by hand\n", "nor is the unit written again"


def test_a_switch_after_the_trial_was_lost_or_without_one_does_nothing(rig: Rig) -> None:
    switching, manager = on_trial(rig)
    switching.condemn("no good", blame=False)
    calls = list(manager.calls)
    switching.switch()
    assert (rig.place.unit.read_text(), manager.calls) == (rig.unit_of(rig.old), calls)
    switching.go_back()
    calls, record = list(manager.calls), switching.load()
    switching.switch()
    assert (switching.load(), manager.calls) == (record, calls)
