"""The certificate authority of a fleet: a root, an issuing certificate below it, and what that issues.

All keys are P-256. The root's key signs the issuing certificate and nothing else; it is needed again only when that
one ends, so ``coordinator init`` asks for it to be taken away from the machine. Files in ``STATE/trust``:

    root.pem root.key         10 years; the key belongs offline
    issuing.pem issuing.key   2 years; signs devices, operators and the server
    server.pem server.key     1 year, made again by itself

Certificates begin five minutes before they are made: clocks of a lab differ by seconds.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protos.atomic import write_whole
from protos.errors import ConfigError, RefusedError, StoreError, UsageError
from protos.trust.names import SERVER_NAME, PeerName, Role, is_name, peer_name

__all__ = [
    "DEVICE_DAYS",
    "FOLDER",
    "OPERATOR_DAYS",
    "Authority",
    "Issued",
    "has_authority",
    "names_of_this_machine",
    "peer_of",
    "write_private",
]

FOLDER = "trust"
DEVICE_DAYS = 30
_ROOT_DAYS = 3650
_ISSUING_DAYS = 730
_SERVER_DAYS = 365
OPERATOR_DAYS = 365
_EARLY = datetime.timedelta(minutes=5)
# A clock that is wrong by this much was never set; by less, what it makes may still be of use.
_FAR = datetime.timedelta(days=60)
_MAX_REQUEST_BYTES = 4096


@dataclass(frozen=True)
class Issued:
    """A certificate that was made.

    Attributes:
        peer: whose it is.
        serial: hexadecimal.
        chain_pem: it, then the issuing certificate.
        not_after: its end, UTC.
    """

    peer: PeerName
    serial: str
    chain_pem: bytes
    not_after: datetime.datetime


def has_authority(state: Path) -> bool:
    """Whether a coordinator's state folder has certificates."""
    return (state / FOLDER / "root.pem").exists()


def now() -> datetime.datetime:
    """This moment, UTC, in whole seconds as certificates have them."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def names_of_this_machine() -> list[str]:
    """Names and addresses under which this machine may be reached, loopback among them."""
    found = {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # A UDP socket that is connected has the address of the interface that leads there; nothing is sent.
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((probe, 9))
            except OSError:
                continue
            found.add(str(sock.getsockname()[0]))
    return sorted(name for name in found if name)


def write_private(path: Path, data: bytes) -> None:
    """A file that its owner alone may read, from its first byte on.

    Raises:
        StoreError: it cannot be written.
    """
    before = os.umask(0o077)
    try:
        with write_whole(path) as file:
            file.write(data)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
    finally:
        os.umask(before)


class Authority:
    """The authority whose files are in ``folder``.

    Raises:
        ConfigError: there is none; or its files do not belong together.
        RefusedError: the issuing certificate has ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.root_pem = (folder / "root.pem").read_bytes()
            self.issuing_pem = (folder / "issuing.pem").read_bytes()
            key = serialization.load_pem_private_key((folder / "issuing.key").read_bytes(), None)
            self._root = x509.load_pem_x509_certificate(self.root_pem)
            self._issuing = x509.load_pem_x509_certificate(self.issuing_pem)
            self._issuing.verify_directly_issued_by(self._root)
        except FileNotFoundError as error:
            raise ConfigError(
                "this coordinator has no certificates", where=str(folder), fix="make them with `coordinator init`"
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot be read ({error.strerror})", where=str(folder)) from error
        except (ValueError, TypeError, InvalidSignature) as error:
            raise ConfigError(
                "its files do not belong together", where=str(folder), fix="bring them back from a backup"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError("holds no P-256 key", where=str(folder / "issuing.key"))
        if key.public_key() != self._issuing.public_key():
            # What it made would be of nobody: every board's next handshake would fail, and say nothing of this.
            raise ConfigError(
                "is not the key of issuing.pem beside it, as where a renewal was cut short",
                where=str(folder / "issuing.key"),
                fix="bring root.key back and run `coordinator init --renew-issuing` again, or bring both from a backup",
            )
        if self._issuing.not_valid_after_utc <= now():
            raise RefusedError(
                f"ended at {self._issuing.not_valid_after_utc:%Y-%m-%d}",
                where=str(folder / "issuing.pem"),
                fix="bring root.key back and run `coordinator init --renew-issuing`",
            )
        self._key = key

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """Make a root and an issuing certificate.

        Raises:
            RefusedError: there is one already.
            StoreError: the files cannot be written.
        """
        if (folder / "root.pem").exists():
            raise RefusedError(
                "has an authority already, and a new one would shut out every device",
                where=str(folder),
                fix="leave it as it is",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise StoreError(f"cannot be made ({error.strerror})", where=str(folder)) from error
        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: a chain of another fleet is then unknown, not a signature that fails.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgejoule root {secrets.token_hex(4)}")])
        root = (
            _builder(name, name, key.public_key(), _ROOT_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(folder / "root.key", _private(key))
        _issuing_below(folder, root, key)
        # Last: its presence says that there is an authority.
        write_private(folder / "root.pem", _pem(root))
        return cls(folder)

    @classmethod
    def renew_issuing(cls, folder: Path) -> Authority:
        """A new issuing certificate below the root, whose key must be there.

        Raises:
            ConfigError: the root's key is not there.
        """
        try:
            root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "root.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the root's key is needed", where=str(folder / "root.key"), fix="bring it back from where it is kept"
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        _issuing_below(folder, root, key)
        return cls(folder)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the root certificate."""
        return self._root.fingerprint(hashes.SHA256())

    def device(
        self, device_id: str, request_der: bytes, *, days: float = DEVICE_DAYS, role: Role = Role.DEVICE
    ) -> Issued:
        """A device's certificate, or a person's, for the key of its request. Nothing else of the request is looked at.

        Raises:
            UsageError: the request is no PKCS #10 with a good P-256 key that signed it.
        """
        if len(request_der) > _MAX_REQUEST_BYTES:
            raise UsageError("is too long", where="certificate request")
        try:
            request = x509.load_der_x509_csr(request_der)
            key = request.public_key()
            good = request.is_signature_valid
        except (ValueError, TypeError, InvalidSignature) as error:
            raise UsageError("is no PKCS #10", where="certificate request") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or not good:
            raise UsageError("is not signed by a P-256 key of its own", where="certificate request")
        return self._issue(PeerName(role, device_id), key, days)

    def operator(self, name: str, role: Role, *, days: float = OPERATOR_DAYS) -> tuple[Issued, bytes]:
        """Credentials of a person: the certificate, and its private key in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._issue(PeerName(role, name), key.public_key(), days), _private(key)

    def server(self, names: Iterable[str], *, days: float = _SERVER_DAYS) -> None:
        """Make the server's key and certificate, for these names and addresses as well."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._issue(PeerName(Role.COORDINATOR, "coordinator"), key.public_key(), days, names)
        # One file, so that key and certificate cannot be of two makings.
        write_private(self.folder / "server.pem", _private(key) + issued.chain_pem)

    def server_pair(self, names: Iterable[str] = ()) -> tuple[bytes, bytes]:
        """The server's private key and chain, PEM; made again when less than a third of its life is left."""
        path = self.folder / "server.pem"
        try:
            data = path.read_bytes()
            certificate = x509.load_pem_x509_certificate(data)
            life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            # One that begins later was made while this machine's clock was ahead, and no board takes it before.
            if certificate.not_valid_after_utc - now() < life / 3 or certificate.not_valid_before_utc > now():
                kept = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                hosts = [*kept.get_values_for_type(x509.DNSName)]
                hosts += [str(value) for value in kept.get_values_for_type(x509.IPAddress)]
                self.server([*hosts, *names])
        except (OSError, ValueError):
            self.server(names or names_of_this_machine())
        data = path.read_bytes()
        cut = data.index(b"-----BEGIN CERTIFICATE")
        return data[:cut], data[cut:]

    def issued_by_us(self, chain_pem: bytes) -> x509.Certificate | None:
        """The first certificate of a chain when this authority made it, whether it has ended or not; else None."""
        try:
            certificate, *above = x509.load_pem_x509_certificates(chain_pem[: 64 << 10])
            for issuer in (self._issuing, *above[:1]):
                try:
                    issuer.verify_directly_issued_by(self._root)
                    certificate.verify_directly_issued_by(issuer)
                except (ValueError, TypeError, InvalidSignature):
                    continue
                return certificate
        except ValueError:
            pass
        return None

    def _issue(self, peer: PeerName, key: ec.EllipticCurvePublicKey, days: float, hosts: Iterable[str] = ()) -> Issued:
        if not is_name(peer.name):
            raise UsageError(
                f"{peer.name!r} is no name", where=peer.role.value, fix="use letters, digits, dots and dashes, up to 64"
            )
        # Certificates of another time than this are of no use to anybody, and nobody would see it here.
        moment, fix = now(), "set this machine's clock: let systemd-timesyncd reach a time server"
        begins, ends = self._issuing.not_valid_before_utc, self._issuing.not_valid_after_utc
        if not begins - _FAR <= moment < ends:
            raise RefusedError(
                f"this machine's clock says {moment:%Y-%m-%d}, and its issuing certificate holds from "
                f"{begins:%Y-%m-%d} to {ends:%Y-%m-%d}: nothing is made by it",
                where=peer.name,
                fix=fix if moment < begins else f"{fix}; or renew it with `coordinator init --renew-issuing`",
            )
        server = peer.role is Role.COORDINATOR
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(peer.uri)]
        for host in dict.fromkeys([SERVER_NAME, *hosts] if server else []):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, peer.role.value),
                x509.NameAttribute(NameOID.COMMON_NAME, peer.name),
            ]
        )
        certificate = (
            _builder(subject, self._issuing.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        serial = f"{certificate.serial_number:x}"
        return Issued(peer, serial, _pem(certificate) + self.issuing_pem, certificate.not_valid_after_utc)


def peer_of(certificate: x509.Certificate) -> PeerName | None:
    """Whose a certificate is, or None when it does not say so in our way."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    found = [peer_name(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    return found[0] if len(found) == 1 else None


def _issuing_below(folder: Path, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgejoule issuing {secrets.token_hex(4)}")])
    certificate = (
        _builder(name, root.subject, key.public_key(), _ISSUING_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    write_private(folder / "issuing.key", _private(key))
    write_private(folder / "issuing.pem", _pem(certificate))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    begin = now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _EARLY)
        .not_valid_after(begin + datetime.timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
