"""Joules to a target accuracy on a fleet of unlike devices, policy by policy; and what biased weights do to the goal.

    .venv/bin/python benchmarks/budget.py --quick --json OUT       # one seed, under a minute
    .venv/bin/python benchmarks/budget.py --seeds 3 --json OUT     # the figures of docs/budgets.md, about six minutes

Rows of the fleet (benchmarks/budget_fleet.py, benchmarks/budget_policies.py): `joules_to_target`, all joules of all
devices, downloads included, until the mean held-out accuracy of three rounds is at the target (mean over seeds; null
when a seed did not get there), and `max_overspend_ratio`, the most by which any device passed its budget, as a share of
it. Every policy runs with each number of local epochs, and its best counts.

Rows of the toy (benchmarks/budget_toy.py): `bias`, the distance of a rule's fixed point from the optimum.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from budget_fleet import Data, Device, fresh, load, make_fleet
from budget_planned import Planned
from budget_policies import Everyone, FedZero, LossGate, Policy, settings
from budget_toy import toy_rows

from protos.atomic import write_whole

ROUNDS = 60
TARGETS = {"flowers": 0.885, "digits": 0.93}
_RATE = 0.05
_WINDOW = 3
# Of the sum of all devices' budgets, what the planner's fleet may spend in all rounds.
_FLEET_SHARE = 0.1

_PLAIN = '[aggregate]\nnormalise = "none"\n'
_DOWN = '[downlink]\ncodec = "entropy_coded_mmse"\nbits = 2.0\n'
_PLANNER = '[aggregate]\nweight = ["by_examples"]\n[planner]\npolicy = "joules"\np_min = 0.1\n'


def policies(devices: list[Device], epochs: int) -> dict[str, Callable[[], Policy]]:
    """Every policy, to be begun anew for each run."""
    budgets = _budgets(devices)
    return {
        "fedavg": lambda: Everyone(settings(epochs, more=_PLAIN), _RATE, epochs),
        "fixed_bits": lambda: Everyone(settings(epochs, "uniform_stochastic", 4, _DOWN), _RATE, epochs),
        "sampled": lambda: Everyone(settings(epochs, "uniform_stochastic", 4, _DOWN), _RATE, epochs, share=0.1),
        "fl_pqsu": lambda: LossGate(settings(epochs, more=_PLAIN), _RATE, epochs),
        "fedzero": lambda: FedZero(settings(epochs, more=_DOWN), _RATE, epochs, proximal_mu=0.1, share=0.5),
        "planner": lambda: Planned(settings(epochs, "entropy_coded", 2, _DOWN + _PLANNER + budgets), _RATE, epochs),
    }


def _budgets(devices: list[Device]) -> str:
    """The planner's budgets as a user would write them: a battery for each device, and a total for the fleet."""
    most_j = max(one.budget_j for one in devices)
    lines = "".join(f"{one.device_id} = {one.budget_j / most_j!r}\n" for one in devices)
    total_j = _FLEET_SHARE * sum(one.budget_j for one in devices)
    return f"[budget]\nbattery_j = {most_j!r}\nfleet_j = {total_j!r}\n[budget.scale]\n{lines}"


@dataclass(frozen=True)
class Outcome:
    """One run, until the target held or the rounds were over."""

    joules: float
    reached: bool
    overspend: float
    rounds: int
    asked: float


def run(policy: Policy, data: Data, devices: list[Device], target: float, seed: int) -> Outcome:
    """Run a policy on devices that nobody has asked for anything yet."""
    policy.begin(data, devices, ROUNDS, seed)
    head = data.start()
    joules = overspend = 0.0
    asked = 0
    curve: list[float] = []
    while len(curve) < ROUNDS:
        made = policy.round(len(curve) + 1, head)
        head, joules, overspend = made.head, joules + made.joules, max(overspend, made.overspend)
        asked += made.asked
        curve.append(data.accuracy(head))
        if len(curve) >= _WINDOW and float(np.mean(curve[-_WINDOW:])) >= target:
            return Outcome(joules, True, overspend, len(curve), asked / len(curve))
    return Outcome(joules, False, overspend, len(curve), asked / len(curve))


def fleet_rows(seeds: int, epochs: list[int]) -> list[dict[str, object]]:
    """One row a policy, with the epochs that suit it best."""
    found: dict[str, dict[int, list[Outcome]]] = {}
    data = load(0)
    for seed in range(seeds):
        data = load(seed)
        devices = make_fleet(data, seed, rounds=ROUNDS)
        for local in epochs:
            for name, make in policies(devices, local).items():
                outcome = run(make(), data, fresh(devices, seed), TARGETS[data.name], seed)
                found.setdefault(name, {}).setdefault(local, []).append(outcome)
                print(f"seed {seed}, {local} epochs, {name}: {outcome}", file=sys.stderr, flush=True)
    return [_row(name, by_epochs, data.name) for name, by_epochs in found.items()]


def _row(name: str, by_epochs: dict[int, list[Outcome]], data: str) -> dict[str, object]:
    def rank(local: int) -> tuple[int, float]:
        some = by_epochs[local]
        return sum(not one.reached for one in some), float(np.mean([one.joules for one in some]))

    best = min(by_epochs, key=rank)
    outcomes = by_epochs[best]
    reached = all(one.reached for one in outcomes)
    return {
        "policy": name,
        "joules_to_target": float(np.mean([one.joules for one in outcomes])) if reached else None,
        "reached": reached,
        "max_overspend_ratio": max(one.overspend for some in by_epochs.values() for one in some),
        "epochs": best,
        "rounds": float(np.mean([one.rounds for one in outcomes])),
        "devices_a_round": float(np.mean([one.asked for one in outcomes])),
        "joules_of_seeds": [round(one.joules, 2) for one in outcomes],
        "data": data,
        "target": TARGETS[data],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="one seed, one number of epochs; under a minute")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    fleet = fleet_rows(1, [5]) if options.quick else fleet_rows(options.seeds, [3, 5, 10])
    toy = toy_rows(quick=options.quick)
    print("| policy | joules to target | epochs | rounds | devices a round | overspend |\n|---|---|---|---|---|---|")
    for row in fleet:
        joules = row["joules_to_target"]
        shown = f"{joules:.1f}" if isinstance(joules, float) else "not reached"
        print(
            f"| {row['policy']} | {shown} | {row['epochs']} | {row['rounds']:.0f} | {row['devices_a_round']:.1f} "
            f"| {100 * float(str(row['max_overspend_ratio'])):.1f} % |"
        )
    print("\n| rule of the toy | bias | error of the Monte-Carlo mean |\n|---|---|---|")
    for row in toy:
        print(f"| {row['policy']} | {row['bias']:.4f} | {row['monte_carlo_error']:.4f} |")
    if options.json is not None:
        with write_whole(options.json) as file:
            file.write(json.dumps({"rows": [*fleet, *toy]}, indent=2).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
