"""The exact engine with its boards at work on a Ray cluster (extra ``ray``), several at once, for the same bits.

What a board does with an order depends on the order, on when it begins, and on the state of the board, which are known
as soon as the order is on its way: these three are the arguments of a task, and report and state after it are its
result. So nothing lives on the cluster. A task whose worker or node is lost is done again elsewhere by Ray, and gives
the same; virtual time waits for results in the order in which boards begin, whoever is quicker.

Bundle, embeddings, labels and settings are put into the object store once, and unpacked once by each worker process.
Nodes need the same edgejoule and runtime as the driver, since other kernels may give other last bits: a node with
another runtime ends the simulation in words.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.simulation.devices import BoardState, EngineError, Shared, VirtualBoard
from coordinator.simulation.fleet import FleetSettings, board_of
from coordinator.simulation.metering import MeterState
from protos.convert.orders import order_from, order_to
from protos.errors import EdgejouleError, UsageError
from protos.extras import missing
from protos.file_lock import lock
from protos.model.bundle import open_bundle
from protos.model.engine import engine_identity
from protos.model.head import Head
from protos.orders import DeviceReport, Engine, TrainOrder
from protos.update import trees
from protos.v1 import edgejoule_pb2 as pb

# How often a task is begun anew when its worker is lost. One that takes its worker with it every time must end, too.
_AGAIN = 5
# Of a worker's folder, and of the file in it that the worker holds while it lives.
_PREFIX, _HELD = "edgejoule-ray-", "held"
_PATIENCE_S = 10.0


class ClusterError(EngineError):
    """The cluster cannot be reached, or lost a task too often."""

    exit_code = 5


@dataclass(frozen=True)
class _Fleet:
    """What every worker needs: files of the bundle by name, examples, who has which, settings."""

    key: str
    engine: Engine
    files: dict[str, bytes]
    embeddings: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    source: str
    parts: Sequence[npt.NDArray[np.int64]]
    settings: FleetSettings


@dataclass(frozen=True)
class _Done:
    """What a task gives back: the report or what was raised, where the meter stood when it began, the state after."""

    report: DeviceReport | None
    raised: EdgejouleError | None
    before: MeterState
    state: BoardState


class _Workshop:
    """A fleet as one worker process has it: the bundle unpacked, its head compiled, boards made when they are asked
    for."""

    def __init__(self, fleet: _Fleet) -> None:
        one = engine_identity()
        engine = Engine(one.name, one.version, one.delegate)
        if engine != fleet.engine:
            raise EngineError(
                f"a node runs {engine}, and this machine {fleet.engine}: bits may differ",
                where="ray", fix="install the same edgejoule and ai-edge-litert on every node",
            )  # fmt: skip
        self.key = fleet.key
        self._fleet = fleet
        sweep()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{fleet.key[:12]}-")
        home = Path(self._folder.name)
        # It dies with this process, however that ends: who finds the folder then may take it away. No file of that name
        # is ever there without its lock.
        self._held = os.open(home / "new", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            lock(self._held)
            os.replace(home / "new", home / _HELD)
            for name, data in fleet.files.items():
                path = home / "bundle" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            bundle = open_bundle(home / "bundle")
            self._shared = Shared(bundle, Head(bundle), engine, fleet.embeddings, fleet.labels, fleet.source)
            self._coordinates = trees.coordinates(bundle.initial_head())
        except BaseException:
            self.close()
            raise
        self._boards: dict[int, VirtualBoard] = {}

    def board(self, index: int) -> VirtualBoard:
        """The copy of a board here."""
        if index not in self._boards:
            self._boards[index] = board_of(
                self._fleet.settings, self._shared, index, self._fleet.parts[index], self._coordinates,
                Path(self._folder.name) / "devices", lambda: 0.0,
            )  # fmt: skip
        return self._boards[index]

    def close(self) -> None:
        """Give the disk back."""
        self._folder.cleanup()
        os.close(self._held)


def opened(fleet: _Fleet) -> _Workshop:
    """The fleet in this process.

    Raises:
        EngineError: this node cannot work, which is no fault of any board.
    """
    try:
        return _Workshop(fleet)
    except EngineError:
        raise
    except (EdgejouleError, OSError) as error:
        raise EngineError(
            f"a node cannot open the fleet: {error}", where="ray", fix="look at that node's disk and installation"
        ) from error


def sweep(key: str = "", patience_s: float = 0.0) -> None:
    """Take away the folders of worker processes on this machine that are gone.

    Args:
        key: only those of this fleet; empty: of any.
        patience_s: wait so long at most for those that are about to end.
    """
    end_s = time.monotonic() + patience_s
    while True:
        left = [path for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{key[:12]}*") if not _taken_away(path)]
        if not left or time.monotonic() >= end_s:
            return
        time.sleep(0.05)


def _taken_away(folder: Path) -> bool:
    """Whether a folder is gone; one that a process holds stays."""
    try:
        handle = os.open(folder / _HELD, os.O_RDWR)
    except FileNotFoundError:
        # Just made, and not held yet; or being taken away by its owner.
        return not folder.exists()
    except OSError:
        # Somebody else's.
        return False
    try:
        lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


_here: _Workshop | None = None


def _work(handle: list[Any], key: str, index: int, state: BoardState, order: bytes, rest: tuple[float, float]) -> _Done:
    """Do one order of one board, in a worker process.

    Args:
        handle: of the fleet in the object store, in a list, so that it is fetched once a process.
        order: serialised.
        rest: seconds of its deadline that are left, and when it begins.
    """
    global _here
    if _here is None or _here.key != key:
        import ray

        if _here is not None:
            atexit.unregister(_here.close)
            _here.close()
            _here = None
        try:
            _here = opened(ray.get(handle[0]))
            atexit.register(_here.close)
        except EngineError as error:
            return _Done(None, error, state.meter, state)
    board = _here.board(index)
    board.take(state)
    read = order_from(pb.NextOrderResponse.FromString(order))
    assert isinstance(read, TrainOrder)
    try:
        before, report = board.works_from(replace(read, deadline_s=rest[0]), rest[1])
    except EdgejouleError as error:
        return _Done(None, error, state.meter, board.state())
    return _Done(report, None, before, board.state())


class RayBoard(VirtualBoard):
    """A board whose orders are done on the cluster."""

    def __init__(self, cluster: Cluster, index: int, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._cluster, self._index = cluster, index
        self._task: Any = None

    def begins(self, order: TrainOrder, begun_s: float) -> None:
        self._task = self._cluster.begin(self._index, self.state(), order, begun_s)

    def works_from(self, order: TrainOrder, begun_s: float) -> tuple[MeterState, DeviceReport]:
        done, self._task = self._cluster.result(self._task), None
        self.take(done.state)
        if done.raised is not None:
            raise done.raised
        assert done.report is not None
        return done.before, done.report


class Cluster:
    """A connection to Ray, and one fleet in its object store; see :func:`on_ray`."""

    def __init__(self, ray: Any, fleet: _Fleet) -> None:
        self._ray, self.key = ray, fleet.key
        self._fleet = ray.put(fleet)
        self._work = ray.remote(max_retries=_AGAIN, num_cpus=1)(_work)
        self._open: set[Any] = set()
        self._made = 0

    def board(self, *args: Any, **more: Any) -> RayBoard:
        """The next board of the fleet, in order."""
        self._made += 1
        return RayBoard(self, self._made - 1, *args, **more)

    def begin(self, index: int, state: BoardState, order: TrainOrder, begun_s: float) -> Any:
        """Let an order be done from ``begun_s`` on; returns the task."""
        rest = (order.deadline_s, begun_s)
        task = self._work.remote([self._fleet], self.key, index, state, order_to(order).SerializeToString(), rest)
        self._open.add(task)
        return task

    def result(self, task: Any) -> _Done:
        """Wait for a task.

        Raises:
            ClusterError: its worker was lost again and again, or the cluster is gone.
        """
        self._open.discard(task)
        try:
            found: _Done = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            # A mistake in our own code, which has its own traceback.
            raise error.as_instanceof_cause() from None
        except self._ray.exceptions.RayError as error:
            raise ClusterError(
                f"the cluster did not do an order ({type(error).__name__}), begun up to {1 + _AGAIN} times",
                where="ray", fix="look at `ray status` and the memory of its nodes, or take --engine exact",
            ) from error  # fmt: skip
        return found

    def close(self) -> None:
        """Let nothing go on that nobody waits for."""
        for task in self._open:
            with contextlib.suppress(Exception):
                self._ray.cancel(task)
        self._open.clear()
        self._fleet = None


@contextlib.contextmanager
def on_ray(
    settings: FleetSettings, shared: Shared, parts: Sequence[npt.NDArray[np.int64]], say: Callable[[str], None]
) -> Iterator[Cluster]:
    """A cluster with the fleet in its store. One that the caller has joined is taken (``ray.init``), then that of
    RAY_ADDRESS; else one is begun on this machine, and ended afterwards. However it ends, open tasks are cancelled.

    Raises:
        UsageError: Ray is not installed.
        ClusterError: nothing answers at RAY_ADDRESS.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing("ray") from error
    mine = not ray.is_initialized()
    if mine:
        address = os.environ.get("RAY_ADDRESS")
        # A simulation tells nobody that it ran.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not address:
            # Workers of a cluster of its own are as polite as the simulation itself: at Ray's 15 they wait for every
            # other program, and the simulation for them.
            os.environ.setdefault("RAY_worker_niceness", "0")
        more: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **more)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ClusterError(
                f"cannot be reached ({reason})", where=address or "ray", fix="check RAY_ADDRESS, or leave it out"
            ) from error
    cluster: Cluster | None = None
    try:
        processors = int(ray.cluster_resources().get("CPU", 0))
        if not processors:
            raise UsageError("the cluster has no processors", where="ray", fix="give a node --num-cpus")
        say(f"{len(ray.nodes())} node(s) with {processors} processors")
        bundle = shared.bundle
        files = {
            str(path.relative_to(bundle.path)): path.read_bytes()
            for path in sorted(bundle.path.rglob("*"))
            if path.is_file()
        }
        embeddings = np.ascontiguousarray(shared.embeddings)
        fleet = _Fleet(
            uuid.uuid4().hex, shared.engine, files, embeddings, shared.labels, shared.source, list(parts), settings
        )
        cluster = Cluster(ray, fleet)
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()
        if mine:
            ray.shutdown()
            # Its workers are killed, and give nothing back themselves. Those of a cluster that goes on are swept up by
            # whoever works on that node next.
            if cluster is not None:
                sweep(cluster.key, _PATIENCE_S)
