"""Strategies for every value that is said between device and coordinator, in the ranges that a peer may say."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from protos.convert.checks import MAX_WAIT_S
from protos.convert.energy import MIN_ENERGY_J
from protos.convert.upgrades import LEAST_TRIAL_S, MAX_WHEEL_BYTES, MOST_TRIAL_S
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import (
    UPGRADE_STATES,
    BasisOrder,
    CodecOrder,
    ControlOrder,
    CostHint,
    DeviceCard,
    DeviceReport,
    Engine,
    HeadEvaluation,
    MeterCard,
    Publication,
    Receipt,
    Reception,
    RejoinOrder,
    SettledEnergy,
    StopReason,
    Strain,
    TrainOrder,
    UpgradeOffer,
    UpgradeState,
    Verdict,
    WaitOrder,
)
from protos.statistics.coding import CodedMoments, CodedWhole
from protos.statistics.features import FeatureMap
from protos.update.downlink import MAX_SCALE, Difference
from protos.update.tensors import EncodedTensor, Float16, Float32, UniformGrid

uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
# What isprintable() takes: nothing of the categories Other and Separator but the space.
printable = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
names = st.text(printable, min_size=1, max_size=20) | st.just("x" * 256)
words = st.text(printable, max_size=20)
amounts = st.floats(0, 1e15)
methods = st.sampled_from(["measured", "estimated", "unknown"])

tensor_values = st.one_of(
    st.builds(Float32, st.binary(max_size=16)),
    st.builds(Float16, st.binary(max_size=16)),
    st.builds(UniformGrid, uint32, uint32, st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8)),
)
tensors = st.lists(
    st.builds(EncodedTensor, names, st.lists(uint32, max_size=8).map(tuple), tensor_values), max_size=4
).map(tuple)
energies = st.lists(
    st.builds(
        PhaseEnergy,
        phase=st.sampled_from(Phase),
        energy_j=st.none() | st.floats(MIN_ENERGY_J, 1e15),
        covered_s=amounts,
        uncovered_s=amounts,
        method=methods,
        sensor=words,
        uncertainty_j=st.none() | amounts,
        flags=st.lists(names, max_size=4).map(tuple),
    ),
    max_size=5,
).map(tuple)
settled = st.lists(st.builds(SettledEnergy, names, uint32, energies), max_size=3).map(tuple)
engines = st.builds(Engine, words, words, words)
meters = st.builds(MeterCard, methods, words, words, words)
cards = st.builds(DeviceCard, names, names, words, words, engines, meters, uint64, uint64, budget_j=st.none() | amounts)
numbers = st.dictionaries(names, st.floats(-1e9, 1e9), max_size=5)
differences = st.lists(
    st.builds(Difference, tensors, st.just(1.0) | st.floats(2**-20, MAX_SCALE, width=32)), max_size=3
).map(tuple)
whole_heads = st.builds(lambda one: {"head": one, "base": "", "differences": ()}, tensors)
made_heads = st.builds(lambda base, one: {"head": (), "base": base, "differences": one}, names, differences)
train_orders = st.builds(
    lambda how, **fields: TrainOrder(**how, **fields),
    whole_heads | made_heads,
    run_id=names,
    round=uint32,
    plan_id=names,
    bundle_id=names,
    head_version=names,
    steps=uint32,
    inputs=numbers,
    codec=st.builds(CodecOrder, names, numbers),
    budget_j=st.none() | amounts,
    deadline_s=amounts,
    seed=uint64,
    costs=st.none() | st.builds(CostHint, amounts, amounts, amounts, amounts),
    statistics=st.none()
    | st.builds(FeatureMap, st.integers(-255, 255), st.integers(0, 4096), st.integers(0, 24), uint64),
    basis=st.none() | st.builds(BasisOrder, names, tensors),
    control=st.none() | st.builds(ControlOrder, names, uint32, tensors),
    evaluate=st.booleans(),
)
some_tensors = st.lists(st.builds(EncodedTensor, names, st.just(()), tensor_values), min_size=1, max_size=3).map(tuple)
publications = st.builds(
    lambda how, **fields: Publication(**how, **fields),
    some_tensors.map(lambda entry: {"head": entry}) | names.map(lambda text: {"head": (), "base": text}),
    run_id=names,
    name=words,
    bundle_id=names,
    round=uint32,
    head_version=names,
    accuracy=st.none() | st.floats(0, 1),
    loss=st.none() | st.floats(0, 3.4e38),
    evaluate=st.booleans(),
    signed=st.binary(max_size=40),
)
evaluations = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), min_size=1, max_size=4).flatmap(
    lambda found: st.builds(
        HeadEvaluation,
        names,
        st.just(sum(of for _, of in found) or 1),
        st.just(sum(right for right, _ in found)),
        st.floats(0, 3.4e38),
        st.just(tuple(of for _, of in found) if sum(of for _, of in found) else ()),
        st.just(tuple(right for right, _ in found) if sum(of for _, of in found) else ()),
    )
)
receptions = st.lists(st.builds(Reception, names, st.booleans(), words, st.none() | evaluations), max_size=3).map(tuple)
upgrade_offers = st.builds(
    UpgradeOffer,
    names,
    names,
    st.integers(1, MAX_WHEEL_BYTES),
    st.binary(min_size=32, max_size=32),
    st.floats(LEAST_TRIAL_S, MOST_TRIAL_S),
)
upgrade_states = st.just(UpgradeState()) | st.builds(
    UpgradeState,
    names,
    st.sampled_from([upgrade_state for upgrade_state in UPGRADE_STATES if upgrade_state != "none"]),
    words,
)
orders = st.one_of(
    train_orders,
    st.builds(WaitOrder, st.floats(0, MAX_WAIT_S), words, st.none() | publications, st.none() | upgrade_offers),
    st.just(RejoinOrder()),
)
coded_whole = st.builds(
    CodedWhole, uint32, st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8)
)
whole_numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(tuple)
counts = st.lists(uint64, max_size=4).map(tuple)
statistics = st.builds(CodedMoments, st.integers(-255, 255), counts, whole_numbers, counts, coded_whole, coded_whole)
losses = st.none() | st.floats(-1e9, 3.4e38)
reports = st.builds(
    DeviceReport,
    run_id=names,
    round=uint32,
    device_id=names,
    plan_id=names,
    bundle_id=names,
    head_version=names,
    steps_planned=uint32,
    steps_done=uint32,
    examples=uint64,
    local_normaliser=amounts,
    stop_reason=st.sampled_from(StopReason),
    loss_first=losses,
    loss_last=losses,
    engine=engines,
    energy=energies,
    update=tensors,
    embedded=uint64,
    train_s=amounts,
    strain=st.none()
    | st.builds(
        Strain, st.floats(0, 1e9), st.floats(0, 1e9), st.none() | st.floats(-100, 500), st.booleans(), st.booleans()
    ),
    statistics=st.none() | statistics,
    basis_version=st.just("") | names,
    control_version=st.just("") | names,
    control_held=st.booleans(),
    evaluation=st.none() | evaluations,
)
receipts = st.builds(Receipt, st.sampled_from(Verdict), words)


def example_report() -> DeviceReport:
    """A report such as a device sends, whose update fits :data:`EXAMPLE_SHAPES`."""
    return DeviceReport(
        run_id="run-0001",
        round=3,
        device_id="pi-1",
        plan_id="plan-0123456789abcdef",
        bundle_id="sha256:" + "a" * 64,
        head_version="head-0123456789ab",
        steps_planned=50,
        steps_done=48,
        examples=400,
        local_normaliser=48.0,
        stop_reason=StopReason.BUDGET,
        loss_first=2.3,
        loss_last=0.4,
        engine=Engine("ai-edge-litert", "2.3.0", "xnnpack", "edgetpu"),
        energy=(
            PhaseEnergy(Phase.EMBED, 1.5, 0.9, 0.01, "measured", "serial:0", 0.1, ("degraded",)),
            PhaseEnergy(Phase.TRAIN, None, 0.0, 2.0, "unknown", "", None, ("no-sensor",)),
        ),
        update=(
            EncodedTensor("out_bias", (3,), Float32(bytes(12))),
            EncodedTensor("out_kernel", (4, 3), UniformGrid(4, 16, b"\0\0\x80\x3f", b"", bytes(range(6)))),
        ),
        embedded=400,
        train_s=2.25,
    )


def example_order() -> TrainOrder:
    """An order such as the coordinator gives."""
    return TrainOrder(
        run_id="run-0001",
        round=3,
        plan_id="plan-0123456789abcdef",
        bundle_id="sha256:" + "a" * 64,
        head_version="head-0123456789ab",
        head=(
            EncodedTensor("out_bias", (3,), Float32(bytes(12))),
            EncodedTensor("out_kernel", (4, 3), Float16(bytes(24))),
        ),
        steps=50,
        inputs={"rate": 0.05, "momentum": 0.9},
        codec=CodecOrder("uniform_stochastic", {"bits": 4.0, "bucket": 1024.0}),
        budget_j=20.0,
        deadline_s=118.5,
        seed=2**63 - 1,
        costs=CostHint(0.06, 0.004, 0.2, 3.5),
    )


def example_order_with_differences() -> TrainOrder:
    """The same for a device that holds a head from which two differences lead to the ordered one."""
    whole = example_order()
    return replace(
        whole, head=(), base="head-ba9876543210", differences=(Difference(whole.head), Difference(whole.head, 0.75))
    )


EXAMPLE_SHAPES = {"out_bias": (3,), "out_kernel": (4, 3)}
