"""Bounds and noise: what is spent, by the formula and by what was published; when it ends; what is refused."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.aggregate.privacy import MOST_EPSILON, clipped, delta_of, epsilon_of, noisy, rounds_within
from coordinator.operator.client import Operator
from protos.errors import PlanError
from protos.plan.plan import parse
from protos.update.tensors import decode
from protos.update.trees import norm

Fleet = Callable[..., Any]
PRIVATE = (
    '[aggregate]\nweight = []\nnormalise = "none"\n[privacy]\nclip = {clip}\nnoise = {noise}\nepsilon = {epsilon}\n'
)


def test_a_change_is_cut_to_the_bound_and_keeps_its_direction() -> None:
    random = np.random.default_rng(0)
    for scale in (1e-30, 0.1, 1.0, 1e30):
        tree = {"a": (scale * random.normal(size=50)).astype(np.float32), "b": np.full((2, 2), scale, np.float32)}
        cut = clipped(tree, 0.5)
        assert norm(cut) <= 0.5
        if norm(tree) > 0.5:
            assert norm(cut) > 0.4999
            np.testing.assert_allclose(cut["a"] / cut["b"][0, 0], tree["a"] / tree["b"][0, 0], rtol=1e-4)
        else:
            assert cut is tree


def test_delta_is_the_integral_that_defines_it() -> None:
    """sup over events of P(A) - e^eps Q(A) for two Gaussians one sensitivity apart, on a fine grid."""
    from scipy.stats import norm as normal  # type: ignore[import-untyped]

    x = np.linspace(-60, 60, 1_200_001)
    for noise, rounds in ((1.0, 1), (2.0, 9), (0.7, 3)):
        deviation = noise / math.sqrt(rounds)
        p, q = normal.pdf(x, 1.0, deviation), normal.pdf(x, 0.0, deviation)
        for epsilon in (0.1, 1.0, 4.0):
            integral = np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0])
            assert delta_of(epsilon, noise, rounds) == pytest.approx(integral, abs=1e-7)


def test_epsilon_agrees_with_an_accountant_that_composes_round_by_round() -> None:
    accounting = pytest.importorskip("dp_accounting", reason="needs dp-accounting: the privacy extra")
    for noise, rounds in ((1.0, 1), (1.0, 10), (4.0, 100)):
        ledger = accounting.pld.PLDAccountant()
        ledger.compose(accounting.GaussianDpEvent(noise), rounds)
        assert epsilon_of(noise, rounds, 1e-5) == pytest.approx(ledger.get_epsilon(1e-5), rel=2e-3)


def test_more_rounds_spend_more_and_more_noise_less() -> None:
    spent = [epsilon_of(2.0, rounds, 1e-5) for rounds in range(40)]
    assert spent[0] == 0.0
    assert all(value < two for value, two in itertools.pairwise(spent))
    assert epsilon_of(0.01, 100, 1e-5) == math.inf
    assert epsilon_of(8.0, 10, 1e-5) < epsilon_of(4.0, 10, 1e-5) < MOST_EPSILON
    for noise, epsilon in ((1.0, 8.0), (2.0, 3.0), (30.0, 1.0)):
        rounds = rounds_within(noise, epsilon, 1e-5)
        assert epsilon_of(noise, rounds, 1e-5) <= epsilon < epsilon_of(noise, rounds + 1, 1e-5)


def test_noise_is_as_large_as_said_and_another_each_time() -> None:
    mean = {"x": np.zeros(40_000), "y": np.ones((20, 1000))}
    one, two = noisy(mean, 2.0, 1.5, 5), noisy(mean, 2.0, 1.5, 5)
    assert not np.array_equal(one["x"], two["x"])
    assert one["x"].std() == pytest.approx(2.0 * 1.5 / 5, rel=0.02)
    assert (one["y"] - 1).std() == pytest.approx(2.0 * 1.5 / 5, rel=0.03)
    assert abs(np.corrcoef(one["x"][:20_000], one["y"].reshape(-1))[0, 1]) < 0.03


def test_contradictions_are_refused_with_the_reason() -> None:
    good = PRIVATE.format(clip=1, noise=1, epsilon=8)
    assert parse(f'[run]\nbundle = "b"\n{good}').privacy.noise == 1.0
    for more, why in (
        ("[privacy]\nnoise = 1\nepsilon = 8", "noise without a bound on each change hides nothing"),
        ("[privacy]\nclip = 1\nnoise = 1", "nothing says how much may be spent"),
        ("[privacy]\nclip = 1\nepsilon = 1", "infinite without noise"),
        ("[privacy]\nclip = 1", "weights differ"),
        (good.replace('normalise = "none"\n', ""), "scales changes after the bound"),
        (good.replace("weight = []", 'weight = []\nrule = "median"'), "a robust rule"),
        (good + '[update]\ncodec = "eden"\n[planner]\npolicy = "joules"\n', "a planner's weights"),
        (good + '[train]\nmethod = "closed_form"\n', "summed exactly"),
    ):
        with pytest.raises(PlanError, match=why):
            parse(f'[run]\nbundle = "b"\n{more}')


def test_a_run_ends_when_epsilon_is_spent_and_status_shows_it(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rounds can be paid for of the five that are planned; a coordinator that starts again remembers."""
    from coordinator.cli import main

    noise, clip = 2.0, 0.5
    epsilon = (epsilon_of(noise, 2, 1e-5) + epsilon_of(noise, 3, 1e-5)) / 2
    text = tools.plan(plain_bundle, rounds=5, devices=2, more=PRIVATE.format(clip=clip, noise=noise, epsilon=epsilon))
    state = tmp_path / "state"
    heads: list[Any] = []
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        _both(fleet, address, "first", 1, heads)
        tools.until(lambda: operator.status(run_id)[0].privacy.rounds == 1, "round 1")
    with tools.served(state) as address, Operator(address) as operator:
        _both(fleet, address, "second", 2, heads)
        status = tools.finished(operator, run_id)
        assert status.state == "finished"
        assert f"privacy.epsilon = {epsilon:g} is spent on every device" in status.reason
        assert status.privacy.rounds == 2
        assert status.privacy.epsilon == pytest.approx(epsilon_of(noise, 2, 1e-5))
        assert status.privacy.epsilon < status.privacy.limit
        assert main(["status", run_id, "--coordinator", address]) == 0
        shown = capsys.readouterr()
        assert re.search(r"privacy +epsilon [\d.]+ of [\d.]+ spent", shown.out + shown.err)
    # What moved the head in round 1: each change at most 0.5 long, noise of 2 x 0.5 / 2 in each coordinate.
    moved = np.concatenate([(heads[1][name] - heads[0][name]).reshape(-1) for name in sorted(heads[0])])
    assert 0.5 * 0.7 < moved.std() < 0.5 * 1.4


def _both(fleet: Fleet, address: str, session: str, number: int, heads: list[Any]) -> None:
    devices = [fleet(address, name, session=f"{name}-{session}") for name in ("a", "b")]
    for device in devices:
        device.join()
    orders = [device.order(round=number) for device in devices]
    heads.append(decode(orders[0].head, {one.name: one.shape for one in orders[0].head}))
    for device, order in zip(devices, orders, strict=True):
        device.send(device.answer(order, 1000.0))


def test_check_plan_prints_what_will_be_spent(plain_bundle: Path, tools: Any, tmp_path: Path) -> None:
    from coordinator.run.planning import prepare, summary

    text = tools.plan(plain_bundle, rounds=30, devices=2, more=PRIVATE.format(clip=1, noise=2, epsilon=8))
    found = summary(prepare(text, tmp_path))["privacy"]
    assert isinstance(found, dict)
    assert found["rounds"] == rounds_within(2.0, 8.0, 1e-5) < 30
    assert 7 < found["epsilon"] <= 8
    text = tools.plan(plain_bundle, rounds=30, devices=2, more=PRIVATE.format(clip=1, noise=0.5, epsilon=2))
    with pytest.raises(PlanError, match=r"one round with noise 0\.5 spends epsilon"):
        prepare(text, tmp_path)
