"""The server process: opens the state, listens, serves until told to stop.

Rules kept here:

* Loopback, or TLS on both sides. Without certificates anyone who can connect could start runs and read files, so any
  other address is refused (see :mod:`coordinator.server.listening`).
* One coordinator per state directory, kept by a lock that dies with the process.
* SIGTERM and SIGINT let calls in flight end, then leave with exit code 0. Nothing needs to be saved then: all that was
  acknowledged is on disk already. A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# gRPC's own lines are not one per event; what matters of them is in the errors that we raise.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from coordinator.run.resume import Rooms
from coordinator.run.workers import Store, Worker
from coordinator.server.announcing import Announcement
from coordinator.server.listening import (
    DEFAULT_LISTEN,
    Trust,
    check_listen,
    connection_limits,
    open_trust,
    tls_version,
)
from coordinator.server.metrics import MetricsServer, check_metrics
from coordinator.server.operations import Operations
from coordinator.server.run_scheduler import RunScheduler
from coordinator.server.services.device_service import DeviceService
from coordinator.server.services.health import Health
from coordinator.server.services.operator_service import OperatorService
from coordinator.server.services.reflection import add_reflection
from coordinator.server.services.unfinished import Unfinished, Uploads
from coordinator.server.spans import Spans, check_receiver
from coordinator.server.upgrades import UpgradesTrust
from coordinator.server.upstream.identity import read_site_identity
from coordinator.server.upstream.link import check_upstream
from coordinator.server.upstream.site import Site
from coordinator.store.database import Database, FencedError, sqlite_url
from coordinator.store.models.bundle_store import BundleStore
from coordinator.trust.authority import has_authority
from coordinator.trust.heads import HeadSigner
from protos.addresses import is_loopback
from protos.atomic import write_whole
from protos.errors import RefusedError, StoreError, UsageError
from protos.file_lock import lock
from protos.v1 import edgejoule_pb2_grpc as rpc

log = logging.getLogger("edgejoule.coordinator")

GRACE_S = 5.0
# How often a standby looks whether its turn has come, and a coordinator whether it still has its own.
LEASE_S = 1.0
# A part of a report, a join, or a plan. What is longer is no message of ours.
MAX_RECEIVE_BYTES = 1 << 20
# An order carries the head.
MAX_SEND_BYTES = 256 << 20
MAX_CALLS = 8192
# Decoding is arithmetic of numpy, most of which lets other threads run.
READERS = 2
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # Calls that have come and not begun. By itself gRPC drops some beyond 1,000, with CANCELLED and at random, and a
    # fleet makes as many when a round opens.
    ("grpc.server.max_pending_requests", MAX_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_CALLS),
    # Without this, gRPC lets two servers share one port.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 128),
    # A held call is kept alive, and a device without power is found out, by these pings alone: a radio wakes for each.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_connection_idle_ms", 600_000),
]


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        state: folder of everything that must outlive the process.
        listen: HOST:PORT; port 0 picks a free one.
        database: an SQLAlchemy URL, or None for a SQLite file in the state folder.
        ready_file: gets the bound address when serving, or None.
        tls: ask certificates of every peer, on loopback as well; elsewhere they are asked for anyway.
        enroll_listen: HOST:PORT of enrolment; None for the same host and the next port.
        standby: wait while another coordinator uses the database, and go on with its runs when it is gone.
        metrics: HOST:PORT on loopback of figures for Prometheus; None for none.
        announce: say by mDNS where enrolment is.
        upstream: HOST:PORT of the coordinator that this one is a device of; None: it stands alone.
        site: its device id there.
        site_devices: so many of its own devices must be there before it joins.
        otlp: URL of a receiver of OpenTelemetry's traces; None: none are made.
        upstream_identity: folder of the identity that it shows there; None: it has none.
    """

    state: Path
    listen: str = DEFAULT_LISTEN
    database: str | None = None
    ready_file: Path | None = None
    tls: bool = False
    enroll_listen: str | None = None
    standby: bool = False
    metrics: str | None = None
    announce: bool = False
    upstream: str | None = None
    site: str = ""
    site_devices: int = 1
    upstream_identity: Path | None = None
    otlp: str | None = None


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the lock of a state directory.

    Raises:
        RefusedError: another coordinator holds it.
        StoreError: the directory cannot be made or written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot be used ({error.strerror})", where=str(state), fix="choose another --state"
        ) from error
    try:
        lock(handle)
    except OSError as error:
        os.close(handle)
        raise RefusedError(
            "another coordinator uses this state directory", where=str(state), fix="stop it, or choose another --state"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


async def serve(settings: Settings, *, stop: asyncio.Event | None = None) -> str:
    """Serve until SIGTERM, SIGINT, or ``stop``; returns the address that was served.

    Raises:
        RefusedError, UsageError: see :func:`check_listen` and :func:`only_one`; or another coordinator took over.
        StoreError, ConfigError: the state or the database cannot be opened.
    """
    tls = settings.tls or not is_loopback(settings.listen.rpartition(":")[0])
    # Who has made no certificates is told how, before anything is opened.
    listen = check_listen(settings.listen, tls=settings.tls or has_authority(settings.state))
    if settings.metrics is not None:
        check_metrics(settings.metrics)
    if settings.announce and not tls:
        raise UsageError("needs certificates", where="--announce", fix="without them boards do not enrol: leave it out")
    if settings.otlp is not None:
        check_receiver(settings.otlp)
    if settings.upstream is not None:
        folder = settings.upstream_identity
        check_upstream(settings.upstream, None if folder is None else read_site_identity(folder))
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    if stop is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, _signalled, number, stopping)
            except NotImplementedError:  # Windows: there Python itself calls back, in this very thread
                signal.signal(number, lambda n, _: loop.call_soon_threadsafe(_signalled, n, stopping))
    with only_one(settings.state):
        db = await _database(settings, stopping)
        if db is None:
            return ""
        fenced = asyncio.Event()

        def taken_over() -> None:
            fenced.set()
            stopping.set()

        def tell() -> None:
            loop.call_soon_threadsafe(taken_over)

        db.on_fenced = tell
        lease = asyncio.create_task(_keep_lease(db))
        bundle_store = BundleStore(settings.state / "bundles")
        bundle_store.sweep()
        store, looks = Store(db, Worker("store")), Store(db, Worker("looks"))
        models, readers = Worker("models"), Worker("readers", READERS)
        rooms = Rooms(store, looks, models, readers, bundle_store, settings.state / "evaluations")
        run_scheduler = RunScheduler(rooms)
        trust: Trust | None = None
        try:
            trust = open_trust(settings.state) if tls else None
            if trust is not None:
                run_scheduler.upgrades.trust = UpgradesTrust(trust.authority, trust.register, trust.worker)
                run_scheduler.head_signer = HeadSigner(trust.authority.folder)
            await run_scheduler.open()
            address = await _listen(settings, listen, rooms, run_scheduler, stopping, trust)
        finally:
            lease.cancel()
            # First who may still write to the audit log.
            await run_scheduler.close()
            if trust is not None:
                await trust.close()
            for thread in (looks.thread, readers, models, store.thread):
                await asyncio.to_thread(thread.close)
            db.close()
        if fenced.is_set():
            raise RefusedError(
                "another coordinator has taken over the database",
                where="--database",
                fix="leave it, or stop it first",
            )
        return address


async def _database(settings: Settings, stopping: asyncio.Event) -> Database | None:
    """The database, as soon as this coordinator may use it; None when it was told to stop before that."""
    url = settings.database or sqlite_url(settings.state / "coordinator.db")
    if settings.standby and (not settings.database or settings.database.startswith("sqlite")):
        raise UsageError(
            "a SQLite file has no standby", where="--standby", fix="give --database postgresql+psycopg://USER@HOST/NAME"
        )
    said = False
    while not stopping.is_set():
        try:
            return await asyncio.to_thread(Database, url)
        except RefusedError:
            if not settings.standby:
                raise
            if not said:
                print("coordinator: standby, until the coordinator of this database is gone", flush=True)
        except StoreError as error:
            if not settings.standby:
                raise
            log.warning("%s; a standby waits", error)
        said = True
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LEASE_S)
    return None


async def _keep_lease(db: Database) -> None:
    """See within seconds that another coordinator has taken over, also while nothing is written."""
    while db.dialect != "sqlite":
        await asyncio.sleep(LEASE_S)
        try:
            await asyncio.to_thread(db.keep_lease)
        except FencedError as error:
            log.error("%s", error)
            return
        except StoreError as error:
            log.warning("%s; looked after again", error)


def _signalled(number: int, stopping: asyncio.Event) -> None:
    """Stop at the first signal, and end at once at the second: what was acknowledged is on disk already."""
    if stopping.is_set():
        log.warning("a second signal: ending at once")
        logging.shutdown()
        os._exit(128 + number)
    stopping.set()


async def _listen(
    settings: Settings,
    listen: str,
    rooms: Rooms,
    run_scheduler: RunScheduler,
    stopping: asyncio.Event,
    trust: Trust | None,
) -> str:
    gates = () if trust is None else (trust.gate,)
    uploading = Worker("uploads")
    options = [*_OPTIONS, *connection_limits()]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS, interceptors=gates)
    uploads = Uploads(await uploading.do(Unfinished, settings.state / "uploads"), uploading)
    device_service = DeviceService(run_scheduler, uploads)
    rpc.add_DeviceServiceServicer_to_server(device_service, server)  # type: ignore[no-untyped-call]
    operations = Operations(rooms, run_scheduler)
    rpc.add_OperatorServiceServicer_to_server(OperatorService(operations), server)  # type: ignore[no-untyped-call]
    server.add_generic_rpc_handlers((Health(stopping).handler(),))
    add_reflection(server)
    if trust is not None:
        trust.serve_identities(server)
    try:
        if trust is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, trust.credentials())
    except RuntimeError as error:
        uploading.close()
        raise UsageError(
            f"cannot listen on {listen}: is it in use?", where="--listen", fix="choose another port, or 0 for any"
        ) from error
    address = f"{listen.rpartition(':')[0]}:{port}"
    await server.start()
    metrics = MetricsServer(operations)
    announcement: Announcement | None = None
    times = asyncio.create_task(operations.schedules.keep())
    sweeping = asyncio.create_task(uploads.keep(run_scheduler.may_count))
    spans = None if settings.otlp is None else Spans(check_receiver(settings.otlp))
    run_scheduler.spans = spans
    told = None if spans is None else asyncio.create_task(spans.follow(operations))
    site: Site | None = None
    upward: asyncio.Task[None] | None = None
    try:
        print(f"coordinator: listening on {address}, state in {settings.state}", flush=True)
        if trust is not None:
            host, _, _ = address.rpartition(":")
            mine = settings.upstream_identity
            above = "" if mine is None else read_site_identity(mine).signing_root_pem
            at_port = settings.enroll_listen or f"{host}:{port + 1}"
            enrolment = await trust.open_enrolment(at_port, above.encode())
            trust.watch()
            if settings.announce:
                at, fingerprint = int(enrolment.rpartition(":")[2]), trust.authority.fingerprint
                announcement = Announcement(host, port, at, fingerprint)
                await announcement.open()
            spoken = await asyncio.to_thread(tls_version, address, trust.authority.root_pem)
            print(f"coordinator: {spoken}, certificates on both sides; enrolment on {enrolment}", flush=True)
        if settings.metrics is not None:
            print(f"coordinator: metrics on {await metrics.open(settings.metrics)}", flush=True)
        if spans is not None:
            print(f"coordinator: traces go to {settings.otlp}", flush=True)
        if settings.upstream is not None:
            name, count = settings.site, settings.site_devices
            mine = settings.upstream_identity
            site = Site(settings.upstream, name, count, settings.state, rooms, run_scheduler, operations, mine)
            upward = asyncio.create_task(site.run())
            print(f"coordinator: {site.name} of the coordinator at {settings.upstream}", flush=True)
        # Last: whoever waits for the file may count on all that comes before it.
        if settings.ready_file is not None:
            _write_ready(settings.ready_file, address)
        await stopping.wait()
        log.info("stopping")
    finally:
        for task in (times, sweeping):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if upward is not None and site is not None:
            upward.cancel()
            await asyncio.gather(upward, return_exceptions=True)
            await site.close()
        if told is not None and spans is not None:
            told.cancel()
            await asyncio.gather(told, return_exceptions=True)
            await spans.close()
        await metrics.close()
        if announcement is not None:
            await announcement.close()
        run_scheduler.release()
        await server.stop(GRACE_S)
        await asyncio.to_thread(uploading.close)
    return address


def _write_ready(path: Path, address: str) -> None:
    try:
        with write_whole(path) as file:
            file.write(f"{address}\n".encode())
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
