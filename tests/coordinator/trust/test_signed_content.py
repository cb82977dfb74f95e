"""What was signed: every bit of it, the attacks of The Update Framework, and a bundle over the wire to a real cache."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.trust import signing
from coordinator.trust.authority import FOLDER, Authority
from edge_runtime.daemon import bundle_cache
from edge_runtime.daemon.bundle_cache import BundleCache
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity import signatures
from edge_runtime.identity.identity import Identity, write_identity
from edge_runtime.identity.signatures import Memory, Signatures, read_memory
from protos.errors import ConfigError, EdgejouleError, IntegrityError, UsageError
from protos.model.bundle import open_bundle
from protos.model.engine import EngineIdentity
from protos.trust.signed import BUNDLE_SIGNATURE, SignatureFile, key_id, signature_of, verify

DAY = 86_400
WHEEL = "edgejoule-0.2.0-py3-none-any.whl"


class Fleet:
    """An authority, a device that is enrolled at it, and things to sign."""

    def __init__(self, home: Path, plain: Callable[[Path], Path]) -> None:
        self.folder, self.state, self._plain = home / FOLDER, home / "device", plain
        self.authority = Authority.create(self.folder)
        signing.write_signers(self.folder, [signing.make_key(self.folder / signing.KEY_FILE)], 1)
        self.enrol(self.authority)
        self.keys = [self.folder / signing.KEY_FILE]

    def enrol(self, authority: Authority) -> None:
        now = time.time()
        root = authority.root_pem.decode()
        write_identity(self.state, Identity("pi-1", ("127.0.0.1:1",), 2, "", "", root, now, now + 30 * DAY))

    def file(self, path: Path, content: bytes, version: int, *, line: str = "edgejoule", days: float = 9.0) -> Path:
        path.write_bytes(content)
        signing.sign(self.folder, path, self.keys, line=line, days=days, version=version)
        return path

    def takes(self, path: Path, *, at: float = 0.0, process: bool = False) -> None:
        """The device's own check, in its child process or in this one."""
        what, digest, size = signing.content_of(path)
        clock = time.time() + at
        if process:
            Signatures(self.state, lambda: clock).check(path, what, digest, size)
        elif signatures.main([str(self.state), str(path), what, digest, str(size), repr(clock)]):
            raise IntegrityError("refused")


@pytest.fixture
def home(tmp_path: Path, tools: Any) -> Fleet:
    (tmp_path / "device").mkdir()
    return Fleet(tmp_path, tools.bundle)


def test_every_bit_of_a_signature_counts(home: Fleet, tmp_path: Path) -> None:
    path = home.file(tmp_path / WHEEL, b"wheel", 1)
    data = bytearray(signature_of(path).read_bytes())
    root = home.authority.root_pem
    verify(SignatureFile.parse(bytes(data), "w"), root, "w")
    for bit in range(0, 8 * len(data), 3):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            verify(SignatureFile.parse(bytes(data), "w"), root, "w")
        data[bit // 8] ^= 1 << bit % 8
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(IntegrityError):
            SignatureFile.parse(bytes(data[:cut]), "w")
    with pytest.raises(IntegrityError):
        SignatureFile.parse(bytes(data) + b"\n", "w")


def test_no_bit_of_a_bundle_can_change_before_an_engine_sees_it(
    home: Fleet, tmp_path: Path, plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(bundle_cache, "try_in_subprocess", lambda *paths: seen.extend(paths))
    signing.sign(home.folder, plain_bundle, home.keys, line="plain", days=9, version=1)
    ordered = open_bundle(plain_bundle).bundle_id
    (home.state / "bundles").mkdir()
    cache = BundleCache(home.state, EngineIdentity("test", "1", "none"))
    # The child's work, in this process: its start takes longer than all the rest.
    monkeypatch.setattr(Signatures, "check", _here)
    random = np.random.default_rng(0)
    files = sorted(plain_bundle.iterdir())
    for _ in range(400):
        file = files[int(random.integers(len(files)))]
        data = bytearray(file.read_bytes())
        bit = int(random.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8

        def changed(folder: Path, file: Path = file, data: bytearray = data) -> None:
            for path in files:
                (folder / path.name).write_bytes(bytes(data) if path == file else path.read_bytes())

        with pytest.raises(EdgejouleError):
            cache.fetch(ordered, changed)
    assert not seen
    cache.fetch(ordered, lambda folder: _copy(plain_bundle, folder))
    assert len(seen) == 2
    assert cache.find(ordered) is not None


def _here(self: Signatures, content: Path, what: str, sha256: str, size_bytes: int) -> None:
    arguments = [str(self._state), str(content), what, sha256, str(size_bytes), repr(time.time())]
    if not signature_of(content).exists() or signatures.main(arguments):
        raise IntegrityError("refused")


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copy(path, target / path.name)


def test_rollback_freeze_and_two_of_one_version_are_refused(
    home: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = home.file(tmp_path / "a.whl", b"old", 3), home.file(tmp_path / "b.whl", b"new", 4, days=9)
    other = home.file(tmp_path / "c.whl", b"else", 4)
    apart = home.file(tmp_path / "d.whl", b"first", 1, line="other")
    home.takes(old)
    home.takes(new)
    home.takes(new)
    home.takes(apart)
    for path, at, why in (
        (old, 0, "is version 3 of wheel/edgejoule, and 4 was seen here"),
        (other, 0, "is another version 4 of wheel/edgejoule"),
        (new, 10 * DAY, "its signature ended on"),
    ):
        with pytest.raises(IntegrityError):
            home.takes(path, at=at)
        assert why in capsys.readouterr().err
    # A clock that is set back does not bring back what has ended: the newest signature told a later time.
    late = home.file(tmp_path / "e.whl", b"late", 5, days=40)
    memory = read_memory(home.state)
    signatures.write_memory(home.state, replace(memory, newest_unix_s=int(time.time()) + 20 * DAY))
    home.takes(late, at=-3650 * DAY)
    with pytest.raises(IntegrityError):
        home.takes(home.file(tmp_path / "f.whl", b"short", 6, days=9), at=-3650 * DAY)
    assert "ended" in capsys.readouterr().err


def test_what_a_stolen_key_signed_far_ahead_binds_nobody_once_it_is_withdrawn(home: Fleet, tmp_path: Path) -> None:
    far = home.file(tmp_path / "a.whl", b"far", 2**53)
    home.takes(far)
    good = home.file(tmp_path / "b.whl", b"good", 7)
    with pytest.raises(IntegrityError):
        home.takes(good)
    second = home.folder / "second.key"
    before = signing.signers_of(home.folder)
    assert before is not None
    signing.write_signers(home.folder, [signing.make_key(second)], 1)
    home.keys = [second]
    home.takes(home.file(tmp_path / "b.whl", b"good", 7))
    # And the withdrawn signers do not come back.
    with pytest.raises(IntegrityError):
        home.takes(far)
    with pytest.raises(UsageError, match="is none of the signers"):
        signing.sign(home.folder, far, [home.folder / signing.KEY_FILE], line="x", days=1)


def test_it_takes_as_many_keys_as_the_policy_says(home: Fleet, tmp_path: Path) -> None:
    second = home.folder / "second.key"
    first = signing.public_of(home.folder / signing.KEY_FILE)
    signing.write_signers(home.folder, [first, signing.make_key(second)], 2)
    path = home.file(tmp_path / "a.whl", b"wheel", 1)
    with pytest.raises(IntegrityError, match="signed by 1 of the 2 keys it takes"):
        signing.checked(home.folder, path)
    signing.cosign(home.folder, path, [second])
    _, did = signing.checked(home.folder, path)
    assert {key_id(text) for text in did} == {key_id(first), key_id(signing.public_of(second))}
    home.takes(path)
    path.write_bytes(b"other")
    with pytest.raises(IntegrityError, match="of other content"):
        signing.cosign(home.folder, path, [second])


def test_parts_of_two_signatures_are_no_signature(home: Fleet, tmp_path: Path) -> None:
    one, two = home.file(tmp_path / "a.whl", b"one", 1), home.file(tmp_path / "b.whl", b"two", 2)
    first, second = signing.read_signature(one), signing.read_signature(two)
    for mixed in (
        replace(first, signatures=second.signatures),
        replace(first, statement=second.statement, signatures=first.signatures),
        replace(first, signers=first.statement),
    ):
        with pytest.raises(IntegrityError):
            verify(mixed, home.authority.root_pem, "mixed")
    # A good signature beside what it is not of.
    shutil.copy(signature_of(two), signature_of(one))
    with pytest.raises(IntegrityError):
        home.takes(one)
    # Another fleet's root signed the signers.
    stranger = Authority.create(tmp_path / "strangers")
    with pytest.raises(IntegrityError, match="the root of this fleet did not name its signers"):
        verify(second, stranger.root_pem, "two")


def test_who_has_seen_a_signature_takes_nothing_unsigned_from_then_on(home: Fleet, tmp_path: Path) -> None:
    """The real child process."""
    unsigned = tmp_path / "unsigned.whl"
    unsigned.write_bytes(b"x")
    home.takes(unsigned, process=True)
    assert read_memory(home.state) == Memory()
    home.takes(home.file(tmp_path / WHEEL, b"wheel", 1), process=True)
    with pytest.raises(IntegrityError, match="is not signed, and this device runs what is signed"):
        home.takes(unsigned, process=True)
    damaged = tmp_path / WHEEL
    data = bytearray(signature_of(damaged).read_bytes())
    data[len(data) // 2] ^= 1
    signature_of(damaged).write_bytes(data)
    with pytest.raises(IntegrityError):
        home.takes(damaged, process=True)
    (home.state / "identity/signed.json").write_text("{}")
    with pytest.raises(ConfigError, match="what was signed before cannot be read"):
        home.takes(unsigned, process=True)
    # A new root begins anew.
    signatures.forget_unless_same(home.state, Authority.create(tmp_path / "others").root_pem.decode())
    assert read_memory(home.state) == Memory()


def test_a_held_bundle_is_run_until_its_signature_ends(home: Fleet, tmp_path: Path, plain_bundle: Path) -> None:
    digest = open_bundle(plain_bundle).bundle_id.removeprefix("sha256:")
    assert Signatures(home.state).holds(digest), "nothing is required yet"
    signing.sign(home.folder, plain_bundle, home.keys, line="plain", days=9, version=1)
    home.takes(plain_bundle)
    assert Signatures(home.state).holds(digest)
    assert not Signatures(home.state, lambda: time.time() + 10 * DAY).holds(digest)
    assert not Signatures(home.state).holds("0" * 64)


@pytest.mark.processes
def test_a_signed_bundle_reaches_a_board_with_its_signature_and_an_older_one_does_not(
    lab: Any, board: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_cache, "try_in_subprocess", lambda *paths: None)
    state = board("pi-1")
    here = tools.bundle(tmp_path / "bundle")
    signed = lab.run("sign", str(here), "--state", str(lab.state), "--line", "kitchen", "--json")
    assert signed.returncode == 0, signed.stderr
    assert json.loads(signed.stdout)["signatures"][0]["line"] == "kitchen"
    looked = lab.run("sign", "--check", str(here), "--state", str(lab.state))
    assert "bundle kitchen, version" in looked.stdout
    plan = tmp_path / "plan.toml"
    plan.write_text(tools.plan(here))
    assert lab.operate("start", str(plan)).returncode == 0
    ordered = open_bundle(here).bundle_id
    (state / "bundles").mkdir()
    cache = BundleCache(state, EngineIdentity("test", "1", "none"))
    link = Link(lab.address, Stopping(), state=state)
    try:
        assert cache.asks_signatures

        def fetch(folder: Path) -> None:
            link.fetch_bundle(ordered, folder, signature=True)

        kept = tools.until(lambda: _tried(cache, ordered, fetch), "the bundle")
        assert (kept.path / BUNDLE_SIGNATURE).is_file()
        assert read_memory(state).required
        # The same without its signature, as a coordinator would send it that nobody gave a key.
        with pytest.raises(IntegrityError, match="is not signed"):
            cache.fetch(ordered, lambda folder: link.fetch_bundle(ordered, folder))
    finally:
        link.close()
    assert '"bundle signed"' in lab.run("audit", "--state", str(lab.state), "--json").stdout


def _tried(cache: BundleCache, ordered: str, fetch: Any) -> Any:
    try:
        return cache.fetch(ordered, fetch)
    except EdgejouleError as error:
        if "no bundle" in str(error) or "not held" in str(error):
            return None
        raise
