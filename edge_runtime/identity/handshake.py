"""Why a handshake fails. gRPC says only that nobody answers; the same handshake, done by hand, has a reason."""

from __future__ import annotations

import os
import socket
import ssl
import time

from edge_runtime.identity.identity import Identity
from protos.addresses import bare, host_and_port
from protos.trust.names import SERVER_NAME

__all__ = ["speaks_tls", "why_not"]

# A device answers a stop within two seconds, also while it looks.
_TIMEOUT_S = 1.5
_AGAIN = "enrol this board again with a new `coordinator enroll` token"
_NOT_TAKEN = (
    "the coordinator does not take this board's certificate: it is of another fleet, or has ended by its clock",
    f"check both clocks; else {_AGAIN}",
)


def why_not(address: str, identity: Identity, *, now_unix_s: float | None = None) -> tuple[str, str] | None:
    """What is wrong with a TLS connection to ``address``, and what to do; None when it is not the handshake.

    Args:
        address: HOST:PORT.
        now_unix_s: this machine's wall time.
    """
    now = time.time() if now_unix_s is None else now_unix_s
    if now < identity.begins_unix_s:
        return (
            f"this board's clock says {_day(now)}, and its certificate begins at {_day(identity.begins_unix_s)}",
            "set the clock: let systemd-timesyncd reach a time server",
        )
    if now >= identity.ends_unix_s:
        return (
            f"this board's certificate ended at {_day(identity.ends_unix_s)}",
            "it renews itself where `coordinator identities --readmit-days N` allows it; else enrol the board again",
        )
    if (found := host_and_port(address)) is None:
        return None
    try:
        plain = socket.create_connection((bare(found[0]), found[1]), timeout=_TIMEOUT_S)
    except OSError:
        return None
    shaken = False
    try:
        with plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.set_alpn_protocols(["h2"])
            context.load_verify_locations(cadata=identity.root_pem)
            _load(context, identity)
            with context.wrap_socket(plain, server_hostname=SERVER_NAME) as secure:
                shaken = True
                # TLS 1.3 tells what the other end thinks of our certificate only after the handshake. One that takes it
                # speaks first, as HTTP/2 has it; gRPC hangs up without a word on one that it does not take.
                if not secure.recv(1):
                    return _NOT_TAKEN
    except ssl.SSLCertVerificationError as error:
        return _server_is_wrong(error)
    except ssl.SSLError as error:
        return _we_are_wrong(error)
    except OSError:
        return _NOT_TAKEN if shaken else None
    return None


def speaks_tls(address: str) -> bool:
    """Whether what listens at ``address`` speaks TLS, whoever it is; asked by who has no identity."""
    if (found := host_and_port(address)) is None:
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((bare(found[0]), found[1]), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=SERVER_NAME),
        ):
            return True
    except OSError:
        return False


def _server_is_wrong(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    said = error.verify_message
    if "expired" in said:
        return "the coordinator's certificate has ended, by this board's clock", "check both clocks; restart it"
    if "not yet valid" in said:
        return "the coordinator's certificate has not begun, by this board's clock", "set this board's clock"
    if "mismatch" in said.lower():
        return "what answers there is not the coordinator", "check the address"
    return (
        f"what answers there belongs to another fleet ({said})",
        "check the address; if the fleet was made anew, enrol this board again",
    )


def _we_are_wrong(error: ssl.SSLError) -> tuple[str, str]:
    reason = (error.reason or str(error)).upper()
    if "EXPIRED" in reason:
        return "the coordinator says that this board's certificate has ended", f"check both clocks; else {_AGAIN}"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_UNKNOWN" in reason:
        return _NOT_TAKEN
    if "CERTIFICATE_REQUIRED" in reason:
        return "the coordinator asks for a certificate", _AGAIN
    if "WRONG_VERSION" in reason or "RECORD" in reason or "HTTP" in reason:
        return (
            "what answers there speaks no TLS",
            "serve with certificates (`coordinator serve --tls`), or remove the identity of this board",
        )
    return f"the handshake failed ({(error.reason or str(error)).lower().replace('_', ' ')})", "check both clocks"


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    """Key and chain into a context, which takes them only from a file: one in memory, for this process alone."""
    number = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(number, (identity.key_pem + identity.chain_pem).encode())
        context.load_cert_chain(f"/proc/self/fd/{number}")
    finally:
        os.close(number)


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
