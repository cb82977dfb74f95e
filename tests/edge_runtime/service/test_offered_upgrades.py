"""Root's part of an upgrade that the coordinator offered; systemd and pip stand in (see ``upgrade_rig``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from upgrade_rig import BAD, GOOD, Manager, Rig, program, silent

from coordinator.trust import signing
from coordinator.trust.authority import FOLDER as TRUST
from coordinator.trust.authority import Authority
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.daemon.upgrading import FOLDER, ORDERED, REQUEST, Upgrades
from edge_runtime.identity.identity import Identity, write_identity
from edge_runtime.identity.signatures import Memory, Signatures, write_memory
from edge_runtime.service.install import uninstall
from edge_runtime.service.upgrade import environments, ordered, ordered_units
from edge_runtime.service.upgrade.environments import Environment, Versions
from edge_runtime.service.upgrade.ordered import allow, allowed, forbid, take_up
from edge_runtime.service.upgrade.upgrade import upgrade, wait
from protos.errors import EdgejouleError, RefusedError
from protos.orders import UpgradeOffer, UpgradeState
from protos.trust.signed import signature_of


class Fleet:
    """A rig whose board is enrolled, and the keys of its fleet."""

    def __init__(self, rig: Rig, sight: Any = GOOD) -> None:
        self.rig, self.manager = rig, Manager(sight)
        self.folder = rig.root / TRUST
        self.authority = Authority.create(self.folder)
        self.key = self.folder / signing.KEY_FILE
        signing.write_signers(self.folder, [signing.make_key(self.key)], 1)
        rig.place.state.mkdir(parents=True)
        self.enrol(self.authority)
        self.switching = rig.switching(self.manager)
        self.upgrades = Upgrades(rig.place.state, rig.root, Signatures(rig.place.state))

    def enrol(self, authority: Authority) -> None:
        now, root = time.time(), authority.root_pem.decode()
        write_identity(self.rig.place.state, Identity("pi-1", ("127.0.0.1:1",), 2, "", "", root, now, now + 1e6))

    def sign(self, version: int, path: Path | None = None) -> None:
        signing.sign(self.folder, path or self.rig.wheel, [self.key], line="edgejoule", days=9, version=version)

    def ask(self, **changed: object) -> None:
        """What a daemon leaves, without the daemon's own checks."""
        folder = self.rig.place.state / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in (self.rig.wheel, signature_of(self.rig.wheel)):
            if path.exists():
                shutil.copy(path, folder)
        asked = {"upgrade_id": "upgrade-1", "wheel": self.rig.wheel.name, "trial_s": 60.0, **changed}
        (folder / REQUEST).write_text(json.dumps(asked))

    def take_up(self) -> UpgradeState | None:
        fill, place = environments._run, self.rig.place
        environments._run = lambda command, fix: program(self.rig.new, self.rig.unit_of(self.rig.new))  # type: ignore[assignment]
        try:
            take_up(self.switching, silent)
        finally:
            environments._run = fill
        assert not (place.state / FOLDER / REQUEST).exists()
        return self.upgrades.said()


@pytest.fixture
def fleet(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet(rig)
    monkeypatch.setattr(environments, "_carry", lambda old, new: None)

    def watched(switching: Any, name: str, limit_s: float, *, say: Any) -> str:
        # The watch, which systemd would have started.
        rig.watch(switching)
        return wait(switching, name, limit_s, say=say)

    monkeypatch.setattr(ordered, "wait", watched)
    return made


def test_what_was_signed_is_installed_and_stays(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="upgrades are not allowed here"):
        take_up(fleet.switching, silent)
    assert fleet.upgrades.said() is None
    allow(fleet.rig.place, fleet.manager)
    assert fleet.upgrades.said() == UpgradeState()
    fleet.sign(1)
    offer = UpgradeOffer("upgrade-1", fleet.rig.wheel.name, 13, _digest(fleet.rig.wheel), 60.0)

    def fetch(folder: Path) -> None:
        for one in (fleet.rig.wheel, signature_of(fleet.rig.wheel)):
            shutil.copy(one, folder)

    assert fleet.upgrades.take(offer, fetch)
    said = fleet.take_up()
    assert said is not None
    assert (said.upgrade_id, said.state) == ("upgrade-1", "kept")
    assert "the coordinator took it in" in said.reason
    assert fleet.rig.place.unit.read_text() == fleet.rig.unit_of(fleet.rig.new)
    unit = fleet.rig.place.unit.parent / ordered_units.SERVICE
    assert f"ExecStart={fleet.rig.new}/bin/edge-runtime service take-upgrade" in unit.read_text(), "of what runs now"
    # The daemon does not wait for what has ended; the same once more is no change.
    fleet.upgrades.wait(offer, Stopping(), silent)
    fleet.ask(upgrade_id="upgrade-2")
    assert fleet.take_up() == UpgradeState("upgrade-2", "kept", "it ran already")


def test_root_takes_nothing_of_a_daemon_that_was_broken_into(fleet: Fleet, tmp_path: Path) -> None:
    rig, place = fleet.rig, fleet.rig.place
    allow(place, fleet.manager)

    def refused(why: str) -> None:
        said = fleet.take_up()
        assert said is not None
        assert said.state == "failed"
        assert why in said.reason
        assert place.unit.read_text() == rig.unit_of(rig.old)
        assert not rig.new.exists()

    fleet.ask()
    refused("is no wheel with a signature")
    # Signed by a fleet of its own, whose root it has put in the place of the board's.
    stranger = Authority.create(tmp_path / "stranger")
    key = tmp_path / "stranger" / signing.KEY_FILE
    signing.write_signers(tmp_path / "stranger", [signing.make_key(key)], 1)
    signing.sign(tmp_path / "stranger", rig.wheel, [key], line="edgejoule", days=9, version=9)
    fleet.enrol(stranger)
    fleet.ask()
    refused("the root of this fleet did not name its signers")
    fleet.enrol(fleet.authority)
    # An older version, after the daemon's own memory was wiped.
    newer = rig.root / "edgejoule-9.5.0-py3-none-any.whl"
    newer.write_bytes(b"newer")
    fleet.sign(5, newer)
    keep, rig.wheel = rig.wheel, newer
    fleet.ask()
    assert fleet.take_up().state == "kept"  # type: ignore[union-attr]
    place.unit.write_text(rig.unit_of(rig.old))
    rig.wheel = keep
    fleet.sign(4)
    write_memory(place.state, Memory())
    fleet.ask()
    refused("is version 4 of wheel/edgejoule, and 5 was seen here")
    # Another content beside a good signature; links to what the daemon may not read; names that lead elsewhere.
    fleet.sign(6)
    fleet.ask()
    wheel = place.state / FOLDER / rig.wheel.name
    wheel.write_bytes(b"something else")
    refused("its signature is of other content")
    fleet.ask()
    wheel.unlink()
    wheel.symlink_to(rig.wheel)
    refused("is no wheel with a signature")
    fleet.ask(wheel="../../edgejoule-9.0.0-py3-none-any.whl")
    refused("is no wheel with a signature")
    fleet.ask(trial_s=1e9)
    refused("is no wheel with a signature")
    for odd in ("[]", '{"upgrade_id": 1}', "", "\0", '{"upgrade_id": "\\n", "wheel": "", "trial_s": 1}'):
        (place.state / FOLDER / REQUEST).write_text(odd)
        refused("is no wheel with a signature")
    # A folder that is a link to another one: nothing there is read or removed.
    shutil.move(place.state / FOLDER, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / REQUEST).write_text("{}")
    (place.state / FOLDER).symlink_to(tmp_path / "elsewhere")
    take_up(fleet.switching, silent)
    assert (tmp_path / "elsewhere" / REQUEST).exists()


def test_a_version_that_comes_back_is_told_with_its_reason(rig: Rig, fleet: Fleet) -> None:
    fleet.manager.shown = BAD
    allow(rig.place, fleet.manager)
    fleet.sign(1)
    fleet.ask()
    said = fleet.take_up()
    assert said is not None
    assert (said.state, "it ended (exit-code, exit code 1)" in said.reason) == ("failed", True)
    assert rig.place.unit.read_text() == rig.unit_of(rig.old)
    unit = rig.place.unit.parent / ordered_units.SERVICE
    assert f"ExecStart={rig.old}/bin/edge-runtime service take-upgrade" in unit.read_text()


@pytest.mark.parametrize("kept", [True, False])
def test_whoever_ends_it_the_next_start_says_how_the_trial_ended(rig: Rig, fleet: Fleet, kept: bool) -> None:
    allow(rig.place, fleet.manager)
    fleet.sign(1)
    fleet.ask()
    assert fleet.take_up().state == "kept"  # type: ignore[union-attr]
    # As a power cut in the trial leaves it.
    word = {"upgrade_id": "upgrade-1", "version": rig.new.name, "state": "trial", "reason": "", "trial_s": 10.0}
    (rig.root / ORDERED).write_text(json.dumps(word))
    if not kept:
        rig.place.unit.write_text(rig.unit_of(rig.old))
    take_up(fleet.switching, silent)
    assert fleet.upgrades.said().state == ("kept" if kept else "failed")  # type: ignore[union-attr]


@pytest.mark.parametrize("begun", [True, False])
def test_one_that_ends_as_the_trial_begins_does_not_call_a_version_failed_that_stays(
    rig: Rig, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    class Killed(BaseException):
        pass

    def killed(*words: Any, **more: Any) -> str:
        if begun:
            upgrade(*words, **more)
        raise Killed

    allow(rig.place, fleet.manager)
    fleet.sign(1)
    fleet.ask()
    monkeypatch.setattr(ordered, "upgrade", killed)
    with pytest.raises(Killed):
        fleet.take_up()
    assert fleet.upgrades.said() == UpgradeState("upgrade-1", "checked")
    take_up(fleet.switching, silent)
    said = fleet.upgrades.said()
    assert said is not None
    if begun:
        assert (said.state, rig.place.unit.read_text()) == ("kept", rig.unit_of(rig.new)), said.reason
    else:
        assert said.state == "failed"
        assert "it was interrupted before its trial" in said.reason


def test_allowing_needs_a_fleet_and_ends_with_the_service(rig: Rig, fleet: Fleet) -> None:
    shutil.rmtree(rig.place.state / "identity")
    with pytest.raises(RefusedError, match="belongs to no fleet"):
        allow(rig.place, fleet.manager)
    fleet.enrol(fleet.authority)
    allow(rig.place, fleet.manager)
    text = (rig.place.unit.parent / ordered_units.PATH).read_text()
    assert f"PathExists={rig.place.state}/upgrade/request.json" in text
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in (rig.place.home / "trust").rglob("*.json"))
    if shutil.which("systemd-analyze"):
        units = [str(rig.place.unit.parent / one) for one in (ordered_units.PATH, ordered_units.SERVICE)]
        done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if "edge-runtime-upgrade" in line], done.stderr
    forbid(rig.place, fleet.manager)
    assert not allowed(rig.place)
    allow(rig.place, fleet.manager)
    uninstall(rig.place, purge=False)
    assert not list(rig.place.unit.parent.rglob("edge-runtime*"))


def test_a_daemon_that_nobody_takes_up_says_so_and_goes_on(fleet: Fleet) -> None:
    allow(fleet.rig.place, fleet.manager)
    fleet.ask()
    offer = UpgradeOffer("upgrade-1", fleet.rig.wheel.name, 13, b"", 60.0)
    times = iter([0.0, 1e9])
    late = Upgrades(fleet.rig.place.state, fleet.rig.root, Signatures(fleet.rig.place.state), now_s=lambda: next(times))
    (fleet.rig.place.state / FOLDER / "told.json").write_text(
        '{"upgrade_id": "upgrade-1", "state": "checked", "reason": ""}'
    )
    late.wait(offer, Stopping(), silent)
    assert late.said() == UpgradeState(
        "upgrade-1", "failed", "nobody has taken it up: systemctl status edge-runtime-upgrade.path"
    )
    assert not (fleet.rig.place.state / FOLDER / REQUEST).exists()
    # Half of a fetch that ended with its process is no upgrade.
    (fleet.rig.place.state / FOLDER / "told.json").write_text(
        '{"upgrade_id": "upgrade-9", "state": "checked", "reason": ""}'
    )
    assert late.said() == UpgradeState()
    with pytest.raises(RefusedError):
        fleet.upgrades.take(offer, _gone)
    damaged = UpgradeOffer("upgrade-1", "not a wheel", 13, b"", 60.0)
    assert not fleet.upgrades.take(damaged, _gone)


def _gone(folder: Path) -> None:
    raise RefusedError("is not offered any more")


def test_what_a_version_needs_is_carried_over_and_no_index_is_asked(tmp_path: Path) -> None:
    """Real environments and a real pip."""
    old, site = Environment(tmp_path / "old"), f"lib/python3.{sys.version_info.minor}/site-packages"
    for name, version in (("numpy", "2.0"), ("edgejoule", "0.9")):
        info = old.path / site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (old.path / site / f"{name}.py").write_text(f"version = {version!r}\n")
        files = [f"{name}.py", f"{name}-{version}.dist-info/METADATA", f"{name}-{version}.dist-info/RECORD", "../../x"]
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    versions = Versions(tmp_path / "home")
    fits, lacks = (_wheel(tmp_path / name, needs) for name, needs in (("a", "numpy>=1"), ("b", "no-such-thing")))
    made = versions.build(fits, (), None, like=old)
    assert made.version == "9.0.0"
    said = subprocess.run(
        [made.path / "bin/python", "-c", "import numpy, edgejoule_shown; print(numpy.version)"],
        capture_output=True, text=True, check=False, env={"PATH": os.defpath},
    )  # fmt: skip
    assert said.stdout == "2.0\n", said.stderr
    assert not (made.path / site / "edgejoule.py").exists()
    with pytest.raises(EdgejouleError, match="no-such-thing"):
        versions.build(lacks, (), None, like=old)
    (old.path / site / "numpy-2.0.dist-info" / "RECORD").unlink()
    with pytest.raises(EdgejouleError, match=r"numpy has no list of its files.*by hand"):
        environments._carry(old, made)


def _wheel(folder: Path, needs: str) -> Path:
    import zipfile

    folder.mkdir()
    path, info = folder / "edgejoule-9.0.0-py3-none-any.whl", "edgejoule-9.0.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("edgejoule_shown.py", f"needs = {needs!r}\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: edgejoule\nVersion: 9.0.0\nRequires-Dist: {needs}\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"edgejoule_shown.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def _digest(path: Path) -> bytes:
    import hashlib

    return hashlib.sha256(path.read_bytes()).digest()
