"""Where averaging ends when energy decides who takes part and how many steps they make: quadratics with known answers.

Device i has the loss ``|x - c_i|^2 / 2`` with weight w_i, so the goal is ``sum w_i c_i``. It makes tau_i of 1 to 50
local steps and takes part when it has harvested enough: a charge that grows with a weather that all devices share and
with one of its own, so that participation is rare for some, correlated between devices and over time.

A rule's bias is the distance of the mean of its late heads from the goal, over runs of different weather. Whatever is
left of an unbiased rule is the error of the Monte-Carlo mean, and is printed beside it.

    fedavg         whoever has the energy; mean of the changes as they are
    fednova_ratio  the same, per unit of the normaliser; still divided by those who came
    fedau          weights by observed intervals, divided by all
    planner        drawn with a known probability that the harvest sustains, weights 1 / p, divided by all
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.budgets.round_plan import draw
from coordinator.budgets.unbiased import interval_weight
from protos.normaliser import local_normaliser

DEVICES, DIMENSIONS = 12, 6
_RATE = 0.02
_BURN_IN = 150


@dataclass(frozen=True)
class Toy:
    """The problem: centres [N, D], weights [N] summing to 1, steps [N]; harvest [N], in participations a round."""

    centres: np.ndarray
    weights: np.ndarray
    steps: np.ndarray
    harvest: np.ndarray

    @property
    def goal(self) -> np.ndarray:
        return self.weights @ self.centres


def make(seed: int) -> Toy:
    """Poor devices make few steps and have centres of their own: what energy decides is not independent of the data."""
    random = np.random.default_rng([seed, 11])
    harvest = np.linspace(0.15, 1.1, DEVICES)
    steps = np.unique(np.geomspace(1, 50, DEVICES).astype(int))
    steps = np.sort(random.choice(np.arange(1, 51), DEVICES)) if len(steps) < DEVICES else steps
    centres = random.standard_normal((DEVICES, DIMENSIONS)) + 2.0 * harvest[:, None]
    weights = random.dirichlet(np.full(DEVICES, 5.0))
    return Toy(centres, weights, steps, harvest)


def weather(toy: Toy, rounds: int, random: np.random.Generator) -> np.ndarray:
    """Harvest [rounds, N]: a common factor with a memory of about ten rounds, and one of each device; mean 1 each."""
    common = np.empty(rounds)
    level = 0.0
    for at in range(rounds):
        level = 0.9 * level + 0.436 * random.standard_normal()
        common[at] = np.exp(0.5 * level - 0.125)
    return toy.harvest * common[:, None] * random.exponential(1.0, (rounds, DEVICES))


def trained(toy: Toy, head: np.ndarray, one: int) -> np.ndarray:
    """The local change of device ``one``, in closed form."""
    change: np.ndarray = (1.0 - (1.0 - _RATE) ** toy.steps[one]) * (toy.centres[one] - head)
    return change


def run(rule: str, toy: Toy, rounds: int, random: np.random.Generator) -> np.ndarray:
    """The mean head after the first rounds; [D]."""
    head = np.zeros(DIMENSIONS)
    came = weather(toy, rounds, random)
    charge = np.zeros(DEVICES)
    took: list[list[int]] = [[] for _ in range(DEVICES)]
    kept = np.zeros(DIMENSIONS)
    # What the planner believes a round gives: the long-run mean, with room for bad weather.
    p = np.minimum(1.0, 0.6 * toy.harvest)
    normalisers = [local_normaliser(int(steps), rate=_RATE, proximal_mu=1.0) for steps in toy.steps]
    work = float(toy.weights @ np.array(normalisers))
    last = np.zeros(DIMENSIONS)
    for number in range(1, rounds + 1):
        charge = np.minimum(charge + came[number - 1], 30.0)
        able = charge >= 1.0
        if rule == "planner":
            # Drawn with p whatever the weather; the battery carries it over bad days.
            drawn = {int(name) for name in draw({str(i): float(p[i]) for i in range(DEVICES)}, random)}
            asked = [index for index in range(DEVICES) if index in drawn and able[index]]
        else:
            asked = [index for index in range(DEVICES) if able[index]]
        total = np.zeros(DIMENSIONS)
        weight = 0.0
        moved = 0.0
        for index in asked:
            charge[index] -= 1.0
            change, normaliser = trained(toy, head, index), normalisers[index]
            w = float(toy.weights[index])
            if rule == "planner":
                w /= float(p[index])
            elif rule == "fedau":
                w *= interval_weight(took[index], number)
            unit = 1.0 if rule == "fedavg" else normaliser
            total += w * change / unit
            weight += w
            moved += w * normaliser
            took[index].append(number)
        if rule in ("planner", "fedau"):
            last = work * total + last * (1.0 - weight)
            head = head + last
        elif weight:
            # A ratio: those who came, as if they were all.
            head = head + (total / weight if rule == "fedavg" else total / weight * moved / weight)
        if number > _BURN_IN:
            kept += head / (rounds - _BURN_IN)
    return kept


def toy_rows(*, quick: bool, seed: int = 0) -> list[dict[str, object]]:
    """One row a rule: bias, and the error of the Monte-Carlo mean, as shares of the distance from start to goal."""
    toy = make(seed)
    runs, rounds = (10, 500) if quick else (200, 1500)
    scale = float(np.linalg.norm(toy.goal))
    rows: list[dict[str, object]] = []
    for rule in ("fedavg", "fednova_ratio", "fedau", "planner"):
        ends = np.array([run(rule, toy, rounds, np.random.default_rng([seed, 12, number])) for number in range(runs)])
        error = float(np.sqrt(ends.var(axis=0, ddof=1).sum() / runs))
        bias = float(np.linalg.norm(ends.mean(axis=0) - toy.goal))
        rows.append(
            {
                "policy": f"toy:{rule}",
                "joules_to_target": None,
                # Of the optimum, as far as so many runs can tell; a participation is never begun without its energy.
                "reached": bias <= 3.5 * error,
                "max_overspend_ratio": 0.0,
                "bias": bias / scale,
                "monte_carlo_error": error / scale,
            }
        )
    return rows
