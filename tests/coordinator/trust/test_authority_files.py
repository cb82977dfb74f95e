"""The authority, the register and the audit log, on their files."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from coordinator.run.workers import Worker
from coordinator.server.services import enrolling
from coordinator.server.services.enrolling import READMIT_RULE, EnrolmentService
from coordinator.trust import audit
from coordinator.trust.audit import AuditLog
from coordinator.trust.authority import Authority, peer_of
from coordinator.trust.register import TRIES, Register
from protos.errors import ConfigError, IntegrityError, RefusedError, UnknownRunError, UsageError
from protos.trust.names import PeerName, Role
from protos.trust.proofs import request_mac, response_mac
from protos.trust.token import EnrolmentToken, read_token, token_id
from protos.v1 import identity_pb2 as idpb


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "x") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trust"


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority.create(folder)


@pytest.fixture
def register(authority: Authority, folder: Path) -> Iterator[Register]:
    made = Register(folder)
    yield made
    made.close()


def test_a_device_is_who_the_operator_said_not_who_its_request_says(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.device("pi-1", request_of(key, "coordinator"))
    certificate, issuing = x509.load_pem_x509_certificates(issued.chain_pem)
    assert peer_of(certificate) == PeerName(Role.DEVICE, "pi-1")
    assert certificate.public_key() == key.public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one._name for one in usage] == ["clientAuth"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    days = (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).total_seconds() / 86400
    assert days == pytest.approx(30, abs=0.1)
    assert authority.issued_by_us(issued.chain_pem) == certificate
    assert issuing.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_requests_that_prove_no_good_key_are_refused(authority: Authority) -> None:
    good = bytearray(request_of(ec.generate_private_key(ec.SECP256R1())))
    good[-1] ^= 1
    for bad in (
        b"",
        b"not der",
        bytes(good),
        request_of(ec.generate_private_key(ec.SECP384R1())),
        request_of(rsa.generate_private_key(65537, 2048)),
        b"\0" * 5000,
    ):
        with pytest.raises(UsageError):
            authority.device("pi-1", bad)
    for name in ("", "../x", "a b", "a:b", "x" * 65):
        with pytest.raises(UsageError):
            authority.device(name, request_of(ec.generate_private_key(ec.SECP256R1())))


def test_a_certificate_of_another_fleet_is_none_of_ours(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    issued = other.device("pi-1", request_of(ec.generate_private_key(ec.SECP256R1())))
    assert authority.issued_by_us(issued.chain_pem) is None
    # Nor one whose chain was put together from both.
    leaf = issued.chain_pem.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    assert authority.issued_by_us(leaf + authority.issuing_pem) is None


def test_private_keys_are_for_their_owner_alone_and_nothing_is_made_twice(authority: Authority, folder: Path) -> None:
    authority.server(["lab.example", "192.0.2.7"])
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert folder.stat().st_mode & 0o077 == 0
    with pytest.raises(RefusedError, match="shut out every device"):
        Authority.create(folder)
    (folder / "root.key").unlink()
    assert Authority(folder).fingerprint == authority.fingerprint
    with pytest.raises(ConfigError, match="root's key is needed"):
        Authority.renew_issuing(folder)
    (folder / "issuing.pem").write_bytes(Authority.create(folder.parent / "third").issuing_pem)
    with pytest.raises(ConfigError, match="do not belong together"):
        Authority(folder)


def test_devices_outlive_a_new_issuing_certificate(authority: Authority, folder: Path) -> None:
    issued = authority.device("pi-1", request_of(ec.generate_private_key(ec.SECP256R1())))
    renewed = Authority.renew_issuing(folder)
    assert renewed.issuing_pem != authority.issuing_pem
    assert renewed.issued_by_us(issued.chain_pem) is not None


def test_the_servers_certificate_is_made_again_before_it_ends_with_the_same_names(
    authority: Authority, folder: Path
) -> None:
    authority.server(["lab.example", "192.0.2.7"], days=300)
    kept = authority.server_pair()
    assert authority.server_pair() == kept
    authority.server(["lab.example", "192.0.2.7"], days=0.001)
    key, chain = authority.server_pair()
    assert (key, chain) != kept
    (certificate, _) = x509.load_pem_x509_certificates(chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"lab.example", "coordinator.edgejoule.internal"} <= set(names.get_values_for_type(x509.DNSName))
    assert [str(value) for value in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


def test_a_token_is_good_once_for_a_while_for_one_machine(register: Register, authority: Authority) -> None:
    token = register.new_token("pi-1", ttl_s=60, machine="00001")
    identity = token_id(token.secret)
    assert register.open_token(identity) == token
    issued = authority.device("pi-1", request_of(ec.generate_private_key(ec.SECP256R1())))
    register.use_token(identity, issued, "00001", where="test")
    assert register.open_token(identity) is None
    again = authority.device("pi-1", request_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(RefusedError, match="used already"):
        register.use_token(identity, again, "00001", where="test")
    assert [certificate.serial for certificate in register.certificates()] == [issued.serial]
    for path in register.path.parent.glob("register.db*"):
        assert token.secret not in path.read_bytes(), path
    # A name is taken while its certificate counts.
    with pytest.raises(RefusedError, match="certificate already"):
        register.new_token("pi-1", ttl_s=60)
    assert len(register.revoke("pi-1")) == 1
    assert register.revoke("pi-1") == []
    register.new_token("pi-1", ttl_s=60)
    with pytest.raises(UnknownRunError):
        register.revoke("pi-9")


def test_a_newer_token_and_wrong_proofs_and_time_close_a_token(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = register.new_token("pi-1", ttl_s=60)
    second = register.new_token("pi-1", ttl_s=60)
    assert register.open_token(token_id(first.secret)) is None
    for _ in range(TRIES):
        assert register.open_token(token_id(second.secret)) is not None
        register.wrong_proof(token_id(second.secret), where="test")
    assert register.open_token(token_id(second.secret)) is None
    third = register.new_token("pi-1", ttl_s=60)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert register.open_token(token_id(third.secret)) is None
    for ttl in (0, -1, 8 * 86400, float("nan")):
        with pytest.raises(UsageError):
            register.new_token("pi-2", ttl_s=ttl)


def test_two_who_use_one_token_at_once_get_one_certificate(register: Register, authority: Authority) -> None:
    token = register.new_token("pi-1", ttl_s=60)
    identity, outcomes = token_id(token.secret), []
    start = threading.Barrier(4)

    def use() -> None:
        own = Register(register.path.parent)
        issued = authority.device("pi-1", request_of(ec.generate_private_key(ec.SECP256R1())))
        start.wait()
        try:
            own.use_token(identity, issued, "", where="test")
            outcomes.append("in")
        except RefusedError:
            outcomes.append("out")
        finally:
            own.close()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", "out", "out", "out"]
    assert len(register.certificates()) == 1


def test_every_change_of_the_audit_log_is_found(folder: Path) -> None:
    folder.mkdir()
    log = AuditLog(folder)
    for number in range(5):
        log.write("local", "token made", device_id=f"pi-{number}")
    whole = log.verify()
    assert whole.lines == 5
    lines = log.path.read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[2]) | {"who": "someone else"}
    for bad in (
        [*lines[:2], json.dumps(changed).encode() + b"\n", *lines[3:]],
        [*lines[:2], *lines[3:]],
        [*lines[:2], lines[1], *lines[2:]],
        [lines[1], lines[0], *lines[2:]],
    ):
        log.path.write_bytes(b"".join(bad))
        with pytest.raises(IntegrityError, match="does not follow"):
            log.verify()
    log.path.write_bytes(b"".join(lines[:3]))
    assert log.verify().lines == 3
    with pytest.raises(IntegrityError, match="cut off"):
        log.verify(whole.newest_hash)
    # A power cut in the middle of a line: it is told, and the next line follows the last whole one.
    log.path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    with pytest.raises(IntegrityError, match="line 4 is no entry"):
        log.verify()


def test_the_audit_log_of_many_writers_is_one_chain(folder: Path) -> None:
    folder.mkdir()

    def write(name: int) -> None:
        for number in range(10):
            AuditLog(folder).write(f"writer {name}", "note", number=number)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AuditLog(folder).verify().lines == 40


TOKEN = EnrolmentToken("pi-1", ("192.0.2.7:50461", "[2001:db8::1]:50461"), 50462, bytes(range(32)), os.urandom(20))


def test_a_token_survives_copying_and_a_damaged_one_is_told() -> None:
    text = TOKEN.text()
    assert read_token(text) == TOKEN
    assert read_token(f" {text[:40]}\n{text[40:]} ") == TOKEN
    for bad in (text[:-1], text[:-8], text[1:], text.upper(), "ej1.", "", "ej1." + "A" * 5000, "ej1.AAAA"):
        with pytest.raises(UsageError):
            read_token(bad)


@given(st.integers(0, 400), st.sampled_from("ABCxyz019-_"))
def test_no_other_character_makes_another_token(place: int, letter: str) -> None:
    text = TOKEN.text()
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed == text:
        return
    with contextlib.suppress(UsageError):
        assert read_token(changed) == TOKEN  # base64 may have spare bits at its end


@given(st.text(max_size=200))
def test_whatever_is_pasted_is_a_token_or_a_usage_error(text: str) -> None:
    for given_text in (text, "ej1." + text):
        try:
            read_token(given_text)
        except UsageError:
            continue


@given(st.lists(st.binary(max_size=8), min_size=2, max_size=2), st.lists(st.binary(max_size=8), min_size=2, max_size=2))
def test_no_two_requests_have_one_proof(one: list[bytes], other: list[bytes]) -> None:
    secret = b"s" * 20
    first = request_mac(secret, one[0], "m", one[1])
    assert (first == request_mac(secret, other[0], "m", other[1])) == (one == other)
    assert first != request_mac(b"t" * 20, one[0], "m", one[1])
    assert first != response_mac(secret, one[0], "m", one[1], b"", 0.0)


def test_a_line_costs_the_same_however_long_the_log_is(folder: Path) -> None:
    folder.mkdir()
    log = AuditLog(folder)
    for number in range(400):
        log.write("local", "note", text="x" * 200, number=number)
    assert log.path.stat().st_size > 5 * audit._TAIL_BYTES
    read: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            read.append(len(data or b""))
            return data or b""

    with Counted(log.path, "r+") as file:
        assert audit._newest(file) == log.verify().newest_hash
    assert read == [audit._TAIL_BYTES]
    # A line longer than what is looked at first, and one that a power cut left, are gone past.
    log.write("local", "note", text="y" * 100_000)
    whole = log.verify().newest_hash
    with log.path.open("ab+") as cut:
        cut.write(b'{"cut": "')
        assert audit._newest(cut) == whole


def test_addresses_that_only_the_limit_of_all_held_off_are_forgotten_like_others() -> None:
    now = [0.0]
    limit = enrolling.RateLimit(clock=lambda: now[0])
    refused = 0
    for number in range(5000):
        try:
            limit.take(f"ipv4:192.0.2.{number}")
        except RefusedError:
            refused += 1
    assert refused == 5000 - enrolling._FROM_ALL
    # What is kept of addresses is bounded, whoever knocks.
    assert len(limit._by_peer) <= 4097


def test_a_request_with_an_old_key_is_answered_once_whoever_sends_it_again(folder: Path) -> None:
    authority = Authority.create(folder)
    with contextlib.closing(Register(folder)) as register, contextlib.closing(Worker("trust")) as worker:
        service = EnrolmentService(authority, register, worker)
        register.set_rule(READMIT_RULE, "30")
        old = ec.generate_private_key(ec.SECP256R1())
        issued = authority.device("pi-1", _csr(old), days=0.001)
        register.issued(issued, who="local", what="certificate issued")

        def request() -> idpb.ReadmitRequest:
            text = _csr(ec.generate_private_key(ec.SECP256R1()))
            signature = old.sign(text, ec.ECDSA(hashes.SHA256()))
            return idpb.ReadmitRequest(old_chain_pem=issued.chain_pem, certificate_request=text, signature=signature)

        heard = request()
        assert service._readmit(heard, "ipv4:192.0.2.1")
        for _ in range(40):
            with pytest.raises(RefusedError, match="was answered before"):
                service._readmit(heard, "ipv4:192.0.2.66")
        # Its board, whose answer was lost, is not held up by that.
        assert service._readmit(request(), "ipv4:192.0.2.1")
        assert len(register.certificates()) == 3


def test_a_clock_that_is_years_off_makes_no_certificate_that_nobody_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.create(folder)
    today = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    clock = [today]
    monkeypatch.setattr("coordinator.trust.authority.now", lambda: clock[0])
    request = _csr(ec.generate_private_key(ec.SECP256R1()))
    # A machine whose clock has no battery, and one that was set by a wrong server.
    for year, renews in ((1970, False), (2055, True)):
        clock[0] = today.replace(year=year, month=1, day=1)
        with pytest.raises(RefusedError, match=f"clock says {year}-01-01") as refused:
            authority.device("pi-1", request)
        assert ("--renew-issuing" in str(refused.value)) == renews
    # A year ahead the server makes itself a certificate that begins then; back in time it makes another at once.
    clock[0] = today + datetime.timedelta(days=300)
    _, later = authority.server_pair(["127.0.0.1"])
    assert x509.load_pem_x509_certificate(later).not_valid_before_utc > today
    clock[0] = today
    _, now = authority.server_pair()
    assert x509.load_pem_x509_certificate(now).not_valid_before_utc <= today
    assert authority.server_pair()[1] == now
    assert authority.device("pi-1", request).not_after > today


def _csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)
