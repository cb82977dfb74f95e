"""One federated round on the device, from an order to a report whose every joule is known.

The phases are marked on the meter just where they begin and end:

    EMBED   raw examples through the frozen backbone, only those that are not cached
    TRAIN   the head made from differences, where it came so; steps of it, until they are done or the allowance is spent
    ENCODE  change of the head, coded and serialised
            (an order of statistics has no head: TRAIN sums the embeddings, ENCODE codes the sums)
    IDLE    pauses of a hot or busy board, waiting for the meter's last samples, writing the report to disk
    SEND    until the coordinator has answered
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.health.pauses import Pauses
from edge_runtime.model.gate import Gate
from edge_runtime.power.clock import Clock
from edge_runtime.power.meters.meter import ExpectsPower, Meter
from edge_runtime.power.wiring import FIXES
from edge_runtime.round.accelerator import TwinWork
from edge_runtime.round.allowance import Allowance
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import Reserve
from edge_runtime.round.evaluation import HeldOut
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.inputs.content import damaged_in
from edge_runtime.round.inputs.embeddings import EmbeddingCache, dequantise
from edge_runtime.round.inputs.examples import ChangedDataError, LocalExamples, Summary
from edge_runtime.round.statistics import check_features, summed
from edge_runtime.round.training import Trained, balanced_weights, train
from edge_runtime.round.training_basis import HeldBasis
from protos.catalog import hint
from protos.datafiles.stored import Rows
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import NonFiniteError, RefusedError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.model.edge_tpu import EdgeTpu, EdgeTpuError
from protos.model.head import Head
from protos.model.task import CLASSIFICATION
from protos.normaliser import of_optimiser
from protos.orders import DeviceReport, Engine, HeadEvaluation, MaskedChange, StopReason, TrainOrder
from protos.statistics import coding
from protos.statistics.coding import CodedMoments
from protos.statistics.whitening import Basis
from protos.update import codecs, controls, trees
from protos.update.contract import State
from protos.update.tensors import ABSURD, EncodedTensor, decode

HURRIED_SETTLE_S = 0.3


def _nothing() -> None:
    """Nobody waits for it."""


@dataclass
class Workbench:
    """What a device works with, one bundle at a time.

    Attributes:
        budget_j: the device's own limit, or None.
        settle_s: longest wait for the meter's last samples.
        twin: the backbone's twin runs on the Edge TPU; None: its CPU model runs.
        held_out: examples to evaluate heads on; None when there are none.
        balanced: every class has the same say in the local loss.
        gate: predictions of the model at work go before the next piece of work.
        open_backbone: opens the frozen backbone, when there is something to embed.
        embedded: called when a round needs the own examples no more: from there on they may change.
    """

    device_id: str
    bundle: Bundle
    head: Head
    examples: LocalExamples
    summary: Summary
    cache: EmbeddingCache
    engine: Engine
    meter: Meter
    reserve: Reserve
    clock: Clock
    heads: HeldHeads
    memory: CodecMemory
    bases: HeldBasis
    budget_j: float | None = None
    threads: int = 1
    settle_s: float = 2.0
    twin: TwinWork | None = None
    held_out: HeldOut | None = None
    balanced: bool = False
    gate: Gate = field(default_factory=Gate)
    open_backbone: Callable[..., Backbone] = Backbone
    embedded: Callable[[], None] = _nothing


def budget_of(order: TrainOrder, bench: Workbench) -> float | None:
    """The smaller of the order's and the device's own budget.

    Raises:
        RefusedError: there is one, and nothing that measures.
    """
    limits = [value for value in (order.budget_j, bench.budget_j) if value is not None]
    if limits and bench.meter.identity.method == "unknown":
        fault = bench.meter.identity.quality
        raise RefusedError(
            "the order has a budget in joules, and this device has no sensor to keep it"
            + (f" ({bench.meter.identity.sensor}: {fault})" if fault in FIXES else ""),
            where=f"round {order.round}",
            fix=FIXES.get(fault, "give the device a --sensor, or the plan no budget"),
        )
    return min(limits, default=None)


def work(
    order: TrainOrder,
    bench: Workbench,
    stopping: Callable[[], bool],
    pauses: Pauses | None = None,
    hide: Callable[[TrainOrder, trees.Tree], MaskedChange] | None = None,
) -> DeviceReport:
    """Do one order. The meter is idle and settled up to the end of the coding phase afterwards.

    Args:
        stopping: says that something was done; whether the daemon was asked to stop.
        pauses: of a board that may be too hot or too busy; None never pauses.
        hide: masks a change, for orders that ask for it.

    Raises:
        RefusedError: see :func:`budget_of` and :class:`edge_runtime.round.codec_memory.CodecMemory`.
        CannotRebuildError: see :mod:`edge_runtime.round.held_heads`.
        UpdateError, PlanError, UsageError: the order does not fit the bundle.
        NonFiniteError: training diverged.
        DataError, StoreError: the data or the cache cannot be read or written.
    """
    meter, clock = bench.meter, bench.clock
    bench.reserve.told(order.costs, sums=order.statistics is not None)
    if isinstance(meter, ExpectsPower):
        meter.expect(bench.reserve.work_w)
    allowance = Allowance(
        budget_j=budget_of(order, bench),
        deadline_s=order.deadline_s,
        reserve=bench.reserve,
        spent_j=meter.spent_j,
        now_s=clock.monotonic,
        stopping=stopping,
        rests=pauses,
    )
    begin = meter.mark
    if pauses is not None:
        pauses.begin(meter.mark, f"round {order.round} of run {order.run_id}: {in_words(order)}")
        begin = pauses.working
    _check_inputs(order, bench)
    try:
        with bench.gate.at_work():
            if order.statistics:
                done = _sum_up(order, bench, allowance, begin)
            else:
                done = _learn(order, bench, allowance, begin, hide)
    except BaseException:
        # What a failed order cost belongs to no round, and must not count against the next one's budget.
        meter.mark(Phase.IDLE)
        meter.settle(0.0)
        raise
    meter.mark(Phase.IDLE)
    strain = pauses.ended() if pauses else None
    # Who was asked to stop does not wait for a silent sensor.
    hurried = done.trained.stop_reason is StopReason.SHUTDOWN
    energy = meter.settle(min(bench.settle_s, HURRIED_SETTLE_S) if hurried else bench.settle_s)
    if done.trained.steps and done.memory is not None:
        # A report without a step has no effect on the head, so nothing that is owed was sent.
        bench.memory.propose(order, done.memory)
    if done.trained.steps and order.control is not None and done.control is not None:
        bench.memory.propose_control(order, order.control, done.control)
    trained, typical = done.trained, strain is None or strain.typical
    bench.reserve.worked(
        energy, done.embedded + done.looked, trained.steps, done.encode_s, typical=typical, excess_j=allowance.excess_j
    )
    return DeviceReport(
        run_id=order.run_id,
        round=order.round,
        device_id=bench.device_id,
        plan_id=order.plan_id,
        bundle_id=order.bundle_id,
        head_version=order.head_version,
        steps_planned=order.steps,
        steps_done=trained.steps,
        examples=done.examples,
        local_normaliser=_normaliser(order, bench, trained.steps),
        stop_reason=trained.stop_reason,
        loss_first=trained.loss_first,
        loss_last=trained.loss_last,
        engine=bench.engine,
        energy=energy,
        update=done.update,
        embedded=done.embedded,
        train_s=done.train_s,
        strain=strain,
        attempt=order.attempt,
        statistics=done.statistics,
        basis_version=order.basis.version if order.basis is not None and not order.statistics else "",
        masked=done.masked,
        control_version=order.control.version if order.control is not None and not order.statistics else "",
        control_held=done.control_held,
        evaluation=done.evaluation,
    )


@dataclass(frozen=True)
class _Done:
    """What came of the phases up to coding.

    Attributes:
        examples: that count: all, or those behind the statistics.
        memory: what the codec owes from now on; None without a codec.
        control: the device's own control from now on; None without one.
        control_held: it had one before.
        evaluation: of the head that training started from; None where it was not asked for, or cannot be made.
        looked: held-out examples that were embedded for it.
    """

    trained: Trained
    embedded: int
    examples: int
    update: tuple[EncodedTensor, ...]
    statistics: CodedMoments | None
    train_s: float
    encode_s: float
    memory: State | None
    control: trees.Tree | None = None
    control_held: bool = False
    masked: MaskedChange | None = None
    evaluation: HeadEvaluation | None = None
    looked: int = 0


def _learn(
    order: TrainOrder,
    bench: Workbench,
    allowance: Allowance,
    begin: Callable[[Phase], None],
    hide: Callable[[TrainOrder, trees.Tree], MaskedChange] | None,
) -> _Done:
    """Steps of the head, and the coded change."""
    meter, clock = bench.meter, bench.clock
    shapes = bench.bundle.manifest.head.shapes()
    codec = codecs.build(order.codec.name, order.codec.parameters, where=f"order of round {order.round}")
    memory = bench.memory.recall(order, codec, shapes)
    if order.base:
        meter.mark(Phase.TRAIN)
    received = ordered = bench.heads.receive(order, bench.bundle.initial_head())
    basis: Basis | None = None
    if order.basis is not None:
        basis = bench.bases.receive(order.basis, bench.bundle.manifest.backbone.embedding_width)
        received = basis.into(received)
    common = own = None
    held = False
    if order.control is not None:
        common = controls.received(order.control, shapes)
        own, held = bench.memory.control(order, order.control, shapes)

    begin(Phase.EMBED)
    embedded, refused = _embed(bench, allowance)
    evaluation, looked = None, 0
    if order.evaluate and not refused:
        evaluation, looked, refused = _look(ordered, bench, allowance)
    bench.embedded()

    begin(Phase.TRAIN)
    start_s, rested_s = clock.monotonic(), allowance.rested_s
    bench.head.write(received)
    if common is not None and own is not None:
        bench.head.correct(trees.subtract(common, own))
    trained = Trained(0, refused, None, None) if refused else _train(order, bench, allowance, basis)
    train_s = clock.monotonic() - start_s - (allowance.rested_s - rested_s)

    meter.mark(Phase.ENCODE)
    start_s = clock.monotonic()
    change = trees.subtract(_sane(bench.head.read(), order), received)
    if order.mask is not None:
        if hide is None:
            raise RefusedError("the order wants the change masked, and nobody can here", where=f"round {order.round}")
        masked = hide(order, change)
        took_s = clock.monotonic() - start_s
        return _Done(
            trained, embedded, bench.summary.train_count, (), None, train_s, took_s, None, looked=looked, masked=masked
        )
    random = codecs.generator(order.seed, "encode", bench.device_id, order.round)
    update, memory = codec.encode(change, memory, random)
    if common is not None and own is not None and trained.steps:
        sent = decode(update, shapes)
        change = controls.change_of_own(common, sent, trained.steps, _inputs_of(order, bench))
        own = {name: own[name] + value for name, value in change.items()}
    encode_s = clock.monotonic() - start_s
    count = bench.summary.train_count
    return _Done(
        trained,
        embedded,
        count,
        update,
        None,
        train_s,
        encode_s,
        memory,
        own,
        held,
        evaluation=evaluation,
        looked=looked,
    )


def _look(
    head: trees.Tree, bench: Workbench, allowance: Allowance
) -> tuple[HeadEvaluation | None, int, StopReason | None]:
    """How good the received head is on the held-out examples, how many of them were embedded for it, and why not more,
    if the round has to end."""
    if bench.held_out is None:
        return None, 0, None
    looked, refused = 0, None
    if not bench.held_out.cache.complete:
        looked, refused = fill_held_out(bench, allowance)
    return bench.held_out.evaluate(head, bench.bundle, bench.head), looked, refused


def fill_held_out(bench: Workbench, allowance: Allowance | None = None) -> tuple[int, StopReason | None]:
    """Embed the held-out examples that are not yet.

    Args:
        allowance: of the round; None outside of one: nothing limits it but a request to stop.

    Returns:
        How many were embedded, and why it stopped early, if it did.
    """
    assert bench.held_out is not None
    raw = bench.examples.raw_test(bench.bundle, bench.summary)
    edge_tpu = bench.twin.edge_tpu if bench.twin else None
    backbone = bench.open_backbone(bench.bundle, threads=bench.threads, edge_tpu=edge_tpu)
    done = bench.held_out.cache.fill(
        backbone.embed,
        raw,
        allowed=(lambda wanted: wanted) if allowance is None else allowance.examples,
        now_s=bench.clock.monotonic,
        block_of=(lambda most: most) if allowance is None else allowance.block,
    )
    if bench.cache.complete:
        bench.examples.release()
    _refuse_damaged(raw, bench)
    return done


def _sum_up(order: TrainOrder, bench: Workbench, allowance: Allowance, begin: Callable[[Phase], None]) -> _Done:
    """Statistics of all training examples; of those that are embedded by then, when joules or time run out."""
    assert order.statistics is not None
    check_features(order.statistics, bench.bundle)
    meter, clock = bench.meter, bench.clock
    begin(Phase.EMBED)
    embedded, refused = _embed(bench, allowance)
    bench.embedded()

    begin(Phase.TRAIN)
    start_s = clock.monotonic()
    embeddings = bench.cache.view()
    moments = summed(bench.bundle, embeddings, bench.summary.labels[: len(embeddings)], order.statistics)
    train_s = clock.monotonic() - start_s

    meter.mark(Phase.ENCODE)
    start_s = clock.monotonic()
    coded = coding.encode(moments, order.statistics.summed_offset)
    trained = Trained(0, refused or StopReason.COMPLETED, None, None)
    return _Done(trained, embedded, len(embeddings), (), coded, train_s, clock.monotonic() - start_s, None)


def in_words(order: TrainOrder) -> str:
    """The work that an order asks for."""
    return "statistics" if order.statistics is not None else f"{order.steps} steps"


def energy_of(energy: tuple[PhaseEnergy, ...], phase: Phase) -> float | None:
    """Joules of one phase, or None when unknown or not there."""
    return next((phase_energy.energy_j for phase_energy in energy if phase_energy.phase is phase), None)


def _check_inputs(order: TrainOrder, bench: Workbench) -> None:
    for name in order.inputs:
        if name not in bench.head.inputs:
            where = f"order of round {order.round}"
            raise UsageError(f"this head has no input {name!r}", where=where, fix=hint(name, bench.head.inputs))


def _sane(head: trees.Tree, order: TrainOrder) -> trees.Tree:
    """A trained head that the other end would take."""
    if all(np.isfinite(value).all() and float(np.abs(value).max(initial=0)) <= ABSURD for value in head.values()):
        return head
    raise NonFiniteError(
        "training diverged: the head is no longer made of sensible numbers",
        where=f"round {order.round}",
        fix="use a smaller rate in the plan",
    )


def _embed(bench: Workbench, allowance: Allowance) -> tuple[int, StopReason | None]:
    """Fill the cache, and give the raw values and the backbone back when it is full.

    An Edge TPU that fails at it is given up: the cache of the CPU takes its place, filled from the first example on.
    """
    if bench.cache.complete:
        bench.examples.release()
        return 0, None
    if bench.twin is None:
        return _fill(bench, allowance, None)
    before = bench.cache.rows
    try:
        return _fill(bench, allowance, bench.twin.edge_tpu)
    except EdgeTpuError as error:
        in_vain = bench.cache.rows - before
        bench.cache, bench.engine = bench.twin.lost(error)
        # What of the held-out examples the twin embedded is not mixed with what the CPU will.
        bench.twin = bench.held_out = None
    embedded, refused = _embed(bench, allowance)
    return in_vain + embedded, refused


def _fill(bench: Workbench, allowance: Allowance, edge_tpu: EdgeTpu | None) -> tuple[int, StopReason | None]:
    raw = bench.examples.raw(bench.bundle, bench.summary)
    backbone = bench.open_backbone(bench.bundle, threads=bench.threads, edge_tpu=edge_tpu)
    done = bench.cache.fill(
        backbone.embed, raw, allowed=allowance.examples, now_s=bench.clock.monotonic, block_of=allowance.block
    )
    if bench.cache.complete:
        bench.examples.release()
    _refuse_damaged(raw, bench)
    return done


def _refuse_damaged(raw: Rows, bench: Workbench) -> None:
    """Images that turned out to be damaged stand in as zeros: the data are to be looked at again, without them.

    Raises:
        ChangedDataError: there were some.
    """
    if found := damaged_in(raw):
        raise ChangedDataError(f"{found} images cannot be decoded", where=bench.summary.source)


def _train(order: TrainOrder, bench: Workbench, allowance: Allowance, basis: Basis | None) -> Trained:
    spec = bench.bundle.manifest.backbone
    classifies = bench.bundle.manifest.task == CLASSIFICATION
    mean, scale = bench.bundle.feature_affine()

    def features(quantised: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if bench.head.takes_integers:
            return quantised
        x = dequantise(quantised, spec)
        if basis is None:
            return x
        # The compiled head standardises what it is given: what it then sees are the features of the basis.
        turned = basis.features((x - mean) * scale)
        return (turned / scale + mean).astype(np.float32)

    return train(
        bench.head,
        bench.cache.view(),
        bench.summary.labels,
        features,
        steps=order.steps,
        inputs=order.inputs,
        seed=order.seed,
        purpose=(bench.device_id, order.round),
        allowed=allowance.step,
        weights=balanced_weights(bench.summary.labels) if bench.balanced and classifies else None,
    )


def _inputs_of(order: TrainOrder, bench: Workbench) -> dict[str, float]:
    return {name: tensor.default for name, tensor in bench.head.inputs.items()} | dict(order.inputs)


def _normaliser(order: TrainOrder, bench: Workbench, steps: int) -> float:
    return of_optimiser(bench.bundle.manifest.head.optimiser, steps, _inputs_of(order, bench))
