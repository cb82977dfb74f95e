"""One virtual board: the device's own round function, codec memory, held heads and cost history, on virtual time.

What is not real: raw examples and the backbone, whose embeddings are made once for the whole fleet; the meter and the
clock (:mod:`coordinator.simulation.metering`); and the disk for heads, which is memory here.
"""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from coordinator.simulation.costs import BoardCosts
from coordinator.simulation.links import Link
from coordinator.simulation.metering import BoardClock, BoardMeter, MeterState
from edge_runtime.daemon.energy_sums import with_idle
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import CostHistory, Reserve
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.inputs.examples import LocalExamples, Summary
from edge_runtime.round.training_basis import HeldBasis
from edge_runtime.round.work import Workbench, energy_of, work
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase
from protos.errors import EdgejouleError
from protos.model.bundle import Bundle
from protos.model.head import Head
from protos.orders import (
    DeviceCard,
    DeviceReport,
    Engine,
    Holding,
    MeterCard,
    Receipt,
    SettledEnergy,
    StopReason,
    Strain,
    TrainOrder,
    Verdict,
)
from protos.update import trees
from protos.update.codecs import generator
from protos.update.trees import Tree

# A share of the int8 speed of a board, in one float32 product of matrices, for sums of embeddings: an assumption on the
# slow side. BLAS makes about 3e9 multiply-accumulates a second on one core of a Pi 4, and the table of speeds 2.3e9.
_SUMS_SHARE = 0.5
_CODED_A_S = 2e6
HeadsKept = tuple[tuple[str, Tree] | None, bool, bool]
# To find that all examples are embedded: no time to speak of, and none at all would not be told.
LOOK_S = 1e-5


class EngineError(EdgejouleError):
    """What carries the simulation failed; it is no board's fault, and no board declines for it."""


@dataclass(frozen=True)
class Shared:
    """What all boards of a fleet have in common.

    Attributes:
        head: the one compiled head that every board trains with, one after the other.
        embeddings: int8 or uint8 [N, D] of all training examples; labels: int32 [N], or float32 [N, K].
    """

    bundle: Bundle
    head: Head
    engine: Engine
    embeddings: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    source: str


class _TimedHead(Head):
    """The shared head, whose steps take the time of the board that makes them: whatever a head has, this one has, and
    its interpreter and signatures are the shared ones."""

    def __init__(self, head: Head, clock: BoardClock) -> None:
        # Not made again: one interpreter for the whole fleet.
        vars(self).update(vars(head))
        self._clock, self.step_s = clock, 0.0

    def train_step(self, x: Any, y: Any, weight: Any = None, **inputs: float) -> float:
        self._clock.ahead_s += self.step_s
        return super().train_step(x, y, weight, **inputs)


class _Rows:
    """The cache of a board's embeddings: they are there, and count as made once the board has spent what that costs."""

    def __init__(self, shared: npt.NDArray[Any], rows: npt.NDArray[np.int64], clock: BoardClock) -> None:
        self._shared, self._places, self._clock = shared, rows, clock
        self._made: npt.NDArray[Any] | None = None
        self.rows, self.count = 0, len(rows)
        self.embedding_s = self.fixed_s = 0.0

    @property
    def complete(self) -> bool:
        return self.rows == self.count

    def view(self) -> npt.NDArray[Any]:
        if self._made is None:
            self._made = self._shared[self._places]
        return self._made[: self.rows]

    def fill(
        self,
        embed: object,
        raw: object,
        *,
        allowed: Callable[[int], int | StopReason],
        now_s: Callable[[], float],
        block_of: Callable[[int], int] = lambda most: most,
    ) -> tuple[int, StopReason | None]:
        """As :meth:`edge_runtime.round.inputs.embeddings.EmbeddingCache.fill` asks before each block and counts."""
        before = self.rows
        self._clock.ahead_s += self.fixed_s
        while not self.complete:
            granted = allowed(min(block_of(8), self.count - self.rows))
            if isinstance(granted, StopReason):
                return self.rows - before, granted
            self._clock.ahead_s += granted * self.embedding_s
            self.rows += granted
        return self.rows - before, None


class _NoRaw:
    """In place of raw examples: nobody embeds them here."""

    def raw(self, bundle: Bundle, summary: Summary) -> npt.NDArray[Any]:
        return np.empty((0,), np.uint8)

    def release(self) -> None:
        return None


class _HeadsInMemory(HeldHeads):
    """Heads of a board that never restarts without them: the newest is kept."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))

    def kept(self) -> HeadsKept:
        """The newest head by version, and whether whole ones are asked for: once, and always."""
        return self._newest, self._whole_next, self._whole_always

    def take(self, kept: HeadsKept) -> None:
        """Hold what another copy of this board holds."""
        self._newest, self._whole_next, self._whole_always = kept

    def find(self, version: str, start: Tree) -> Tree | None:
        if self._newest is not None and self._newest[0] == version:
            return self._newest[1]
        return start if trees.version(start) == version else None

    def _hold(self, version: str, head: Tree, start: Tree) -> None:
        if trees.version(start) != version:
            self._newest = version, head

    def _newest_on_disk(self) -> tuple[str, Tree] | None:
        return None


@dataclass(frozen=True)
class BoardState:
    """What an order finds on a board and changes there, to be handed to another copy of the board.

    Attributes:
        meter: up to when it looked at the clock last.
        rows: examples whose embeddings are paid for.
        basis: version of the basis that is held, or "".
        files: what codecs remember, and bases, by name in the board's folder.
        ahead_s: of the clock.
    """

    meter: MeterState
    rows: int
    reserve: Reserve
    heads: HeadsKept
    basis: str
    files: Mapping[str, bytes]
    ahead_s: float


class _NoBackbone:
    """In place of the frozen backbone."""

    def embed(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        raise AssertionError("embeddings of a virtual board are made before it")


class VirtualBoard:
    """One board of a fleet.

    Args:
        rows: of the shared examples, that are its own.
        costs: of its work, its own deviation in them already.
        noise: standard deviation of the logarithm of how long the work of one round takes.
        seed: of that noise.
        home: an empty folder for what its codecs remember.
        now_s: the loop's clock.

    Attributes:
        bytes_up, bytes_down: of everything it sent and received.
    """

    def __init__(
        self,
        device_id: str,
        board: str,
        link: Link,
        costs: BoardCosts,
        shared: Shared,
        rows: npt.NDArray[np.int64],
        *,
        noise: float,
        seed: int,
        budget_j: float | None,
        home: Path,
        now_s: Callable[[], float],
    ) -> None:
        self.device_id, self.board, self.link, self.costs = device_id, board, link, costs
        self._shared, self._noise, self._seed = shared, noise, seed
        self.clock = BoardClock(now_s)
        watts = {
            Phase.IDLE: costs.idle_w, Phase.RECEIVE: costs.idle_w, Phase.EMBED: costs.embed_w,
            Phase.TRAIN: costs.train_w, Phase.ENCODE: costs.encode_w, Phase.SEND: costs.idle_w,
        }  # fmt: skip
        self.meter = BoardMeter.of(board, self.clock, watts)
        self._head = _TimedHead(shared.head, self.clock)
        self._rows = _Rows(shared.embeddings, rows, self.clock)
        self.examples = len(rows)
        self._home = home
        self._memory = CodecMemory(home / "memory")
        self._bases = HeldBasis(home / "bases")
        for folder in ("memory", "bases"):
            (home / folder).mkdir(parents=True)
        self.heads = _HeadsInMemory()
        self.starts = 1
        self.bytes_up = self.bytes_down = 0
        self._run_id = ""
        labels = shared.labels[rows]
        summary = Summary(labels, shared.bundle.manifest.backbone.input_shape, 0, "", shared.source)
        self.bench = Workbench(
            device_id=device_id,
            bundle=shared.bundle,
            head=self._head,
            examples=cast(LocalExamples, _NoRaw()),
            summary=summary,
            cache=cast(Any, self._rows),
            engine=shared.engine,
            meter=self.meter,
            reserve=Reserve(CostHistory(None), shared.bundle.bundle_id),
            clock=self.clock,
            heads=self.heads,
            memory=self._memory,
            bases=self._bases,
            budget_j=budget_j,
            open_backbone=lambda *args, **kwargs: cast(Any, _NoBackbone()),
        )
        parts = (self.meter.identity.method, self.meter.identity.sensor, "none", self.meter.identity.quality)
        self._meter_card = MeterCard(*parts, zlib.crc32("\0".join(parts).encode()) or 1)

    @property
    def session(self) -> str:
        """Another one after each start."""
        return f"{self.device_id}-{self.starts}"

    def card(self) -> DeviceCard:
        """Who it is, for joining."""
        return DeviceCard(
            self.device_id, self.session, "simulated", self.board, self._shared.engine, self._meter_card,
            self.examples, 0, self.bench.budget_j, instance=self.device_id,
        )  # fmt: skip

    def holding(self) -> Holding:
        """What it holds, when it asks for an order."""
        return dataclasses.replace(
            self.heads.holding(), basis_version=self._bases.version, bundle_id=self._shared.bundle.bundle_id
        )

    def received(self, order: TrainOrder, size_bytes: int) -> float:
        """An order comes in; returns the seconds that it travels. A board at rest has those of its link on top."""
        self.bytes_down += size_bytes
        if order.run_id != self._run_id:
            # Waiting for a run to begin is no cost of that run.
            self.meter.mark(Phase.IDLE)
            self.meter.settle(0.0)
            self._run_id = order.run_id
        came_s = size_bytes / self.link.down_bytes_s
        self.meter.arrives(came_s, self.link.down_j * size_bytes)
        return self.link.latency_s + came_s

    def work(self, order: TrainOrder, until_s: float | None = None) -> DeviceReport:
        """Do an order at once; :attr:`BoardClock.ahead_s` is how long that takes.

        Args:
            until_s: of the board's clock, from when on the order is not wanted any more; None: it stays wanted.

        Raises:
            EdgejouleError: see :func:`edge_runtime.round.work.work`.
        """
        random = generator(self._seed, "pace", self.device_id, order.round, order.attempt or 0)
        pace = float(np.exp(self._noise * random.standard_normal())) if self._noise else 1.0
        costs = self.costs.slower(pace)
        self._head.step_s = costs.step_s
        self._rows.embedding_s, self._rows.fixed_s = costs.embedding_s, costs.embed_fixed_s
        self.meter.fixed_s = {Phase.EMBED: LOOK_S, Phase.TRAIN: costs.train_fixed_s, Phase.ENCODE: costs.encode_s}
        if order.statistics is not None:
            manifest = self._shared.bundle.manifest
            width = manifest.summed_width(order.statistics.width(manifest.backbone.embedding_width))
            # A table of speeds in multiply-accumulates: that of the backbone, if anybody counted them.
            macs = self._shared.bundle.manifest.backbone.macs or 20e6
            speed = macs / max(self.costs.embedding_s, 1e-12)
            self.meter.fixed_s[Phase.TRAIN] += pace * self.examples * width * width / (_SUMS_SHARE * speed)
            self.meter.fixed_s[Phase.ENCODE] += pace * width * (width + 1) / 2 / _CODED_A_S
        report = work(order, self.bench, lambda: until_s is not None and self.clock.monotonic() >= until_s)
        # A board says what it had to bear, if only that it was nothing.
        return dataclasses.replace(report, strain=Strain())

    def begins(self, order: TrainOrder, begun_s: float) -> None:
        """An order is on its way and will be begun at ``begun_s``: a board that works elsewhere may as well start."""

    def tried(self, order: TrainOrder, begun_s: float) -> tuple[DeviceReport, Callable[[], None]]:
        """:meth:`work` from ``begun_s`` on, and how to take it back: as if the order had not been begun."""
        rows, reserve = self._rows.rows, copy.deepcopy(self.bench.reserve)
        meter, report = self.works_from(order, begun_s)

        def back() -> None:
            self.meter.back_to(meter)
            self._rows.rows = rows
            self.bench.reserve = reserve
            self.clock.ahead_s = 0.0

        return report, back

    def works_from(self, order: TrainOrder, begun_s: float) -> tuple[MeterState, DeviceReport]:
        """Where the meter stood at the beginning of the order, and the report."""
        # Not the loop's time, which is a rounding away: the same bits wherever it is done.
        self.clock.from_s = begun_s
        try:
            before = self.meter.state()
            return before, self.work(order)
        finally:
            self.clock.from_s = None

    def state(self) -> BoardState:
        """All that an order finds and changes here."""
        return BoardState(
            self.meter.as_settled(), self._rows.rows, self.bench.reserve, self.heads.kept(), self._bases.version,
            {
                f"{folder.name}/{path.name}": path.read_bytes()
                for folder in (self._home / "memory", self._home / "bases")
                for path in sorted(folder.iterdir())
            },
            self.clock.ahead_s,
        )  # fmt: skip

    def take(self, state: BoardState) -> None:
        """Be as another copy of this board is."""
        self.meter.back_to(state.meter)
        self._rows.rows, self.bench.reserve = state.rows, state.reserve
        self.heads.take(state.heads)
        self.clock.ahead_s = state.ahead_s
        for folder in ("memory", "bases"):
            for path in (self._home / folder).iterdir():
                if f"{folder}/{path.name}" not in state.files:
                    path.unlink()
        for name, data in state.files.items():
            path = self._home / name
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
        if self._bases.version != state.basis:
            self._bases = HeldBasis(self._home / "bases")
            self.bench.bases = self._bases

    def sealed(self, report: DeviceReport) -> bytes:
        """The bytes of a report."""
        return serialise_report(report, self._meter_card)

    def sends(self, size_bytes: int) -> float:
        """A report is on its way; returns how long that takes."""
        self.meter.mark(Phase.IDLE)
        self.clock.ahead_s += self.costs.around_s
        self.meter.mark(Phase.SEND)
        # Bytes on their way, and the wait for the answer, keep no core busy.
        busy_j = (self.costs.send_w - self.costs.idle_w) * self.costs.send_fixed_s
        self.meter.charge(busy_j + self.link.wake_j + self.link.up_j * size_bytes)
        self.bytes_up += size_bytes
        return self.costs.send_fixed_s + self.link.latency_s + size_bytes / self.link.up_bytes_s

    def answered(self, report: DeviceReport, receipt: Receipt, sent_s: float) -> SettledEnergy:
        """The report was answered; returns the joules that the next call brings."""
        self.meter.mark(Phase.IDLE)
        after = self.meter.settle()
        counts = receipt.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)
        self._memory.settle(report.run_id, report.round, accepted=counts)
        self.bench.reserve.sent(energy_of(after, Phase.SEND), sent_s)
        told = SettledEnergy(report.run_id, report.round, with_idle(after, report.energy), report.attempt)
        return dataclasses.replace(
            told,
            energy=tuple(dataclasses.replace(phase_energy, sensor="") for phase_energy in told.energy),
            meter_id=self._meter_card.id,
        )

    def restarts(self) -> None:
        """Its power comes back: what was not on disk is gone, and joules that nobody was told stay untold."""
        self.starts += 1
        self.clock.ahead_s = 0.0
        self.meter.start()
        self._run_id = ""
