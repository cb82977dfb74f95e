"""`bridge flash --root`: an image is written only if keys of the fleet have signed it; attacks as TUF names them."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordinator.trust import signing
from coordinator.trust.authority import Authority
from firmware_tools.bridge.images.chosen_image import wanted_image
from firmware_tools.bridge.images.signed_image import check_signed, memory_path
from firmware_tools.cli import main
from protos.errors import ConfigError, IntegrityError
from protos.trust.admission import memory_from
from protos.trust.signed import signature_of

DAY = 86_400


class Workshop:
    """A fleet's keys, and a machine that writes images."""

    def __init__(self, home: Path) -> None:
        self.folder, self.home = home / "trust", home
        self.authority = Authority.create(self.folder)
        self.root = self.folder / "root.pem"
        self.keys = [self.folder / signing.KEY_FILE]
        signing.write_signers(self.folder, [signing.make_key(self.keys[0])], 1)
        self.packaged = wanted_image("atmega328p").path

    def image(self, name: str, version: int, *, more: str = "", days: float = 9.0) -> Path:
        path = self.home / f"{name}.hex"
        path.write_text(self.packaged.read_text() + more)
        signing.sign(self.folder, path, self.keys, line="bridge", days=days, version=version)
        return path

    def takes(self, path: Path, *, at: float = 0.0, dry_run: bool = False) -> None:
        check_signed(path, path.read_bytes(), self.root, dry_run=dry_run, clock=lambda: time.time() + at)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Workshop(tmp_path)


def test_rollback_freeze_and_mixed_parts_are_refused(workshop: Workshop) -> None:
    old, new = workshop.image("old", 3), workshop.image("new", 4, more="\n")
    workshop.takes(new, dry_run=True)
    workshop.takes(old)
    workshop.takes(new)
    workshop.takes(new)
    with pytest.raises(IntegrityError, match="is version 3 of firmware/bridge, and 4 was seen here"):
        workshop.takes(old)
    with pytest.raises(IntegrityError, match="is another version 4"):
        workshop.takes(workshop.image("other", 4, more="\n\n"))
    with pytest.raises(IntegrityError, match="its signature ended on"):
        workshop.takes(new, at=10 * DAY)
    # A good signature beside what it is not of.
    shutil.copy(signature_of(new), signature_of(old))
    with pytest.raises(IntegrityError, match="of other content"):
        workshop.takes(old)
    # One of a wheel of the same bytes.
    wheel = workshop.home / "edgejoule-9.0.0-py3-none-any.whl"
    shutil.copy(new, wheel)
    signing.sign(workshop.folder, wheel, workshop.keys, line="bridge", days=9, version=9)
    shutil.copy(signature_of(wheel), signature_of(new))
    with pytest.raises(IntegrityError, match="of other content"):
        workshop.takes(new)


def test_of_images_that_are_let_in_at_once_each_is_remembered(workshop: Workshop) -> None:
    images = []
    for number in range(8):
        path = workshop.home / f"image-{number}.hex"
        path.write_text(workshop.packaged.read_text() + "\n" * number)
        signing.sign(workshop.folder, path, workshop.keys, line=f"line-{number}", days=9.0, version=5)
        images.append(path)
    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(workshop.takes, images))
    memory = memory_from(memory_path(workshop.root.read_bytes()).read_bytes())
    assert set(memory.lines) == {f"firmware/line-{number}" for number in range(8)}


def test_what_a_withdrawn_key_signed_far_ahead_binds_nobody(workshop: Workshop) -> None:
    workshop.takes(workshop.image("far", 2**50))
    second = workshop.folder / "second.key"
    signing.write_signers(workshop.folder, [signing.make_key(second)], 1)
    workshop.keys = [second]
    workshop.takes(workshop.image("good", 7, more="\n"))
    workshop.keys = [workshop.folder / signing.KEY_FILE]


def test_every_changed_byte_of_an_image_is_refused(workshop: Workshop) -> None:
    path = workshop.image("one", 1)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 1
        with pytest.raises(IntegrityError, match="of other content"):
            check_signed(path, bytes(data), workshop.root)
        data[at] ^= 1
    assert not memory_path(workshop.root.read_bytes()).exists(), "what was refused is not remembered"


def test_the_command_writes_nothing_that_is_not_signed(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bridge", "flash", "--port", "/dev/no-such-port", "--root", str(workshop.root)]
    # The image that comes with the program has no signature of anybody's fleet.
    assert main(words) == IntegrityError.exit_code
    assert "is not signed" in capsys.readouterr().err
    signed = workshop.image("signed", 1)
    code = main([*words, "--hex", str(signed), "--dry-run"])
    shown = capsys.readouterr()
    assert code not in (0, IntegrityError.exit_code), "it went on, to the port that is not there"
    assert "signed   bridge, version 1" in shown.out
    stranger = Authority.create(workshop.home / "stranger")
    (workshop.home / "other.pem").write_bytes(stranger.root_pem)
    assert main([*words[:-1], str(workshop.home / "other.pem"), "--hex", str(signed)]) == IntegrityError.exit_code
    assert "the root of this fleet did not name its signers" in capsys.readouterr().err
    for odd in (b"", b"no certificate", b"\xff"):
        (workshop.home / "other.pem").write_bytes(odd)
        with pytest.raises(ConfigError, match="is no certificate"):
            check_signed(signed, signed.read_bytes(), workshop.home / "other.pem")
    workshop.takes(signed)
    memory_path(workshop.root.read_bytes()).write_text("[]")
    with pytest.raises(ConfigError, match="signed before cannot be read"):
        workshop.takes(signed)
