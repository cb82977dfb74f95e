"""All that a device holds while it runs: state folder, data, meter, engine, and the bundle it works on.

Opening it needs no coordinator; what is wrong with the machine, the data or the bundle is said here.
"""

from __future__ import annotations

import contextlib
import uuid

from edge_runtime.board import board_name, software_version
from edge_runtime.config import Settings
from edge_runtime.daemon.bundles import Shelf
from edge_runtime.daemon.outbox import Outbox
from edge_runtime.power.clock import Clock, SystemClock
from edge_runtime.power.meter import Meter
from edge_runtime.power.opening import open_meter
from edge_runtime.round.accelerator import Accelerator, TwinWork
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import CostHistory, Reserve
from edge_runtime.round.embeddings import EmbeddingCache
from edge_runtime.round.examples import LocalExamples, Summary
from edge_runtime.round.heads import HeldHeads
from edge_runtime.round.work import Workbench
from edge_runtime.state import StateFolder
from edge_runtime.systemd.logging_setup import log
from protos.errors import ConfigError, RefusedError
from protos.model.bundle import Bundle
from protos.model.edge_tpu import EdgeTpuError
from protos.model.engine import engine_identity
from protos.model.head import Head
from protos.orders import DeviceCard, Engine, MeterCard


class Device:
    """An opened device; :meth:`close` gives everything back.

    Raises:
        ConfigError: no data is named.
        RefusedError: another daemon uses the state folder; the engine runs on other kernels than required; an Edge TPU
        is required and does not work.
        StoreError, DataError, ShapeError, LabelError, NonFiniteError, EmptyShardError, ModelError, IntegrityError,
        SensorError: what cannot be used, and why.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None, meter: Meter | None = None) -> None:
        if settings.data is None:
            raise ConfigError("no data is named", where="data", fix="give --data FILE.npz, or a folder of images")
        self.settings = settings
        self.clock = clock or SystemClock()
        self.session = uuid.uuid4().hex
        self.state = StateFolder(settings.state)
        try:
            self.engine = engine_identity()
            self._check_delegate()
            self.accelerator = Accelerator.of(settings)
            self.accelerator.look()
            self.outbox = Outbox(self.state.folder("outbox"))
            self.heads = HeldHeads(self.state.folder("heads"))
            self.memory = CodecMemory(self.state.folder("memory"))
            self.shelf = Shelf(self.state.path, self.engine)
            self.examples = LocalExamples(
                settings.data, settings.shard, self.state.folder("examples"), rename=settings.rename
            )
            self.costs = CostHistory(self.state.path / "costs.json")
            self.reserve = Reserve(self.costs)
            self.bench: Workbench | None = None
            bundle = self.shelf.adopt(settings.bundle) if settings.bundle else None
            self.summary = self._first_summary(bundle)
            self.meter = meter or open_meter(settings.sensor, clock=self.clock)
        except BaseException:
            self.state.close()
            raise
        self.meter.start()
        if bundle is not None:
            try:
                self.take_up(bundle)
            except BaseException:
                self.close()
                raise

    def _check_delegate(self) -> None:
        wanted, found = self.settings.require_delegate, self.engine.delegate
        if wanted is not None and found != wanted:
            raise RefusedError(
                f"the engine runs with {found} kernels, and {wanted} is required",
                where="require_delegate",
                fix="let the process read /proc/cpuinfo (systemd: no ProcSubset=pid), or do not require it",
            )

    def _first_summary(self, bundle: Bundle | None) -> Summary:
        """Data is checked against the bundle that the user names, else for itself."""
        if bundle is not None:
            return self.examples.summary(bundle)
        # What an earlier run left here may not fit today's data; only the order decides which bundle counts.
        if (newest := self.shelf.newest()) is not None:
            with contextlib.suppress(ValueError):
                return self.examples.summary(newest)
        summary = self.examples.summary(None)
        self.examples.release()
        return summary

    def card(self) -> DeviceCard:
        """Who this is, for joining."""
        meter = self.meter.identity
        return DeviceCard(
            device_id=self.settings.device_id,
            session=self.session,
            software_version=software_version(),
            board=self.settings.board or board_name(),
            engine=self._engine(self.accelerator.name),
            meter=MeterCard(meter.method, meter.sensor, meter.calibration_id, meter.quality),
            train_examples=self.summary.train_count,
            test_examples=self.summary.test_count,
            budget_j=self.settings.budget_j,
        )

    def _engine(self, accelerator: str = "") -> Engine:
        return Engine(self.engine.name, self.engine.version, self.engine.delegate, accelerator)

    @property
    def backbone_engine(self) -> Engine:
        """What runs the backbone; before there is a bundle, what would run a twin."""
        return self.bench.engine if self.bench is not None else self._engine(self.accelerator.name)

    def take_up(self, bundle: Bundle) -> Workbench:
        """Make ``bundle`` the one to work on.

        Raises:
            ShapeError, LabelError, DataError, ...: the data does not fit it; ModelError: it does not load;
            RefusedError: an Edge TPU is required, and cannot run it.
        """
        if self.bench is not None and self.bench.bundle.bundle_id == bundle.bundle_id:
            return self.bench
        self.bench = None
        self.summary = self.examples.summary(bundle)
        self._say_account()
        twin = self._twin_work(bundle) if self.accelerator.takes(bundle) else None
        cache = self._cache(bundle, twin=twin is not None)
        if cache.complete:
            self.examples.release()
        if cache.rows:
            log().info("%d of %d embeddings are cached", cache.rows, cache.count)
        self.reserve = Reserve(self.costs, bundle.bundle_id)
        self.bench = Workbench(
            device_id=self.settings.device_id,
            bundle=bundle,
            head=Head(bundle),
            examples=self.examples,
            summary=self.summary,
            cache=cache,
            engine=self._engine(self.accelerator.name if twin is not None else ""),
            meter=self.meter,
            reserve=self.reserve,
            clock=self.clock,
            heads=self.heads,
            memory=self.memory,
            budget_j=self.settings.budget_j,
            threads=self.settings.threads,
            twin=twin,
        )
        return self.bench

    def _say_account(self) -> None:
        say = log().warning if self.summary.left_out or self.summary.changed else log().info
        say("data: %s", self.summary.account)
        if self.summary.unlike:
            log().warning("%s: %s", self.summary.source, self.summary.unlike)

    def _cache(self, bundle: Bundle, *, twin: bool) -> EmbeddingCache:
        """Embeddings of either engine: their bits may differ, and are never mixed."""
        engine = f"{self._engine(self.accelerator.name)} {self.accelerator.identity}" if twin else str(self.engine)
        root, summary = self.state.folder("embeddings"), self.summary
        return EmbeddingCache(root, bundle, summary.fingerprint, summary.train_count, engine, twin=twin)

    def _twin_work(self, bundle: Bundle) -> TwinWork:
        def lost(error: EdgeTpuError) -> tuple[EmbeddingCache, Engine]:
            try:
                self.accelerator.lost(error)
            except RefusedError:
                # The next order finds out in a child process whether it works again.
                self.bench = None
                raise
            return self._cache(bundle, twin=False), self._engine()

        return TwinWork(self.accelerator.edge_tpu, lost)

    def close(self) -> None:
        """Give the sensor and the state folder back."""
        self.meter.close()
        self.state.close()
