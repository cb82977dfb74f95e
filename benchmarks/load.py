# ruff: noqa: E402
"""How many devices one coordinator serves: light clients over real gRPC, one TCP connection each.

    .venv/bin/python benchmarks/load.py --devices 1000 --json OUT
    .venv/bin/python benchmarks/load.py --devices 50 --tls        # the same with certificates on both sides
    .venv/bin/python benchmarks/load.py --devices 200 --floor     # what gRPC alone takes

A coordinator runs as a process of its own, as users start it, on SQLite in a folder of the real disk. Clients join,
ask, holding the head of the order before as devices do, send the same entropy-coded report of a head of 650 parameters
each round after 0.2 s of "training" (0.1 to 0.3, drawn), and tell the joules of sending when they ask again. All must
report (quorum 1). Figures:

    rounds_per_minute       rounds closed between the first and the last close
    order_p99_s             99th percentile of NextOrder calls that brought an order
    report_p99_s            the same of Report calls
    cpu_s_per_report        processor seconds of the coordinator, all threads, start-up and joins left out
    rss_mb                  its highest resident memory, 10^6 bytes
    statements_per_report   of the database, with those of joins left out
    handshakes_per_s        connections made and devices joined, 32 at a time; TCP alone without --tls
    connection_kb           resident memory of the coordinator for each of them, 10^3 bytes
    fsyncs_per_report       fsync and fdatasync calls, those of joins included, by strace in a run of its own a third as
                            long, since being traced takes a third more processor; null where that is not there

With --floor a bare server of grpc.aio stands in for the coordinator: it reads the same calls and sends answers of the
same bytes, made beforehand, and does nothing else. What a coordinator takes less that is its own.

Clients and coordinator share the machine: its other load makes rounds slower, and the processor's seconds hardly.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/coordinator")]
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import numpy as np
from plain_bundle import make_plain_bundle

from coordinator.operator.client import Operator
from coordinator.operator.credentials import read_credentials
from protos.convert.cards import card_to
from protos.convert.energy import energy_to, settled_to
from protos.convert.tensors import tensors_to
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import PROTOCOL, DeviceCard, Engine, MeterCard, SettledEnergy
from protos.trust.names import SERVER_NAME
from protos.update import codecs
from protos.update.trees import shapes
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

ENGINE = Engine("ai-edge-litert", "2.3.0", "xnnpack")
TRAIN_S = 0.2
_SERVE, _FLOOR = "--serve", "--serve-floor"
_VERDICTS = {1: "accepted", 2: "duplicate", 3: "late", 4: "rejected"}


def joules(phase: Phase, energy_j: float) -> PhaseEnergy:
    """One measured phase of a second."""
    return PhaseEnergy(phase, energy_j, 1.0, 0.0, "measured", "ina219:test", 0.01)


class Fleet:
    """Light devices in one event loop.

    Attributes:
        seconds: how long calls took, by kind.
        counts: verdicts, and calls that failed by their code.
    """

    def __init__(self, address: str, count: int, width: int, classes: int, trust: Path | None = None) -> None:
        self._address, self._count, self._trust = address, count, trust
        self.joining_s = 0.0
        self.seconds: dict[str, list[float]] = {"order": [], "report": []}
        self.counts: Counter[str] = Counter()
        self.end_s = 0.0
        random_tree = np.random.default_rng(1)
        tree = {
            "out_bias": random_tree.normal(size=classes).astype(np.float32) * 1e-3,
            "out_kernel": random_tree.normal(size=(width, classes)).astype(np.float32) * 1e-3,
        }
        codec = codecs.build("entropy_coded", codecs.resolve("entropy_coded", {}, where="load"), where="load")
        update, _ = codec.encode(tree, codec.init(shapes(tree)), codecs.generator(1, "load"))
        self._update = tensors_to(update)
        phases = ((Phase.EMBED, 0.2), (Phase.TRAIN, 1.0), (Phase.ENCODE, 0.05), (Phase.IDLE, 0.4))
        self._energy = energy_to([joules(*phase) for phase in phases])

    async def serve(self, seconds: float, joined: asyncio.Event) -> None:
        """All devices, for so many seconds after all have joined."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        names = [f"dev-{at:05}" for at in range(self._count)]
        if self._trust is None:
            channels = [grpc.aio.insecure_channel(self._address, options=options) for _ in names]
        else:
            options.append(("grpc.ssl_target_name_override", SERVER_NAME))
            owned = certificates(self._trust, names)
            channels = [grpc.aio.secure_channel(self._address, one, options=options) for one in owned]
        stubs = [rpc.DeviceServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
        gate = asyncio.Semaphore(32)

        async def join(name: str, stub: Any) -> None:
            async with gate:
                await self._join(name, stub)

        begin_s = time.perf_counter()
        await asyncio.gather(*(join(*pair) for pair in zip(names, stubs, strict=True)))
        self.joining_s = time.perf_counter() - begin_s
        joined.set()
        self.end_s = time.monotonic() + seconds
        await asyncio.gather(*(self._device(*pair) for pair in zip(names, stubs, strict=True)))
        for channel in channels:
            await channel.close()

    async def _join(self, name: str, stub: Any) -> None:
        card = DeviceCard(name, f"{name}-1", "0", "pi4", ENGINE, MeterCard("measured", "ina219:test"), 40, 10)
        await stub.Join(card_to(card, PROTOCOL), timeout=60)

    async def _device(self, name: str, stub: Any) -> None:
        settled: list[SettledEnergy] = []
        held, delay_s = "", 0.25
        while time.monotonic() < self.end_s:
            try:
                begin_s = time.perf_counter()
                request = pb.NextOrderRequest(
                    device_id=name, session=f"{name}-1", settled=settled_to(settled), waits_s=60.0,
                    head_version=held, rebuilds=True,
                )  # fmt: skip
                answer = await stub.NextOrder(request, timeout=90)
                kind = answer.WhichOneof("action")
                if kind == "rejoin":
                    await self._join(name, stub)
                    continue
                settled, delay_s = [], 0.25
                if kind == "wait":
                    await asyncio.sleep(max(0.05, min(answer.wait.retry_after_s, self.end_s - time.monotonic())))
                    continue
                self.seconds["order"].append(time.perf_counter() - begin_s)
                held = answer.train.head.version
                await asyncio.sleep(TRAIN_S * random.uniform(0.5, 1.5))
                settled = await self._report(name, stub, answer.train)
            except grpc.aio.AioRpcError as error:
                self.counts[error.code().name] += 1
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(30.0, 2 * delay_s)

    async def _report(self, name: str, stub: Any, order: Any) -> list[SettledEnergy]:
        report = pb.DeviceReport(
            run_id=order.run_id, round=order.round, device_id=name, plan_id=order.plan_id, bundle_id=order.bundle_id,
            head_version=order.head.version, steps_planned=order.steps, steps_done=order.steps, examples=40,
            local_normaliser=float(order.steps), stop_reason=pb.STOP_REASON_COMPLETED, loss_first=2.0, loss_last=1.0,
            engine=pb.Engine(name=ENGINE.name, version=ENGINE.version, delegate=ENGINE.delegate), energy=self._energy,
            update=self._update, embedded=40 if order.round == 1 else 0, train_s=0.1, attempt=order.attempt,
        )  # fmt: skip
        data = report.SerializeToString()
        header = pb.ReportHeader(
            run_id=order.run_id, round=order.round, device_id=name, total_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
        )  # fmt: skip

        async def parts() -> Any:
            yield pb.ReportRequest(header=header)
            yield pb.ReportRequest(data=data)

        begin_s, delay_s = time.perf_counter(), 0.25
        while True:
            try:
                verdict = (await stub.Report(parts(), timeout=30)).verdict
                break
            except grpc.aio.AioRpcError as error:
                self.counts[f"report {error.code().name}"] += 1
                if time.monotonic() > self.end_s:
                    return []
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(30.0, 2 * delay_s)
        self.seconds["report"].append(time.perf_counter() - begin_s)
        self.counts[_VERDICTS[verdict]] += 1
        return [SettledEnergy(order.run_id, order.round, (joules(Phase.SEND, 0.05),), order.attempt or None)]


def certificates(trust: Path, names: list[str]) -> list[grpc.ChannelCredentials]:
    """What each device shows: a certificate of the coordinator's own authority, for a key of its own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from coordinator.trust.authority import Authority

    authority, made = Authority(trust), []
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        issued = authority.device(name, request.public_bytes(serialization.Encoding.DER))
        made.append(grpc.ssl_channel_credentials(authority.root_pem, key.private_bytes(*form), issued.chain_pem))
    return made


class Bare(rpc.DeviceServiceServicer):
    """Answers of the right size, and nothing behind them.

    Args:
        order: with what every device is sent to work, at once.
    """

    def __init__(self, order: pb.NextOrderResponse) -> None:
        self._order, self._join = order, pb.JoinResponse(protocol_major=PROTOCOL[0], protocol_minor=PROTOCOL[1])
        self._receipt = pb.ReportResponse(verdict=1)  # type: ignore[arg-type]

    async def Join(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Welcomes."""
        return self._join

    async def NextOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        """An order."""
        return self._order

    async def Report(self, parts: Any, context: Any) -> Any:  # noqa: N802
        """Reads all parts."""
        async for _ in parts:
            pass
        return self._receipt


def serve_floor(ready: Path, width: int, classes: int) -> int:
    """A server of grpc.aio alone, as the coordinator makes its own."""
    from coordinator.server.serving import _OPTIONS, MAX_CALLS
    from protos.convert.orders import order_to
    from protos.orders import CodecOrder, TrainOrder
    from protos.update.tensors import as_float32

    head = as_float32({"out_bias": np.zeros(classes, np.float32), "out_kernel": np.zeros((width, classes), np.float32)})
    order = TrainOrder(
        run_id="run-1234567890", round=1, plan_id="p" * 64, bundle_id="b" * 71, head_version="h" * 64, head=head,
        steps=5, inputs={"rate": 0.05}, codec=CodecOrder("entropy_coded", {}), budget_j=None, deadline_s=600.0, seed=1,
    )  # fmt: skip

    async def run() -> None:
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        rpc.add_DeviceServiceServicer_to_server(Bare(order_to(order)), server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ready.with_suffix(".part").write_text(f"127.0.0.1:{port}")
        ready.with_suffix(".part").replace(ready)
        await server.wait_for_termination()

    asyncio.run(run())
    return 0


class Watched:
    """The coordinator's process, from outside.

    Args:
        floor: width and classes of the head that a bare server sends in its place.
    """

    def __init__(self, folder: Path, *, fsyncs: bool, tls: bool = False, floor: tuple[int, int] | None = None) -> None:
        self._folder, self._floor = folder, floor
        ready = folder / "ready"
        command = [sys.executable, str(Path(__file__)), _SERVE, str(folder / "counts.json")]
        command += ["serve", "--state", str(folder / "state"), "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
        if tls:
            init = [sys.executable, "-m", "coordinator.cli", "init", "--state", str(folder / "state")]
            subprocess.run(init, check=True, capture_output=True, cwd=ROOT)
            command.append("--tls")
            # Enrolment has a port of its own, which port 0 of the other says nothing of.
            command += ["--enroll-listen", "127.0.0.1:0"]
        if floor is not None:
            command = [sys.executable, str(Path(__file__)), _FLOOR, str(ready), *map(str, floor)]
        self._strace = shutil.which("strace") if fsyncs else None
        if self._strace:
            trace = ["-f", "--seccomp-bpf", "-c", "-e", "trace=fsync,fdatasync", "-o", str(folder / "strace")]
            command = [self._strace, *trace, *command]
        log = (folder / "log").open("wb")
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while not ready.exists():
            if self._process.poll() is not None:
                raise SystemExit((folder / "log").read_text()[-2000:])
            time.sleep(0.05)
        self.address = ready.read_text().strip()
        self._pid = self._process.pid if not self._strace else int(_children(self._process.pid)[0])

    def cpu_s(self) -> float:
        """Processor seconds, all threads."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def now_mb(self) -> float:
        """Resident memory of this moment."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def peak_mb(self) -> float:
        """Highest resident memory."""
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self._pid}/status").read_text())
        return int(found.group(1)) * 1024 / 1e6 if found else 0.0

    def statements(self) -> int:
        """How many the database was given up to now."""
        if self._floor is not None:
            return 0
        before = (self._folder / "counts.json").stat().st_mtime_ns if (self._folder / "counts.json").exists() else 0
        os.kill(self._pid, _TELL)
        path = self._folder / "counts.json"
        while not path.exists() or path.stat().st_mtime_ns == before:
            time.sleep(0.02)
        return int(json.loads(path.read_text())["statements"])

    def closed(self) -> list[float]:
        """When rounds closed, seconds."""
        lines = (self._folder / "log").read_text(errors="replace").splitlines()
        times = [line.split()[0] for line in lines if " closed with " in line]
        return [float(text) for text in times]

    def stop(self) -> int | None:
        """End it; returns its fsyncs, when they were counted."""
        os.kill(self._pid, 15)
        self._process.wait(60)
        if not self._strace:
            return None
        rows = [line.split() for line in (self._folder / "strace").read_text().splitlines()]
        return sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync"))


_TELL = 10  # SIGUSR1


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def serve(counts: Path, arguments: list[str]) -> int:
    """A coordinator that counts its statements, and tells them when it is asked."""
    import logging
    import signal

    from sqlalchemy import event
    from sqlalchemy.engine import Engine as Database

    from coordinator.cli import main as coordinator

    found = {"statements": 0}

    def begun(*rest: Any) -> None:
        found["statements"] += 1

    def tell(*rest: Any) -> None:
        part = counts.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.replace(counts)

    event.listen(Database, "before_cursor_execute", begun)
    signal.signal(_TELL, tell)
    formatter = logging.Formatter
    logging.Formatter = lambda *a, **k: formatter("%(created).3f %(levelname)s %(message)s")  # type: ignore[misc, assignment]
    return coordinator(arguments)


def measure(
    devices: int, seconds: float, *, width: int, classes: int, fsyncs: bool, folder: Path, tls: bool = False,
    floor: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One run; see the module for the keys."""
    bundle = make_plain_bundle(folder / "bundle", width=width, classes=classes)
    watched = Watched(folder, fsyncs=fsyncs, tls=tls, floor=(width, classes) if floor else None)
    trust = folder / "state" / "trust" if tls else None
    alone_mb = watched.now_mb()
    plan = (
        f'[run]\nbundle = "{bundle}"\nname = "load"\nrounds = 100000\nseed = 7\n'
        f"[round]\ndevices = {devices}\nquorum = 1.0\ndeadline_s = 600\n[train]\nepochs = 1\n"
        '[update]\ncodec = "entropy_coded"\n'
    )
    fleet = Fleet(watched.address, devices, width, classes, trust)
    begun: dict[str, float] = {}

    async def all_of_it() -> None:
        joined = asyncio.Event()
        task = asyncio.create_task(fleet.serve(seconds, joined))
        await joined.wait()
        begun["mb"] = watched.now_mb()
        begun["cpu"], begun["statements"] = watched.cpu_s(), await asyncio.to_thread(watched.statements)
        if not floor:
            await asyncio.to_thread(start)
        await task

    def start() -> None:
        shown = read_credentials(trust / "admin.json") if trust is not None else None
        with Operator(watched.address, shown) as operator:
            operator.start_run(plan, folder)

    asyncio.run(all_of_it())
    used_s, statements = watched.cpu_s() - begun["cpu"], watched.statements() - begun["statements"]
    peak_mb, closed = watched.peak_mb(), watched.closed()
    synced = watched.stop()
    reports = max(1, fleet.counts["accepted"])
    spent_s = closed[-1] - closed[0] if len(closed) > 1 else float("inf")
    # Those of joining are among them, a few.
    per_report = None if synced is None else round(synced / reports, 3)
    return {
        "devices": devices,
        "rounds_per_minute": round(60 * (len(closed) - 1) / spent_s, 2) if len(closed) > 1 else 0.0,
        "order_p99_s": _p99(fleet.seconds["order"]),
        "report_p99_s": _p99(fleet.seconds["report"]),
        "cpu_s_per_report": round(used_s / reports, 5),
        "rss_mb": round(peak_mb, 1),
        "statements_per_report": round(statements / reports, 2),
        "handshakes_per_s": round(devices / fleet.joining_s, 1),
        "connection_kb": round(1000 * (begun["mb"] - alone_mb) / devices, 1),
        "fsyncs_per_report": per_report,
        "reports": fleet.counts["accepted"],
        "rounds": len(closed),
        "other_answers": {key: value for key, value in fleet.counts.items() if key != "accepted"},
    }


def _p99(seconds: list[float]) -> float | None:
    return round(float(np.percentile(seconds, 99)), 3) if seconds else None


def main() -> int:
    """The command: see the module."""
    if _FLOOR in sys.argv[1:2]:
        return serve_floor(Path(sys.argv[2]), *map(int, sys.argv[3:5]))
    if _SERVE in sys.argv[1:2]:
        return serve(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--width", type=int, default=64, help="of an embedding; 10 classes")
    parser.add_argument("--no-strace", action="store_true", help="do not count fsyncs")
    parser.add_argument("--tls", action="store_true", help="certificates on both sides, TLS 1.3")
    parser.add_argument("--floor", action="store_true", help="a bare gRPC server in the coordinator's place")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    def run(seconds: float, *, fsyncs: bool) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="load-") as folder:
            return measure(
                chosen.devices, seconds, width=chosen.width, classes=10, fsyncs=fsyncs, folder=Path(folder),
                tls=chosen.tls, floor=chosen.floor,
            )  # fmt: skip

    found = run(chosen.seconds, fsyncs=False)
    if not chosen.no_strace and not chosen.floor:
        found["fsyncs_per_report"] = run(chosen.seconds / 3, fsyncs=True)["fsyncs_per_report"]
    for key, value in found.items():
        print(f"{key:24}{value}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
