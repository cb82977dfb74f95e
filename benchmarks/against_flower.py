"""Flower and edgejoule side by side: the same data, head, steps and clients, one after the other in one go.

    .venv/bin/python benchmarks/against_flower.py --json OUT            # 10k and 1M parameters, 2 and 8 clients
    .venv/bin/python benchmarks/against_flower.py --quick --json OUT    # 10k parameters, 2 clients
    .venv/bin/python benchmarks/against_flower.py --cases 10M:2,10k:32 --rounds 4 --json OUT

Flower (``--version``, 1.42.0 if not given) is installed with pip into an environment of its own, ``--environment``.
Both run as their users start them: a SuperLink, SuperNodes and `flwr run`; a `coordinator serve`, `edge-runtime run`
and a run of a plan. Both train the same softmax head on the same embeddings: as many steps of SGD of the same batch and
rate on each client. Rows, one for each system, size and number of clients:

    round_s                   between the closes of rounds, the median of all rounds but the first
    server_cpu_s_per_update   processor seconds of the server's processes over the same rounds
    bytes_up, bytes_down      through the clients' connections over the same rounds, an update; TCP's payload
    server_rss_mb             highest memory of the server's processes, 10^6 bytes: what they share is shared out (PSS)
    client_rss_mb             the same of one client's processes, the mean of the clients
    client_start_s            from starting the first client until the server knows it
    loss                      of the last head, over the examples of all clients: whether both have learnt the same

Where they differ, it is for Flower: it keeps its state in memory, as it does if not told otherwise, and we on disk,
with every report synced; its embeddings are ready, and ours are made by the frozen backbone in round 1; what it needs
is installed before the run. Ours codes changes as a plan does that says nothing of it, and Flower has no coding.
Clients, servers and the proxy that counts bytes share the machine: with eight clients on two cores, rounds are bounded
by that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.inputs.wide_bundle import _MAKE_MODEL  # noqa: E402
from coordinator.operator.client import Operator  # noqa: E402
from coordinator.store.database import Database, sqlite_url  # noqa: E402
from coordinator.store.models import heads  # noqa: E402
from protos.model.backbone import Backbone  # noqa: E402
from protos.model.bundle import Bundle, open_bundle  # noqa: E402
from protos.update.trees import Tree  # noqa: E402

VERSION = "1.42.0"
WIDTH, BATCH, RATE, EXAMPLES = 1000, 32, 0.05, 128
CLASSES = {"10k": 10, "1M": 1000, "10M": 10_000}
CASES = "10k:2,10k:8,1M:2,1M:8"
LONGEST_S = 900.0

_APP = {
    "pyproject.toml": """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "app"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = ["flwr>=1.42"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "none"
[tool.flwr.app.components]
serverapp = "app.server:app"
clientapp = "app.client:app"
[tool.flwr.app.config]
rounds = 3
clients = 2
folder = ""
""",
    "app/__init__.py": "",
    "app/client.py": '''import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """SGD of a softmax head on embeddings: the gradient of the mean cross-entropy of each batch."""
    kernel, bias = (one.copy() for one in msg.content["arrays"].to_numpy_ndarrays())
    data = np.load(context.node_config["data"], allow_pickle=False)
    x, y, batch, rate = data["x"], data["y"], int(data["batch"]), float(data["rate"])
    order = np.random.default_rng(int(context.node_config["seed"])).permutation(len(x))
    for start in range(0, len(x), batch):
        at = order[start : start + batch]
        scores = x[at] @ kernel + bias
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        share /= share.sum(1, keepdims=True)
        share[np.arange(len(at)), y[at]] -= 1.0
        share /= len(at)
        kernel -= rate * (x[at].T @ share)
        bias -= rate * share.sum(0)
    metrics = MetricRecord({"num-examples": len(x)})
    return Message(content=RecordDict({"arrays": ArrayRecord([kernel, bias]), "metrics": metrics}), reply_to=msg)
''',
    "app/server.py": """import time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    folder = Path()

    def aggregate_train(self, server_round, replies):
        made = super().aggregate_train(server_round, replies)
        arrays, _ = made
        if arrays is not None:
            np.savez(self.folder / "head.npz", *arrays.to_numpy_ndarrays())
        with open(self.folder / "closed", "a") as file:
            file.write(f"{time.time():.3f}\\n")
        return made


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    folder, clients = Path(config["folder"]), int(config["clients"])
    start = np.load(folder / "start.npz", allow_pickle=False)
    strategy = Timed(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
    )
    strategy.folder = folder
    arrays = ArrayRecord([start["kernel"], start["bias"]])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]), timeout=600)
""",
}


class Family:
    """A process with all that it started, now and later: processor seconds and memory.

    Attributes:
        peak_mb: highest memory of the family as far as :meth:`look` saw it, 10^6 bytes.
    """

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self.peak_mb = 0.0

    def pids(self) -> list[int]:
        """All that live."""
        found, left = [], list(self._roots)
        while left:
            pid = left.pop()
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())
                found.append(pid)
        return found

    def cpu_s(self) -> float:
        """Processor seconds of those that live, and of children that they have waited for."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def look(self) -> None:
        """See how much memory there is now."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
                total += int(found.group(1)) * 1024 if found else 0
        self.peak_mb = max(self.peak_mb, total / 1e6)


class CountingProxy:
    """Passes TCP connections on to a server, and counts what goes up and down."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.up = self.down = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends = [client, server]
            threading.Thread(target=self._pass, args=(client, server, True, ends), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False, ends), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool, ends: list[socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    if up:
                        self.up += len(data)
                    else:
                        self.down += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            ends.remove(source)
            done = not ends
        if done:
            source.close()
            sink.close()

    def counted(self) -> tuple[int, int]:
        """Bytes up and down until now."""
        with self._lock:
            return self.up, self.down

    def close(self) -> None:
        """Take no further connections."""
        self._server.close()


@contextlib.contextmanager
def program(log: Path, *words: str | Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, ended with all that it started."""
    with log.open("ab") as out:
        running = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **(env or {})},
        )  # fmt: skip
    family = Family(running.pid)
    try:
        yield running
    finally:
        there = family.pids()
        if running.poll() is None:
            running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(10)
        for pid in there:
            if pid != running.pid or running.poll() is None:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        running.wait()


def until(what: str, done: Callable[[], bool], log: Path, longest_s: float = 120.0) -> float:
    """Wait; returns for how long."""
    begin_s = time.monotonic()
    while not done():
        if time.monotonic() - begin_s > longest_s:
            said = log.read_text(errors="replace")[-1500:] if log.exists() else ""
            raise SystemExit(f"{what}: not within {longest_s:g} s\n{said}")
        time.sleep(0.02)
    return time.monotonic() - begin_s


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Watch:
    """What is measured of a run that goes on: between the close of the first round and that of the last."""

    def __init__(self, server: Family, clients: list[Family], proxy: CountingProxy) -> None:
        self._server, self._clients, self._proxy = server, clients, proxy
        self._looked_s = 0.0
        self._first: tuple[float, tuple[int, int]] | None = None

    def look(self, closed: int) -> None:
        """Called often, with the number of rounds that have closed."""
        if self._first is None and closed >= 1:
            self._first = self._server.cpu_s(), self._proxy.counted()
        if time.monotonic() - self._looked_s > 1.0:
            for client in (self._server, *self._clients):
                client.look()
            self._looked_s = time.monotonic()

    def row(self, closes: list[float], start_s: float) -> dict[str, Any]:
        """Figures when the last round has closed."""
        assert self._first is not None
        cpu_s, (up, down) = self._first
        updates = (len(closes) - 1) * len(self._clients)
        now_up, now_down = self._proxy.counted()
        return {
            "round_s": round(median(np.diff(closes).tolist()), 3),
            "server_cpu_s_per_update": round((self._server.cpu_s() - cpu_s) / updates, 4),
            "bytes_up": round((now_up - up) / updates),
            "bytes_down": round((now_down - down) / updates),
            "server_rss_mb": round(self._server.peak_mb, 1),
            "client_rss_mb": round(mean(client.peak_mb for client in self._clients), 1),
            "client_start_s": round(start_s, 2),
        }


def pictures(path: Path, count: int, classes: int, *, seed: int) -> Path:
    """Pictures uint8 [count, 8, 8, 1], each its class's own pattern under noise, and their labels."""
    patterns = np.random.default_rng(0).integers(0, 196, (classes, 8, 8, 1))
    random = np.random.default_rng(seed)
    y = (np.arange(count) % classes if count >= classes else random.integers(0, classes, count)).astype(np.int32)
    x = (patterns[y] + random.integers(0, 60, (count, 8, 8, 1))).astype(np.uint8)
    np.savez(path, x=x, y=y, is_test=np.zeros(count, bool))
    return path


def make_bundle(folder: Path, classes: int) -> Path:
    """A bundle whose head has ``WIDTH * classes + classes`` parameters."""
    folder.mkdir(parents=True)
    model, sample = folder / "model.keras", pictures(folder / "sample.npz", max(200, classes), classes, seed=1)
    convert = ["-m", "firmware_tools.cli", "convert", model, "--calibrate", sample, "--name", "wide"]
    convert += ["--batch-size", BATCH, "--min-agreement", "0", "-o", folder / "bundle"]
    for command in (["-c", _MAKE_MODEL, model, WIDTH, classes], convert):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"no bundle: {(done.stderr.strip().splitlines() or ['?'])[-1][:300]}")
    return folder / "bundle"


def embedded(bundle: Bundle, data: Path, out: Path) -> Path:
    """The same examples as the head sees them: what Flower's clients train on."""
    given, spec = np.load(data, allow_pickle=False), bundle.manifest.backbone
    integers = Backbone(bundle).embed(given["x"])
    x = (integers.astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
    middle, scale = bundle.feature_affine()
    np.savez(out, x=(x - middle) * scale, y=given["y"], batch=BATCH, rate=RATE)
    return out


def two_arrays(head: Tree) -> tuple[Any, Any]:
    """Kernel [width, classes] and bias [classes] of a head of one dense layer."""
    bias, kernel = sorted(head.values(), key=lambda array: array.ndim)
    return kernel, bias


def loss_of(kernel: Any, bias: Any, folder: Path, clients: int) -> float:
    """Mean cross-entropy over the examples of all clients."""
    found = []
    for at in range(clients):
        data = np.load(folder / f"embedded-{at}.npz", allow_pickle=False)
        scores = data["x"] @ kernel + bias
        scores -= scores.max(1, keepdims=True)
        found.append(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), data["y"]])
    return round(float(np.mean(found)), 4)


def flower_environment(folder: Path, version: str) -> Path:
    """An environment with Flower in it; made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"flwr=={version}"], check=True)
    return folder


def flower(folder: Path, made: Path, environment: Path, clients: int, rounds: int) -> dict[str, Any]:
    """One run of Flower; ``made`` holds start.npz and what each client trains on."""
    app, home = folder / "app", folder / "home"
    home.mkdir(parents=True)
    for name, text in _APP.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    shutil.copy(made / "start.npz", folder / "start.npz")
    port = free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    # Its programs look for each other, and for uv, by name.
    env = {
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    env |= {"PYTHONPATH": "", "NO_COLOR": "1"}
    log = folder / "superlink.log"
    with contextlib.ExitStack() as stack:
        link = ["flower-superlink", "--insecure", "--port", str(port), "--disable-runtime-dependency-installation"]
        server = stack.enter_context(program(log, environment / "bin" / link[0], *link[1:], env=env))
        until("the SuperLink listens", lambda: answers(port), log)
        proxy = CountingProxy(port)
        stack.callback(proxy.close)

        def start(at: int) -> Family:
            node = ["--insecure", "--superlink", f"127.0.0.1:{proxy.port}", "--port", str(free_port()), "--node-config"]
            given = f"data='{made / f'embedded-{at}.npz'}' seed={at}"
            command = environment / "bin" / "flower-supernode"
            return Family(stack.enter_context(program(folder / f"node-{at}.log", command, *node, given, env=env)).pid)

        def known() -> int:
            return len(re.findall(r"\[Fleet\.(?:ActivateNode|CreateNode)\]", log.read_text(errors="replace")))

        families = [start(0)]
        start_s = until("the first SuperNode is known", lambda: known() >= 1, log)
        families += [start(at) for at in range(1, clients)]
        until("all SuperNodes are known", lambda: known() >= clients, log)
        run = ["run", app, "here", "--run-config", f"rounds={rounds} clients={clients} folder='{folder}'"]
        stack.enter_context(program(folder / "run.log", environment / "bin" / "flwr", *run, env=env))
        watch = Watch(Family(server.pid), families, proxy)
        closes = followed(watch, lambda: times(folder / "closed"), rounds, log)
        row = watch.row(closes, start_s)
    head = np.load(folder / "head.npz", allow_pickle=False)
    return row | {"loss": loss_of(head["arr_0"], head["arr_1"], made, clients)}


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def times(path: Path) -> list[float]:
    """When rounds closed, as a server wrote it down line by line."""
    return [float(part) for part in path.read_text().split()] if path.exists() else []


def followed(watch: Watch, closes: Callable[[], list[float]], rounds: int, log: Path) -> list[float]:
    """Watch a run until its last round has closed; returns when each did."""

    def look() -> bool:
        there = len(closes())
        watch.look(there)
        return there >= rounds

    until(f"{rounds} rounds have closed", look, log, LONGEST_S)
    return closes()


def edgejoule(folder: Path, made: Path, clients: int, rounds: int) -> dict[str, Any]:
    """The same run of ours."""
    folder.mkdir(parents=True)
    log, ready, env = folder / "coordinator.log", folder / "ready", {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        serve = ["-m", "coordinator.cli", "serve", "--state", folder / "state", "--listen", "127.0.0.1:0"]
        server = stack.enter_context(program(log, sys.executable, *serve, "--ready-file", ready, env=env))
        until("the coordinator listens", ready.exists, log)
        address = ready.read_text().strip()
        operator = stack.enter_context(Operator(address))
        proxy = CountingProxy(int(address.rpartition(":")[2]))
        stack.callback(proxy.close)

        def start(at: int) -> Family:
            words = ["-m", "edge_runtime.cli", "run", "--coordinator", f"127.0.0.1:{proxy.port}", "--device-id"]
            words += [f"client-{at}", "--data", str(made / f"data-{at}.npz"), "--state", str(folder / f"client-{at}")]
            # A workstation's heat is not what is measured here.
            words += ["--pause-above", "0"]
            return Family(
                stack.enter_context(program(folder / f"client-{at}.log", sys.executable, *words, env=env)).pid
            )

        families = [start(0)]
        start_s = until("the first client is known", lambda: len(operator.devices()) >= 1, log)
        families += [start(at) for at in range(1, clients)]
        until("all clients are known", lambda: len(operator.devices()) >= clients, log)
        plan = (
            f'[run]\nbundle = "{made / "bundle"}"\nname = "side-by-side"\nrounds = {rounds}\ndeliver = "none"\n'
            f"[round]\ndevices = {clients}\nquorum = 1.0\n[train]\nepochs = 1\nrate = {RATE}\n"
        )
        run_id = operator.start_run(plan, folder)
        watch = Watch(Family(server.pid), families, proxy)

        def closed() -> list[float]:
            # Of its log, as of Flower's: asking would be work of the server.
            said = re.findall(r"round \d+ closed with ", log.read_text(errors="replace"))
            if len(said) > len(seen):
                seen.extend([time.time()] * (len(said) - len(seen)))
            return seen

        seen: list[float] = []
        followed(watch, closed, rounds, log)
        row = watch.row(seen, start_s)
        until("the run has ended", lambda: operator.status(run_id)[0].is_over, log)
        (status,) = operator.status(run_id)
        exact = [
            this_round.closed_unix_s
            for this_round in status.rounds
            if this_round.round and this_round.closed_unix_s is not None
        ]
        row["round_s"] = round(median(np.diff(exact).tolist()), 3)
        version = status.rounds[-1].head_version
    database = Database(sqlite_url(folder / "state" / "coordinator.db"))
    try:
        with database.reading() as connection:
            head = heads.get(connection, version)
    finally:
        database.close()
    return row | {"loss": loss_of(*two_arrays(head), made, clients)}


def prepare(folder: Path, size: str, clients: int) -> Path:
    """What both train: a bundle, each client's pictures and embeddings, and the head that the run starts from."""
    bundle = open_bundle(make_bundle(folder, CLASSES[size]))
    for at in range(clients):
        data = pictures(folder / f"data-{at}.npz", EXAMPLES, CLASSES[size], seed=10 + at)
        embedded(bundle, data, folder / f"embedded-{at}.npz")
    kernel, bias = two_arrays(bundle.initial_head())
    np.savez(folder / "start.npz", kernel=kernel, bias=bias)
    return folder


def _cases(parser: argparse.ArgumentParser, text: str) -> list[tuple[str, int]]:
    cases = []
    for case in text.split(","):
        size, _, clients = case.partition(":")
        if size not in CLASSES or not clients.isdecimal() or not int(clients):
            parser.error(f"--cases: {case!r} is not one of {', '.join(CLASSES)}, a colon and a number of clients")
        cases.append((size, int(clients)))
    return cases


def main() -> int:
    """The command: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10k parameters and 2 clients alone")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--cases",
        default=CASES,
        metavar="SIZE:CLIENTS,...",
        help="10k, 1M or 10M parameters (default: %(default)s)",
    )
    parser.add_argument("--only", choices=("flower", "edgejoule"), help="one of the two")
    parser.add_argument("--version", default=VERSION, help=f"of Flower (default: {VERSION})")
    parser.add_argument(
        "--environment", type=Path, default=Path(tempfile.gettempdir()) / "edgejoule-flower",
        help="folder of Flower's environment; made where there is none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="OUT")
    chosen = parser.parse_args()
    environment = flower_environment(chosen.environment.resolve(), chosen.version)
    cases = _cases(parser, "10k:2" if chosen.quick else chosen.cases)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="against-flower-") as name:
        folder = Path(name)
        most = max(clients for _, clients in cases)
        made = {size: prepare(folder / size, size, most) for size in dict.fromkeys(size for size, _ in cases)}
        for size, clients in cases:
            for system in ("flower", "edgejoule"):
                if chosen.only not in (None, system):
                    continue
                at = folder / f"{system}-{size}-{clients}"
                found = (
                    flower(at, made[size], environment, clients, chosen.rounds)
                    if system == "flower"
                    else edgejoule(at, made[size], clients, chosen.rounds)
                )
                params = (WIDTH + 1) * CLASSES[size]
                rows.append({"system": system, "clients": clients, "params": params, **found})
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
                if chosen.json:
                    chosen.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
