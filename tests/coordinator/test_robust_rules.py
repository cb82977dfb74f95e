"""Rules against false reports: the contract, the formulas by hand, what liars cannot do, and rounds over the wire."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregate.clean_cost import clean_cost
from coordinator.aggregate.robust import ROBUST_RULES, Gathered, RobustSettings, false_at_most
from coordinator.budgets.codec_error import ERROR, error_on
from coordinator.operator.client import Operator
from protos.errors import PlanError
from protos.plan.plan import parse
from protos.update import codecs
from protos.update.tensors import decode
from protos.update.trees import Tree

Fleet = Callable[..., Any]
Rows = npt.NDArray[np.float64]
ROWS = sorted(ROBUST_RULES)
KINDS = [
    pytest.param(RobustSettings(rule, clip, mix, 0.2), id=f"{rule}, clip {clip:g}, mix {int(mix)}")
    for rule, clip, mix in itertools.product(ROWS, (0.0, 1.0), (False, True))
]
SHAPES = {"bias": (3,), "kernel": (4, 3)}


def tree_of(row: Rows) -> Tree:
    return {"bias": row[:3].astype(np.float32), "kernel": row[3:15].reshape(4, 3).astype(np.float32)}


def rows_of(count: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    return (random.normal(size=15) + random.normal(size=(count, 15))).astype(np.float32).astype(np.float64)


def fold(
    rules: RobustSettings,
    rows: Rows,
    weights: Any = None,
    steps: Any = None,
    errors: Any = None,
    *,
    fednova: bool = False,
) -> Rows | None:
    made = Gathered(SHAPES, rules, fednova)
    count = len(rows)
    for at in range(count):
        weight = 1.0 if weights is None else float(weights[at])
        tau = 1.0 if steps is None else float(steps[at])
        made.add(str(at), tree_of(rows[at]), weight, tau, 0.0 if errors is None else float(errors[at]))
    change = made.finish()
    return None if change is None else np.concatenate([change["bias"], change["kernel"].reshape(-1)])


@pytest.mark.parametrize("rules", KINDS)
def test_equal_changes_come_back_as_they_are(rules: RobustSettings) -> None:
    row = rows_of(1)
    for count in (1, 2, 5):
        found = fold(
            rules, np.repeat(row, count, axis=0), [1.0, 5.0, 0.5, 2.0, 3.0][:count], [4.0] * count, fednova=True
        )
        assert found is not None
        np.testing.assert_allclose(found, row[0], rtol=1e-6)


@pytest.mark.parametrize("rules", KINDS)
@settings(max_examples=10)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_order_and_common_scale_of_the_weights_do_not_matter(rules: RobustSettings, seed: int, scale: float) -> None:
    rows, random = rows_of(7, seed), np.random.default_rng(seed)
    weights, mixed = random.uniform(0.5, 2, 7), random.permutation(7)
    one, two = fold(rules, rows, weights), fold(rules, rows[mixed], weights[mixed] * scale)
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rules", KINDS)
def test_without_weight_or_steps_a_change_has_no_effect_and_none_is_none(rules: RobustSettings) -> None:
    rows = rows_of(5)
    assert fold(rules, rows[:2], [0.0, 1.0], [1.0, 0.0]) is None
    alone, beside = fold(rules, rows[:3]), fold(rules, rows, [1, 1, 1, 0, 1], [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(alone, beside)


def by_hand(rule: str, x: Rows, w: Rows, f: int) -> Rows:
    """The formulas of the module, one line after the other."""
    n = len(x)
    w = w / w.sum()
    if rule == "mean":
        return np.asarray(w @ x)
    if rule == "median":  # equal weights
        return np.asarray(np.median(x, axis=0))
    if rule == "trimmed_mean":  # equal weights
        return np.asarray(np.sort(x, axis=0)[f : n - f].mean(axis=0))
    if rule == "multi_krum":
        scores = [np.sort([((a - b) ** 2).sum() for b in x])[1 : n - f - 1].sum() for a in x]
        chosen = np.argsort(scores)[: n - f]
        return np.asarray((w[chosen] @ x[chosen]) / w[chosen].sum())
    if rule == "geometric_median":
        z = w @ x
        for _ in range(2000):
            pull = w / np.maximum(np.linalg.norm(x - z, axis=1), 1e-12)
            z = pull @ x / pull.sum()
        return np.asarray(z)
    v = np.zeros(x.shape[1])
    for _ in range(5):
        away = np.linalg.norm(x - v, axis=1)
        v = v + w @ ((x - v) * np.minimum(1, np.median(away) / away)[:, None])
    return v


@pytest.mark.parametrize("rule", ROWS)
@pytest.mark.parametrize(("clip", "mix"), [(0.0, False), (1.0, False), (0.0, True), (1.5, True)])
def test_every_rule_is_its_formula(rule: str, clip: float, mix: bool) -> None:
    for seed in range(5):
        rows, f = rows_of(9, seed), 2
        weights = np.ones(9) if rule in ("median", "trimmed_mean") else np.random.default_rng(seed).uniform(0.5, 2, 9)
        found = fold(RobustSettings(rule, clip, mix, 0.2), rows, weights)
        seen = rows.copy()
        if clip:
            sizes = np.linalg.norm(seen, axis=1)
            seen *= np.minimum(1, clip * np.median(sizes) / sizes)[:, None]
        if mix:
            away = np.linalg.norm(seen[:, None] - seen[None], axis=2)
            near = [np.argsort(away[at])[: 9 - f] for at in range(9)]
            seen, weights = np.stack([seen[array].mean(axis=0) for array in near]), weights[near].mean(axis=1)
        expected = by_hand(rule, seen, weights, f)
        assert found is not None
        if rule == "geometric_median":
            # Weiszfeld's steps are slow where the median lies at one of the changes: near in what they minimise.
            far = [float(weights @ np.linalg.norm(seen - z, axis=1)) for z in (found, expected)]
            assert far[0] == pytest.approx(far[1], rel=1e-4)
        else:
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_weighted_medians_have_half_the_weight_on_either_side() -> None:
    rows = np.repeat(np.array([[1.0], [2.0], [10.0]]), 15, axis=1)
    for weights, expected in (([1, 1, 1], 2.0), ([1, 1, 3], 10.0), ([5, 1, 1], 1.0), ([1, 1, 2], 6.0)):
        found = fold(RobustSettings("median"), rows, weights)
        np.testing.assert_allclose(found, expected)
    capped = fold(RobustSettings("median", weight_cap=1.0), rows, [1, 1, 1000])
    np.testing.assert_allclose(capped, 2.0, err_msg="who says that it has the most examples does not decide alone")


@pytest.mark.parametrize("rule", [row for row in ROWS if row != "mean"])
@pytest.mark.parametrize("mix", [False, True])
def test_two_of_ten_that_send_whatever_they_like_do_not_lead(rule: str, mix: bool) -> None:
    random = np.random.default_rng(1)
    truth = random.normal(size=15)
    honest = truth + 0.3 * random.normal(size=(8, 15))
    worst = 0.0
    for lie in (1e30 * np.ones(15), -1000 * truth, -truth, np.zeros(15), 3 * truth):
        rows = np.concatenate([honest, [lie, lie]])
        found = fold(RobustSettings(rule, 2.0, mix, 0.2), rows.astype(np.float32).astype(np.float64))
        assert found is not None
        worst = max(worst, float(np.linalg.norm(found - honest.mean(axis=0))))
    # No farther than the honest ones are from each other; the plain mean goes anywhere.
    assert worst < float(np.linalg.norm(truth)) / 2
    plain = fold(RobustSettings("mean"), np.concatenate([honest, [-1000 * truth] * 2]))
    assert plain is not None
    assert float(np.linalg.norm(plain - truth)) > 100


def test_how_many_may_be_false_is_rounded_up_and_never_half() -> None:
    for count in range(1, 60):
        for share in (0.0, 0.1, 0.2, 0.45):
            f = false_at_most(count, share)
            assert f >= min(share * count - 1e-9, (count - 1) // 2)
            assert 2 * f < count


@pytest.mark.parametrize("codec", ["eden", "entropy_coded"])
@pytest.mark.parametrize("mixed", [False, True])
def test_devices_that_were_ordered_to_send_one_bit_are_not_voted_out(codec: str, mixed: bool) -> None:
    """Ten honest devices, five at one bit and five at eight, real codecs: with the codec's own error taken off, who is
    left out does not depend on bits; without, those at one bit are."""
    shape, out = {"x": (4096,)}, {"corrected": 0, "plain": 0}
    for seed in range(6):
        random = np.random.default_rng(seed)
        common = random.normal(size=4096)
        made = {name: Gathered(shape, RobustSettings("multi_krum", 0.0, mixed, 0.3), False) for name in out}
        for at in range(10):
            bits = 1.0 if at % 2 else 8.0
            tree = {"x": (common + 0.5 * random.normal(size=4096)).astype(np.float32)}
            coder = codecs.build(codec, {"bits": bits})
            tensors, _ = coder.encode(tree, coder.init(shape), random)
            read = decode(tensors, shape)
            # What one device says is told apart by a weight that is no other's.
            made["corrected"].add(str(at), read, 1.0, 1.0, error_on(codec, (("bits", bits),), (("x", (4096,)),)))
            made["plain"].add(str(at), read, 1.0, 1.0, 0.0)
        for name, one in made.items():
            change = one.finish()
            assert change is not None
            rows = np.stack(one.rows).astype(np.float64)
            shares, *_ = np.linalg.lstsq(rows.T, change["x"], rcond=None)
            out[name] += int((shares[1::2] < shares[::2].mean() / 4).sum())
    if mixed:
        # A mean of seven is hardly moved by one of them; what is asked is that the coarse are in as many as the fine.
        assert out["corrected"] <= out["plain"]
        return
    assert out["plain"] == 6 * 3, "three of ten are left out, and all of them are coarse"
    assert out["corrected"] < out["plain"] * 0.75


def test_a_large_change_is_not_forgiven_because_it_was_ordered_coarse() -> None:
    honest = rows_of(8)
    liar = -40 * honest.mean(axis=0, keepdims=True)
    rows = np.concatenate([honest, liar])
    coarse = fold(RobustSettings("multi_krum", malicious=0.1), rows, errors=[0.0] * 8 + [ERROR["eden"][1.0]])
    found = fold(RobustSettings("multi_krum", malicious=0.1), rows, errors=[0.0] * 9)
    np.testing.assert_array_equal(coarse, found)


def test_the_error_of_a_codec_is_that_on_heads_of_this_size() -> None:
    for codec in ERROR:
        large = error_on(codec, (("bits", 2.0),), (("x", (1 << 16,)),))
        assert large == pytest.approx(ERROR[codec][2.0], rel=0.1)
        assert error_on(codec, (("bits", 2.0),), (("x", (300,)),)) > 0
    assert error_on("float32", (), (("x", (300,)),)) == 0.0
    assert error_on("keep_largest", (), (("x", (300,)),)) == 0.0, "what it leaves out is not white"


def test_what_a_rule_costs_when_nobody_lies_is_worked_out() -> None:
    assert clean_cost(RobustSettings("mean"), 10) == {
        "alike": pytest.approx(0, abs=1e-6),
        "skewed": pytest.approx(0, abs=1e-6),
    }
    median, krum = clean_cost(RobustSettings("median"), 10), clean_cost(RobustSettings("multi_krum"), 10)
    assert 0 < median["alike"] < median["skewed"]
    assert 0 < krum["alike"] < krum["skewed"]
    more = clean_cost(RobustSettings("trimmed_mean", malicious=0.3), 10)
    assert more["skewed"] > clean_cost(RobustSettings("trimmed_mean", malicious=0.1), 10)["skewed"]


def test_contradictions_are_refused_with_the_reason() -> None:
    def plan(more: str) -> Any:
        return parse(f'[run]\nbundle = "b"\n{more}')

    for more, why in (
        ('[aggregate]\nrule = "krum"', "no rule is called 'krum'; did you mean 'multi_krum'"),
        (
            '[update]\ncodec = "eden"\n[planner]\npolicy = "joules"\n[aggregate]\nclip = 1',
            "aggregate.clip makes",
        ),
        ('[train]\nmethod = "closed_form"\n[aggregate]\nmix = 1', "cannot look into a sum"),
        ('[planner]\nparticipation = "fedau"\n[aggregate]\nrule = "median"', "make a mean unbiased"),
    ):
        with pytest.raises(PlanError, match=why):
            plan(more)
    assert plan('[aggregate]\nrule = "median"').aggregate.weight_cap == 3.0
    assert plan('[aggregate]\nrule = "median"\nweight_cap = 8').aggregate.weight_cap == 8.0
    assert plan("").aggregate.weight_cap is None
    assert not plan("").aggregate.gathers


@pytest.mark.parametrize("restarted", [False, True])
def test_a_device_that_lies_over_the_wire_is_cut_and_named_also_after_a_restart(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    more = '[aggregate]\nrule = "trimmed_mean"\nclip = 2.0\nmix = 1\nmalicious = 0.2\nweight = []\n'
    text = tools.plan(plain_bundle, rounds=2, devices=5, quorum=1.0, more=more)
    says = {"a": 0.10, "b": 0.11, "c": 0.12, "d": 0.09, "liar": -50.0}
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        operator.start_run(text, tmp_path)
        devices = {name: fleet(address, name) for name in says}
        for device in devices.values():
            device.join()
        orders = {name: device.order(round=1) for name, device in devices.items()}
        for name in ("liar", "a", "b"):
            devices[name].send(devices[name].answer(orders[name], says[name]))
        if not restarted:
            head = _rest(devices, orders, says)
    if restarted:
        with tools.served(state) as address:
            devices = {name: fleet(address, name, session="again") for name in says}
            for device in devices.values():
                device.join()
            orders |= {name: devices[name].order(round=1) for name in ("c", "d")}
            head = _rest(devices, orders, says)
    before = decode(orders["a"].head, {one.name: one.shape for one in orders["a"].head})
    moved = {name: head[name] - before[name] for name in head}
    for value in moved.values():
        assert (value > 0.09).all()
        assert (value < 0.12).all()
    assert "liar: its change is" in caplog.text


def _rest(devices: Any, orders: Any, says: Any) -> Tree:
    for name in ("c", "d"):
        devices[name].send(devices[name].answer(orders[name], says[name]))
    order = devices["a"].order(round=2)
    return decode(order.head, {one.name: one.shape for one in order.head})
