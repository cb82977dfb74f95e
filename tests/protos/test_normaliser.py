"""FedNova's normaliser against the closed forms of the paper and against the optimiser itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.normaliser import local_normaliser, of_optimiser

STEPS = st.integers(0, 60)
MOMENTUM = st.floats(0.0, 0.95)
PULL = st.floats(1e-3, 0.9)


@given(STEPS, MOMENTUM)
def test_momentum_has_the_closed_form_of_the_paper(steps: int, momentum: float) -> None:
    expected = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    assert local_normaliser(steps, rate=0.1, momentum=momentum) == pytest.approx(expected, abs=1e-9)


@given(STEPS, PULL)
def test_the_proximal_term_has_the_closed_form_of_the_paper(steps: int, pull: float) -> None:
    expected = (1 - (1 - pull) ** steps) / pull
    assert local_normaliser(steps, rate=0.1, proximal_mu=pull / 0.1) == pytest.approx(expected, abs=1e-9)


@given(STEPS, MOMENTUM, st.floats(0, 2), st.floats(0.01, 0.5))
def test_it_is_how_far_a_constant_gradient_is_carried(steps: int, momentum: float, mu: float, rate: float) -> None:
    start = position = 3.0
    velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0 + mu * (position - start)
        position -= rate * velocity
    expected = abs(position - start) / rate
    assert local_normaliser(steps, rate=rate, momentum=momentum, proximal_mu=mu) == pytest.approx(expected, abs=1e-6)


def test_no_step_carries_nowhere_and_steps_alone_are_counted_exactly() -> None:
    assert local_normaliser(0, rate=0.1, momentum=0.9, proximal_mu=1.0) == 0.0
    assert local_normaliser(1, rate=0.1, momentum=0.9, proximal_mu=1.0) == 1.0
    assert local_normaliser(123_457, rate=0.1) == 123_457.0


def test_as_many_steps_as_an_order_can_ask_for_are_computed_at_once() -> None:
    steps = 2**31
    assert local_normaliser(steps, rate=0.1) == steps
    assert local_normaliser(steps, rate=0.1, momentum=0.5) == pytest.approx(2 * steps - 2, rel=1e-9)
    assert local_normaliser(steps, rate=0.1, momentum=0.9, proximal_mu=0.5) == pytest.approx(20.0, rel=1e-9)


def test_a_recursion_that_diverges_is_no_finite_size() -> None:
    assert not math.isfinite(local_normaliser(10_000, rate=1.0, momentum=0.9, proximal_mu=50.0))


def test_an_adaptive_optimiser_counts_its_steps_whatever_its_inputs() -> None:
    inputs = {"rate": 0.1, "momentum": 0.9, "proximal_mu": 1.0}
    assert of_optimiser("adam", 7, inputs) == 7.0
    assert of_optimiser("sgd", 7, inputs) == local_normaliser(7, rate=0.1, momentum=0.9, proximal_mu=1.0) != 7.0
    assert of_optimiser("sgd", 7, {}) == 7.0
