"""Talks to the coordinator: the one room that knows gRPC and protobuf. Values in, values out.

Rules kept here:

* Every call has a deadline. A call that waits is given up when the daemon is asked to stop.
* A call that waits counts as progress for as long as gRPC should have ended it, and no longer.
* ``Away`` means: try again later, nothing is lost. ``RefusedError`` means that trying again would not help.
* Without an identity only loopback addresses are allowed: nothing is authenticated or encrypted then. With one, every
  connection is TLS, and both ends show certificates of their fleet.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# gRPC's own lines are not one per event; what matters of them is in the errors that we raise.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from edge_runtime.daemon.arriving_call import ArrivingMethod
from edge_runtime.daemon.file_downloads import FileDownloads
from edge_runtime.daemon.order_watch import OrderWatch
from edge_runtime.daemon.stopping import Interrupted as Interrupted
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity.handshake import speaks_tls, why_not
from edge_runtime.identity.identity import Identity, read_identity, stamp_of
from edge_runtime.systemd.logging_setup import log
from protos.addresses import host_and_port, is_loopback, several
from protos.convert.calls import CALL_S, FETCH_S, LATER_S, check_protocol, report_parts, report_timeout_s, resumes
from protos.convert.cards import card_to
from protos.convert.checks import MAX_NAME, MAX_WAIT_S, finite
from protos.convert.energy import settled_to
from protos.convert.masks import KeyBytes, open_to, roster_from, shares_from, shares_to
from protos.convert.orders import order_from
from protos.convert.publications import receptions_to
from protos.convert.received_files import receive_file_part
from protos.convert.reports import receipt_from
from protos.convert.upgrades import upgrade_state_to
from protos.convert.uploads import UploadKey, held_from, held_request, upload_of
from protos.convert.watts import bins_to
from protos.energy.bins import PowerBins
from protos.errors import ConfigError, IntegrityError, RefusedError, UnknownRunError, UnreachableError, UpdateError
from protos.orders import (
    PROTOCOL,
    DeviceCard,
    Holding,
    MeterCard,
    Order,
    Receipt,
    Reception,
    SettledEnergy,
    TrainOrder,
    UpgradeOffer,
    Verdict,
    WaitOrder,
)
from protos.trust.names import SERVER_NAME
from protos.trust.signed import MAX_BYTES
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

# Run, round and attempt that masks are for.
MaskKey = tuple[str, int, int]
# Masks are agreed on when the slowest device has come, or was left out.
MASK_S = 150.0
# NextOrder is answered late on purpose, so that an idle fleet need not poll.
ORDER_S = 540.0
# How often a call that waits for nothing in particular is looked after.
_LOOK_S = 5.0
# Watts that are looked at are worth nothing later.
_LIVE_S = 10.0
# gRPC ends a call at its deadline; if it has not by then, it never will.
_GRACE_S = 10.0
# What of the time to stop is kept for giving everything back after the goodbye, and for the end of the interpreter and
# of gRPC's threads: half a second on a busy machine.
_CLOSING_S = 1.2
MAX_ORDER_BYTES = 64 << 20
_OPTIONS = [
    # The coordinator's pings come first, and save this one.
    ("grpc.keepalive_time_ms", 240_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", MAX_ORDER_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
]
_FINAL = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
}

_NOBODY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
_ON_PURPOSE = "edgejoule-error-bin"
_FAILED = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}


class Away(UnreachableError):
    """The coordinator does not answer now, or failed to; asking again is harmless.

    Attributes:
        failed: it did answer, with a failure of its own.
    """

    failed = False


@dataclass(frozen=True)
class Welcome:
    """The coordinator's answer to a join.

    Attributes:
        receive_known: it takes joules of the phase RECEIVE.
    """

    protocol: tuple[int, int]
    software_version: str
    check_in_s: float
    receive_known: bool = False


def check_address(address: str, identity: Identity | None = None) -> str:
    """``address`` itself when it is HOST:PORT, and on loopback unless this device has an identity.

    Raises:
        ConfigError: it is no HOST:PORT.
        RefusedError: the host is not this machine, and this device was never enrolled.
    """
    if (found := host_and_port(address)) is None:
        raise ConfigError(f"{address!r} is not HOST:PORT", where="coordinator", fix="write it like 127.0.0.1:50461")
    if not is_loopback(found[0]) and identity is None:
        raise RefusedError(
            "is not on this machine, and this device was never enrolled: only loopback goes without certificates",
            where=f"coordinator {address}",
            fix="enrol it with `edge-runtime enroll TOKEN`, or use 127.0.0.1:PORT through a tunnel such as `ssh -L`",
        )
    return address


def check_addresses(text: str, identity: Identity | None = None) -> tuple[str, ...]:
    """The addresses of a coordinator and its standbys, each as :func:`check_address` has it.

    Raises:
        ConfigError, RefusedError: see there.
    """
    return tuple(check_address(address, identity) for address in several(text))


class Link:
    """A connection to the coordinator at ``address``; nothing is sent before the first call.

    Where several addresses are given, the first is tried first, and the next one after each call that nobody answered:
    one of them is the coordinator's, and the others those of its standbys.

    Args:
        address: HOST:PORT, or several with commas between them.
        state: the state folder, whose identity is shown if it has one; a renewed one is taken up by itself.
    """

    def __init__(self, address: str, stopping: Stopping, *, state: Path | None = None) -> None:
        self._stopping, self._state = stopping, state
        self._stamp = stamp_of(state) if state is not None else None
        self._identity = read_identity(state) if state is not None else None
        self._addresses = check_addresses(address, self._identity)
        self.address = self._addresses[0]
        self._live: Any = None
        self._arriving: Callable[[bool], None] = lambda begins: None
        self.meter: MeterCard | None = None
        """What measures, as the coordinator was told at joining; None before."""
        self._connect()

    def _connect(self) -> None:
        if self._identity is None:
            self._channel = grpc.insecure_channel(self.address, options=_OPTIONS)
        else:
            secure = grpc.ssl_channel_credentials(
                self._identity.root_pem.encode(), self._identity.key_pem.encode(), self._identity.chain_pem.encode()
            )
            # Whose certificate it must be, whatever address it is reached at today.
            named = ("grpc.ssl_target_name_override", SERVER_NAME)
            self._channel = grpc.secure_channel(self.address, secure, options=[*_OPTIONS, named])
        self._stub = rpc.DeviceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._stub.NextOrder = ArrivingMethod(
            self._channel,
            "/edgejoule.v1.DeviceService/NextOrder",
            pb.NextOrderResponse.FromString,
            lambda begins: self._arriving(begins),
        )

    def _move_on(self) -> None:
        """Nobody answers at this address: the next one."""
        if len(self._addresses) < 2:
            return
        at = self._addresses.index(self.address)
        self.address = self._addresses[(at + 1) % len(self._addresses)]
        log().debug("next: the coordinator at %s", self.address)
        self._channel.close()
        self._connect()

    def _take_up_renewed(self) -> None:
        """Connect again when the identity on disk is another than the one in use."""
        if self._state is None or (stamp := stamp_of(self._state)) == self._stamp:
            return
        self._stamp = stamp
        try:
            identity = read_identity(self._state)
        except ConfigError as error:
            # The one in use is good for as long as it lasts.
            log().warning("%s; the certificate in use is kept", error)
            return
        if identity is not None:
            self._identity = identity
            self._channel.close()
            self._connect()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def join(self, card: DeviceCard) -> Welcome:
        """Say who is there.

        Raises:
            Away, Interrupted; RefusedError: not wanted, or another protocol; UpdateError: an answer without sense.
        """
        self._take_up_renewed()
        answer = self._call(self._stub.Join, card_to(card, PROTOCOL), CALL_S)
        theirs = check_protocol(answer, self.address)
        self.meter = card.meter
        check_in_s = finite(answer.check_in_s, "check_in_s", at_most=MAX_WAIT_S)
        return Welcome(theirs, answer.software_version, check_in_s, answer.receive_known)

    def next_order(
        self,
        device_id: str,
        session: str,
        settled: Iterable[SettledEnergy],
        *,
        bundle_id: str,
        holding: Holding,
        waits_s: float = ORDER_S,
        given_up: Callable[[], bool] | None = None,
        receptions: Iterable[Reception] = (),
        arriving: Callable[[bool], None] = lambda _: None,
    ) -> tuple[Order, int]:
        """Ask for work. Energy in ``settled`` is known to the coordinator afterwards.

        Args:
            waits_s: how long an answer is waited for while there is no work.
            given_up: asked every few seconds while the coordinator has no order; true ends the call, without one.
            receptions: what became of publications; known to the coordinator afterwards.
            arriving: told, from a thread, when the first bytes of the answer are here, and when all of it is.

        Returns:
            The order, and its size in serialised bytes.

        Raises:
            Away, Interrupted, RefusedError; UpdateError: the order makes no sense.
        """
        self._take_up_renewed()
        request = pb.NextOrderRequest(
            device_id=device_id,
            session=session,
            settled=settled_to(settled, self.meter),
            bundle_id=bundle_id,
            head_version=holding.head_version,
            basis_version=holding.basis_version,
            rebuilds=holding.rebuilds,
            waits_s=waits_s,
            published=holding.published,
            receptions=receptions_to(receptions),
            upgrade=upgrade_state_to(holding.upgrade),
        )
        self._arriving = arriving
        answer = self._call(self._stub.NextOrder, request, waits_s + LATER_S, given_up=given_up)
        if answer is None:
            return WaitOrder(0.0, "something changed here"), 0
        return order_from(answer), int(answer.ByteSize())

    def watch(
        self, device_id: str, session: str, order: TrainOrder, show_watts: Callable[[], None] = lambda: None
    ) -> OrderWatch:
        """Watches whether an order is still wanted; nothing is sent before it has been worked on for a while.

        Args:
            show_watts: called when the coordinator says that somebody looks at the power of this device.
        """
        request = pb.AwaitEndRequest(
            device_id=device_id, session=session, run_id=order.run_id, round=order.round, waits_s=ORDER_S
        )

        def wanted(call: Any) -> bool | None:
            try:
                answer = call.result()
                if answer.watts:
                    show_watts()
                return bool(answer.wanted)
            except (grpc.RpcError, grpc.FutureCancelledError):
                # Away, or of an earlier release: nobody says that it is not.
                return None

        return OrderWatch(
            lambda: self._stub.AwaitEnd.future(request, timeout=ORDER_S + LATER_S), wanted, time.monotonic
        )

    def live(self, device_id: str, session: str, bins: PowerBins, reason: str, ends: bool) -> bool:
        """Send the power of now; whether more is wanted. False when nobody answers. Any one thread may call it, beside
        the calls of the others."""
        request = pb.LiveWattsRequest(
            device_id=device_id, session=session, bins=bins_to(bins), reason=reason[:MAX_NAME], ends=ends
        )
        try:
            self._live = self._stub.LiveWatts.future(request, timeout=_LIVE_S)
            return bool(self._live.result().wanted)
        except (grpc.RpcError, grpc.FutureCancelledError, ValueError):
            # Away, of an earlier release, or the connection was closed for another: who looks asks again.
            return False
        finally:
            self._live = None

    def end_live(self) -> None:
        """Let a :meth:`live` that waits end at once."""
        if (call := self._live) is not None:
            call.cancel()

    def report(self, device_id: str, run_id: str, round: int, data: bytes, *, hurry_s: float | None = None) -> Receipt:
        """Send the bytes of a report; of a large one, those that an earlier try did not bring.

        Args:
            hurry_s: give up after this many seconds, and do not mind a stop request; None: no hurry.

        Raises:
            Away, Interrupted; RefusedError: these bytes will never be taken, and why.
        """
        key, stoppable, begun_s = upload_of(run_id, round, device_id, data), hurry_s is None, time.monotonic()
        try:
            from_byte = self._held(key, CALL_S if hurry_s is None else hurry_s, stoppable=stoppable)
            timeout_s = report_timeout_s(len(data), left_bytes=len(data) - from_byte)
            if hurry_s is not None:
                timeout_s = max(0.0, hurry_s - (time.monotonic() - begun_s))
            answer = self._call(self._stub.Report, report_parts(key, data, from_byte), timeout_s, stoppable=stoppable)
            return receipt_from(answer)
        except (UpdateError, UnknownRunError) as error:
            return Receipt(Verdict.REJECTED, error.what)

    def _held(self, key: UploadKey, timeout_s: float, *, stoppable: bool) -> int:
        """How much of a report is with the coordinator already; a small one is not worth the question."""
        if not resumes(key.total_bytes):
            return 0
        try:
            answer = self._call(self._stub.ReportHeld, held_request(key), timeout_s, stoppable=stoppable)
        except RefusedError as error:
            why: Any = error.__cause__
            if isinstance(why, grpc.RpcError) and why.code() is grpc.StatusCode.UNIMPLEMENTED:
                # An earlier release, which takes reports whole.
                return 0
            raise
        if held_bytes := held_from(answer, key):
            log().info("round %d: the report goes on from byte %d of %d", key.round, held_bytes, key.total_bytes)
        return held_bytes

    def mask_keys(self, device_id: str, session: str, key: MaskKey, keys: KeyBytes) -> tuple[dict[str, KeyBytes], int]:
        """Offer keys for masks; those of all, and how many must reveal. Waits for the other devices.

        Raises:
            Away, Interrupted; RefusedError: it came to nothing; UpdateError: no answer that makes sense.
        """
        seal, mask, seed = keys
        request = _mask_request(device_id, session, key)
        request.keys.CopyFrom(pb.MaskKeys(seal=seal, mask=mask, seed=seed))
        answer = self._call(self._stub.Mask, request, MASK_S)
        return roster_from(answer), answer.threshold

    def mask_shares(self, device_id: str, session: str, key: MaskKey, sealed: Mapping[str, bytes]) -> dict[str, bytes]:
        """Hand over sealed shares; those for this device. Waits, and raises, as :meth:`mask_keys`."""
        request = _mask_request(device_id, session, key)
        request.shares.CopyFrom(pb.MaskShares(shares=shares_to(sealed)))
        return shares_from(self._call(self._stub.Mask, request, MASK_S).shares)

    def mask_reveal(
        self, device_id: str, session: str, key: MaskKey, seeds: Mapping[str, bytes], keys: Mapping[str, bytes]
    ) -> None:
        """Reveal shares after a round. Raises as :meth:`mask_keys`."""
        request = _mask_request(device_id, session, key)
        request.reveal.CopyFrom(pb.MaskReveal(seeds=open_to(seeds), keys=open_to(keys)))
        self._call(self._stub.Mask, request, CALL_S)

    def leave(self, device_id: str, session: str, settled: Iterable[SettledEnergy], reason: str) -> None:
        """Say goodbye, quickly or not at all.

        Raises:
            Away, RefusedError.
        """
        request = pb.LeaveRequest(
            device_id=device_id, session=session, settled=settled_to(settled, self.meter), reason=reason[:200]
        )
        self._call(self._stub.Leave, request, self._stopping.left_s(_CLOSING_S), stoppable=False)

    def fetch_bundle(self, bundle_id: str, folder: Path, *, twin: bool = False, signature: bool = False) -> None:
        """Write a bundle's files, its Edge TPU `twin` and its `signature` only if asked, into a folder; all are as
        declared. What an earlier call left there of them is gone on with.

        Raises:
            Away, Interrupted; RefusedError, UnknownRunError: no such bundle; IntegrityError: damaged on the way;
            OSError: cannot be written.
        """
        held_bytes = {path.name: path.stat().st_size for path in folder.iterdir()}
        request = pb.FetchBundleRequest(
            bundle_id=bundle_id, edge_tpu_twin=twin, signature=signature, held_bytes=held_bytes
        )
        self._fetch(self._stub.FetchBundle(request, timeout=FETCH_S), folder, _any)

    def fetch_upgrade(self, device_id: str, offer: UpgradeOffer, folder: Path) -> None:
        """Write a wheel that was offered, and its signature, into an empty folder; both are as declared.

        Raises:
            Away, Interrupted; RefusedError, UnknownRunError: it is not offered any more; IntegrityError: another file,
            one larger than offered, or damaged on the way; OSError: cannot be written.
        """
        request = pb.FetchUpgradeRequest(device_id=device_id, upgrade_id=offer.upgrade_id)
        limits = {offer.wheel: offer.size_bytes, f"{offer.wheel}.signature.json": MAX_BYTES}

        def allowed(name: str, size_bytes: int) -> None:
            if size_bytes > limits.get(name, -1):
                raise IntegrityError(f"{name[:80]!r} of {size_bytes} bytes was not offered", where="upgrade")

        self._fetch(self._stub.FetchUpgrade(request, timeout=FETCH_S), folder, allowed)

    def _fetch(self, stream: Any, folder: Path, allowed: Callable[[str, int], None]) -> None:
        give_up_s = time.monotonic() + FETCH_S + _GRACE_S
        outcome: list[BaseException] = []
        done = threading.Event()

        def receive() -> None:
            try:
                _write_files(stream, folder, allowed)
            except BaseException as error:
                outcome.append(error)
            finally:
                done.set()
                self._stopping.wake()

        worker = threading.Thread(target=receive, name="fetch", daemon=True)
        worker.start()
        while not done.is_set() and not self._stopping.requested:
            self._stopping.nap(1.0)
            self._waited(give_up_s)
        if not done.is_set():
            stream.cancel()
        worker.join()
        if outcome and isinstance(outcome[0], grpc.RpcError):
            raise self._failed(outcome[0]) from outcome[0]
        if outcome:
            stream.cancel()
            raise outcome[0]

    def _call(
        self,
        method: Any,
        request: Any,
        timeout_s: float,
        *,
        stoppable: bool = True,
        given_up: Callable[[], bool] | None = None,
    ) -> Any:
        """The answer; None when ``given_up`` said, while it was waited for, that it is not wanted any more."""
        future = method.future(request, timeout=timeout_s)
        future.add_done_callback(lambda _: self._stopping.wake())
        give_up_s = time.monotonic() + timeout_s + _GRACE_S
        while not future.done():
            if stoppable and self._stopping.requested:
                future.cancel()
                raise Interrupted
            self._stopping.nap(0.05 if self._stopping.requested else 1.0 if given_up is None else _LOOK_S)
            self._waited(give_up_s)
            if given_up is not None and not future.done() and given_up():
                future.cancel()
                return None
        try:
            return future.result()
        except grpc.RpcError as error:
            raise self._failed(error) from error

    def _failed(self, error: Any) -> Exception:
        """What a call failed by; the next one goes to another address where nobody answered at this."""
        found = self._translated(error)
        if isinstance(found, Away) and error.code() in _NOBODY and not found.failed:
            self._move_on()
        return found

    def _waited(self, give_up_s: float) -> None:
        if time.monotonic() < give_up_s:
            self._stopping.progressed()

    def _translated(self, error: Any) -> Exception:
        code, details = error.code(), (error.details() or "").strip()
        if code is grpc.StatusCode.CANCELLED and self._stopping.requested:
            return Interrupted()
        where = f"coordinator {self.address}"
        what = details or code.name.lower().replace("_", " ")
        # A coordinator that answers on purpose says so in the trailing metadata; gRPC itself does not.
        on_purpose = any(key == _ON_PURPOSE for key, _ in error.trailing_metadata() or ())
        if code in _FINAL or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and on_purpose):
            return RefusedError(f"refuses: {what}", where=where)
        if code is grpc.StatusCode.NOT_FOUND:
            return UnknownRunError(what, where=where)
        if code is grpc.StatusCode.UNAVAILABLE and not on_purpose:
            what = "does not answer"
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            what = "did not answer in time"
        fix = "start it with `coordinator serve`, or give its address with --coordinator"
        if self._identity is not None and code is grpc.StatusCode.UNAVAILABLE and not on_purpose:
            what, fix = why_not(self.address, self._identity) or (what, fix)
        elif code is grpc.StatusCode.UNAVAILABLE and not on_purpose and speaks_tls(self.address):
            what = "asks for a certificate, and this device was never enrolled"
            fix = "make a token there with `coordinator enroll`, then run `edge-runtime enroll TOKEN`"
        away = Away(what, where=where, fix=fix)
        away.failed = code in _FAILED
        return away


def _mask_request(device_id: str, session: str, key: MaskKey) -> pb.MaskRequest:
    run_id, number, attempt = key
    return pb.MaskRequest(device_id=device_id, session=session, run_id=run_id, round=number, attempt=attempt)


def _any(name: str, size_bytes: int) -> None:
    """Any file: what a bundle is made of is in its manifest."""


def _write_files(stream: Iterable[Any], folder: Path, allowed: Callable[[str, int], None] = _any) -> None:
    """Write the files of a stream: a `file` part, then its `data` parts, for each that is allowed by name and size."""
    with FileDownloads(folder) as downloads:
        for part in stream:
            receive_file_part(downloads, part, (allowed,))
        downloads.finish()
