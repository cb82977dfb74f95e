"""All that a device holds while it runs: state folder, data, meter, engine, and the bundle it works on.

Opening it needs no coordinator, no sensor and no data: what is not there yet, or is in no order, is waited for, and
said on the card. What is wrong with the machine or the settings is an error here.
"""

from __future__ import annotations

import contextlib
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.board import board_name, software_version
from edge_runtime.config import Settings
from edge_runtime.daemon.bundle_cache import BundleCache
from edge_runtime.daemon.outbox import Outbox
from edge_runtime.data.store import ExampleStore
from edge_runtime.machine_identity import machine_hash, take_instance
from edge_runtime.model.gate import Gate
from edge_runtime.model.service import ModelService
from edge_runtime.power.clock import Clock, SystemClock
from edge_runtime.power.meters.late_meter import LateMeter
from edge_runtime.power.meters.meter import Meter
from edge_runtime.power.meters.shared_meter import SharedMeter
from edge_runtime.power.sensor_factory import open_meter_late
from edge_runtime.round.accelerator import Accelerator, TwinWork
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import CostHistory, Reserve
from edge_runtime.round.evaluation import HeldOut
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.inputs.embeddings import EmbeddingCache
from edge_runtime.round.inputs.examples import LocalExamples, Summary
from edge_runtime.round.training_basis import HeldBasis
from edge_runtime.round.work import Workbench
from edge_runtime.state import StateFolder
from edge_runtime.systemd.logging_setup import log
from protos.convert.energy import without_folder
from protos.datafiles.formats.collected import is_store
from protos.errors import (
    ConfigError,
    DataError,
    EdgejouleError,
    EmptyShardError,
    LabelError,
    NonFiniteError,
    RefusedError,
    ShapeError,
    StoreError,
    UsageError,
)
from protos.model.bundle import Bundle
from protos.model.edge_tpu import EdgeTpuError
from protos.model.engine import engine_identity
from protos.model.head import Head
from protos.model.task import CLASSIFICATION
from protos.orders import DeviceCard, Engine, MeterCard

# What is wrong with data. It may be mended while the daemon runs.
DATA_FAULTS = (DataError, EmptyShardError, LabelError, NonFiniteError, ShapeError)
_NO_DATA = Summary(np.zeros(0, np.int32), (), 0, "", "")


class Device:
    """An opened device; :meth:`close` gives everything back.

    Raises:
        ConfigError: no data is named.
        RefusedError: another daemon uses the state folder; the engine runs on other kernels than required; an Edge TPU
        is required and does not work.
        UsageError: a shard or sensor that cannot be understood.
        StoreError, ModelError, IntegrityError: what cannot be used, and why.

    Attributes:
        summary: of the data as they were when they could last be used; without examples before.
        data_fault: why the data cannot be used now, or None.
        refused_head: why the newest head of a run may not come to work here, or "".
        store_fault: why the store of own examples cannot be kept in order, or "".
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None, meter: Meter | None = None) -> None:
        if settings.data is None:
            raise ConfigError("no data is named", where="data", fix="give --data FILE.npz, or a folder of images")
        self.settings = settings
        self.clock = clock or SystemClock()
        self.session = uuid.uuid4().hex
        # Asked once: the card is compared with what was told every second.
        self._board, self._version = settings.board or board_name(), software_version()
        self.state = StateFolder(settings.state)
        try:
            self.engine = engine_identity()
            self._check_delegate()
            self.accelerator = Accelerator.of(settings)
            self.accelerator.look()
            self.outbox = Outbox(self.state.folder("outbox"))
            self.heads = HeldHeads(self.state.folder("heads"))
            self.bases = HeldBasis(self.state.folder("bases"))
            self.memory = CodecMemory(self.state.folder("memory"))
            self.bundle_cache = BundleCache(self.state.path, self.engine)
            self.instance = self._take_instance()
            self.examples = LocalExamples(
                settings.data,
                settings.shard,
                self.state.folder("examples"),
                rename=settings.rename,
                bad_share=settings.bad_examples_percent / 100,
            )
            self.costs = CostHistory(self.state.path / "costs.json")
            self.reserve = Reserve(self.costs)
            self.bench: Workbench | None = None
            bundle = self.bundle_cache.adopt(settings.bundle) if settings.bundle else None
            self.summary, self._stamp = _NO_DATA, ""
            self.data_fault: EdgejouleError | None = None
            self.refused_head = ""
            self.store_fault = ""
            self._looked = False
            self._own_store: ExampleStore | None = None
            self.look_at_data(bundle)
            self.meter: Meter = meter or SharedMeter(open_meter_late(settings.sensor, clock=self.clock))
            self.gate = Gate()
            self.model = ModelService(
                self.state.path,
                self.gate,
                self.meter if isinstance(self.meter, SharedMeter) else None,
                threads=settings.threads,
                intake=self._store(settings.data),
            )
        except BaseException:
            self.state.close()
            raise
        self.meter.start()
        if bundle is not None and self.data_fault is None:
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

    def _take_instance(self) -> str:
        found = take_instance(self.state.path, machine_hash(self.settings.machine_root))
        if found.copied:
            log().warning("%s came from another machine: what codecs owe stays with that one", self.state.path)
            for path in self.state.folder("memory").iterdir():
                path.unlink(missing_ok=True)
        return found.name

    def look_at_data(self, bundle: Bundle | None = None) -> None:
        """Look at the data, for the first time or again. :attr:`data_fault` says what is wrong with them.

        Args:
            bundle: that the user named, if there is one.

        Raises:
            UsageError: at the first look, a shard that cannot be understood; later it is a fault of the data.
        """
        self.bench = None
        self.examples.release()
        before = self.data_fault
        try:
            self._stamp = ""
            self._stamp = self.examples.stamp()
            self.summary = self._first_summary(bundle)
            self.data_fault = None
        except (*DATA_FAULTS, UsageError) as error:
            if isinstance(error, UsageError) and not self._looked:
                raise
            self.data_fault = error
            if str(error) != str(before):
                log().error("%s; the data are waited for", error)
        self._looked = True

    @staticmethod
    def _store(data: str) -> ExampleStore | None:
        """The store of examples, where `data` names one, or a folder that is to become one."""
        folder = Path(data).expanduser()
        return ExampleStore(folder) if is_store(folder) else None

    def take_inbox(self) -> None:
        """Take up what was put into the store's inbox, and let go of what is beyond its bounds."""
        store = self._own_store = self._own_store or self._store(self.settings.data or "")
        if store is None:
            return
        before, fault = store.unread, self.store_fault
        try:
            if taken := store.take_inbox():
                log().info("%d examples were taken from the inbox", taken)
            if store.unread and store.unread != before:
                log().warning("%d files of the inbox cannot be read: %s", len(store.unread), store.unread[0])
            store.trim()
            self.store_fault = ""
        except (*DATA_FAULTS, StoreError, RefusedError) as error:
            # A disk that is full or was made read-only: what is there is trained on.
            self.store_fault = f"the store of examples cannot be kept in order now: {error}"
            if self.store_fault != fault:
                log().warning("%s", self.store_fault)

    def hold_store(self) -> Callable[[], None]:
        """Let nobody change the store of own examples, where there is one, until what is returned is called."""
        if self._own_store is not None:
            with contextlib.suppress(StoreError, RefusedError):
                return self._own_store.hold()
        return lambda: None

    def forget_data(self) -> None:
        """What is known of the data counts no more; :meth:`take_up` looks at them again."""
        self.bench = None
        self.examples.release()
        with contextlib.suppress(*DATA_FAULTS):
            self._stamp = self.examples.stamp()

    def data_changed(self) -> bool:
        """Whether the data may be others than when they were last looked at. Costs one stat a file."""
        try:
            return self.examples.stamp() != self._stamp
        except DATA_FAULTS:
            return self._stamp != ""

    def refresh(self) -> None:
        """Between two rounds: take up a sensor that has come, notice one that has gone."""
        if self.late is not None:
            self.late.refresh()

    @property
    def late(self) -> LateMeter | None:
        """The meter, where its sensor may come and go."""
        inner = self.meter.inner if isinstance(self.meter, SharedMeter) else self.meter
        return inner if isinstance(inner, LateMeter) else None

    @property
    def complaints(self) -> tuple[str, ...]:
        """What is not as it should be, each in one line."""
        data = str(self.data_fault) if self.data_fault is not None else self.summary.complaint
        sensor = self.late.trouble if self.late is not None else ""
        return tuple(one for one in (data, self.store_fault, sensor, self.refused_head) if one)

    def _first_summary(self, bundle: Bundle | None) -> Summary:
        """Data is checked against the bundle that the user names, else for itself."""
        if bundle is not None:
            return self.examples.summary(bundle)
        # What an earlier run left here may not fit today's data; only the order decides which bundle counts.
        if not self.examples.costs_a_look and (newest := self.bundle_cache.newest()) is not None:
            with contextlib.suppress(ValueError):
                return self.examples.summary(newest)
        summary = self.examples.summary(None)
        self.examples.release()
        return summary

    def card(self) -> DeviceCard:
        """Who this is, for joining."""
        return DeviceCard(
            device_id=self.settings.device_id,
            session=self.session,
            software_version=self._version,
            board=self._board,
            engine=self._engine(self.accelerator.name),
            meter=self.meter_card(),
            train_examples=0 if self.data_fault is not None else self.summary.train_count,
            test_examples=0 if self.data_fault is not None else self.summary.test_count,
            budget_j=self.settings.budget_j,
            reason="; ".join(self.complaints),
            instance=self.instance,
            account="" if self.data_fault is not None else self.summary.account,
        )

    def meter_card(self) -> MeterCard:
        """What measures here, for joining, with an id for reports: another one whenever anything of it changes."""
        meter = self.meter.identity
        parts = (meter.method, without_folder(meter.sensor), meter.calibration_id, meter.quality)
        return MeterCard(*parts, zlib.crc32("\0".join(parts).encode()) or 1)

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
        self.data_fault = None
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
            bases=self.bases,
            budget_j=self.settings.budget_j,
            threads=self.settings.threads,
            twin=twin,
            held_out=self._held_out(bundle, twin=twin is not None),
            balanced=self.settings.class_weights == "balanced",
            gate=self.gate,
        )
        return self.bench

    def _say_account(self) -> None:
        summary = self.summary
        say = log().warning if summary.left_out or summary.changed or summary.set_aside else log().info
        say("data: %s", self.summary.account)
        if self.summary.unlike:
            log().warning("%s: %s", self.summary.source, self.summary.unlike)

    def _cache(self, bundle: Bundle, *, twin: bool) -> EmbeddingCache:
        """Embeddings of either engine: their bits may differ, and are never mixed."""
        engine = f"{self._engine(self.accelerator.name)} {self.accelerator.identity}" if twin else str(self.engine)
        root, summary = self.state.folder("embeddings"), self.summary
        return EmbeddingCache(root, bundle, summary.fingerprint, summary.train_count, engine, twin=twin)

    def _held_out(self, bundle: Bundle, *, twin: bool) -> HeldOut | None:
        """The held-out examples of this board, embedded as the others are; None when it has none, or the head is no
        classifier: what boards say of heads is counted by class."""
        summary, labels = self.summary, self.summary.test_labels
        if not len(labels) or bundle.manifest.task != CLASSIFICATION:
            return None
        engine = f"{self._engine(self.accelerator.name)} {self.accelerator.identity}" if twin else str(self.engine)
        root = self.state.folder("embeddings")
        return HeldOut(labels, EmbeddingCache(root, bundle, summary.test_fingerprint, len(labels), engine, twin=twin))

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
        self.model.close()
        self.meter.close()
        self.state.close()
