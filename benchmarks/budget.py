"""Joules to a target accuracy on a fleet of unlike devices, policy by policy; and what biased weights do to the goal.

    .venv/bin/python benchmarks/budget.py --quick --json OUT       # one seed, under a minute
    .venv/bin/python benchmarks/budget.py --seeds 3 --json OUT     # the figures of docs/budgets.md, about six minutes
    .venv/bin/python benchmarks/budget.py --judged --json OUT      # ten fresh seeds, two data sets, two radios: an hour
    .venv/bin/python benchmarks/budget.py --judged --data digits --radio lte --seeds 5 --json PART   # a piece
    .venv/bin/python benchmarks/budget.py --join PART PART ... --json OUT

Rows of the fleet (benchmarks/budgets/fleet.py, benchmarks/budgets/policies.py, benchmarks/budgets/one_pass.py):
`joules_to_target`, all joules of all devices, downloads included, until the mean held-out accuracy of three rounds is
at the target (mean over seeds; null when a seed did not get there), `ci95` its half width (Student's t), and
`max_overspend_ratio`, the most by which any device passed its budget, as a share of it.

With --seeds every policy runs with each number of local epochs on seeds 0, 1, ..., and its best counts. Those that came
out best there are EPOCHS, and with --judged each policy runs with that one alone, on seeds from 200 on that nothing was
chosen by: p_min, budgets, rate and targets are those of before as well. Radios are rows of `_LINKS` in
benchmarks/budgets/fleet.py, with their sources; every device has the same then.

Rows of the toy (benchmarks/budgets/toy.py): `bias`, the distance of a rule's fixed point from the optimum.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.budgets.fleet import _LINKS as LINKS
from benchmarks.budgets.fleet import Data, Device, fresh, load, make_fleet
from benchmarks.budgets.one_pass import OnePass
from benchmarks.budgets.planned import Planned
from benchmarks.budgets.policies import Everyone, FedZero, LossGate, Policy, settings
from benchmarks.budgets.toy import toy_rows
from benchmarks.one_pass.fleet import mean_and_interval
from protos.atomic import write_whole

ROUNDS = 60
TARGETS = {"flowers": 0.885, "digits": 0.93}
# What suited each policy best on seeds 0 to 2 of flowers with all links, in docs/budgets.md.
EPOCHS = {"fedavg": 5, "fixed_bits": 10, "sampled": 10, "fl_pqsu": 3, "fedzero": 10, "planner": 5, "one_pass": 1}
JUDGED_DATA, JUDGED_RADIOS, FIRST_JUDGED, JUDGED_SEEDS = ("flowers", "digits"), ("lte", "wifi"), 200, 10
_RATE = 0.05
_WINDOW = 3
# Of the sum of all devices' budgets, what the planner's fleet may spend in all rounds. With 0.1, which was judged on
# seeds 100 to 109, it paid for too little to get there in every seed; 0.2 is chosen of (0.1, 0.2, 0.4) on seeds 0 to 2.
_FLEET_SHARE = 0.2

_PLAIN = '[aggregate]\nnormalise = "none"\n'
_DOWN = '[downlink]\ncodec = "entropy_coded_mmse"\nbits = 2.0\n'
_PLANNER = '[aggregate]\nweight = ["by_examples"]\n[planner]\npolicy = "joules"\np_min = 0.1\n'


def policies(devices: list[Device], epochs: int, fleet_share: float) -> dict[str, Callable[[], Policy]]:
    """Every policy, to be begun anew for each run."""
    budgets = _budgets(devices, fleet_share)
    return {
        "fedavg": lambda: Everyone(settings(epochs, more=_PLAIN), _RATE, epochs),
        "fixed_bits": lambda: Everyone(settings(epochs, "uniform_stochastic", 4, _DOWN), _RATE, epochs),
        "sampled": lambda: Everyone(settings(epochs, "uniform_stochastic", 4, _DOWN), _RATE, epochs, share=0.1),
        "fl_pqsu": lambda: LossGate(settings(epochs, more=_PLAIN), _RATE, epochs),
        "fedzero": lambda: FedZero(settings(epochs, more=_DOWN), _RATE, epochs, proximal_mu=0.1, share=0.5),
        "planner": lambda: Planned(settings(epochs, "entropy_coded", 2, _DOWN + _PLANNER + budgets), _RATE, epochs),
        "one_pass": OnePass,
    }


def _budgets(devices: list[Device], fleet_share: float) -> str:
    """The planner's budgets as a user would write them: a battery for each device, and a total for the fleet."""
    most_j = max(device.budget_j for device in devices)
    lines = "".join(f"{device.device_id} = {device.budget_j / most_j!r}\n" for device in devices)
    total_j = fleet_share * sum(device.budget_j for device in devices)
    return f"[budget]\nbattery_j = {most_j!r}\nfleet_j = {total_j!r}\n[budget.scale]\n{lines}"


@dataclass(frozen=True)
class Outcome:
    """One run, until the target held or the rounds were over."""

    joules: float
    reached: bool
    overspend: float
    rounds: int
    asked: float


@dataclass(frozen=True)
class Found:
    """An outcome, and of what."""

    data: str
    radio: str
    policy: str
    epochs: int
    seed: int
    outcome: Outcome


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


def runs_of(
    name: str,
    radio: str,
    seeds: Sequence[int],
    epochs: Sequence[int] | None,
    only: Sequence[str],
    fleet_share: float = _FLEET_SHARE,
) -> list[Found]:
    """Every policy, or those that are named, on fleets of these seeds; epochs None: those of EPOCHS."""
    made = []
    for seed in seeds:
        data = load(seed, name)
        devices = make_fleet(data, seed, rounds=ROUNDS, radio=radio)
        for local in epochs or sorted(set(EPOCHS.values())):
            for policy, make in policies(devices, local, fleet_share).items():
                if (only and policy not in only) or (epochs is None and EPOCHS[policy] != local):
                    continue
                if policy == "one_pass" and epochs is not None and local != epochs[0]:
                    continue  # it has no epochs
                outcome = run(make(), data, fresh(devices, seed), TARGETS[data.name], seed)
                made.append(Found(data.name, radio, policy, local, seed, outcome))
                print(
                    f"{data.name}, {radio}, seed {seed}, {local} epochs, {policy}: {outcome}",
                    file=sys.stderr,
                    flush=True,
                )
    return made


def rows_of(found: Sequence[Found]) -> list[dict[str, Any]]:
    """One row for each data set, radio and policy, with the epochs that suit it best of those it ran with."""
    by_policy: dict[tuple[str, str, str], dict[int, list[Found]]] = {}
    for result in found:
        by_policy.setdefault((result.data, result.radio, result.policy), {}).setdefault(result.epochs, []).append(
            result
        )
    return [_row(*key, by_epochs) for key, by_epochs in by_policy.items()]


def _row(data: str, radio: str, policy: str, by_epochs: dict[int, list[Found]]) -> dict[str, Any]:
    def rank(local: int) -> tuple[int, float]:
        some = [result.outcome for result in by_epochs[local]]
        return sum(not outcome.reached for outcome in some), float(np.mean([outcome.joules for outcome in some]))

    best = min(by_epochs, key=rank)
    ran = sorted(by_epochs[best], key=lambda result: result.seed)
    outcomes = [result.outcome for result in ran]
    reached = [outcome.joules for outcome in outcomes if outcome.reached]
    mean, half = mean_and_interval(reached) if len(reached) == len(outcomes) else (float("nan"), float("nan"))
    return {
        "policy": policy,
        "joules_to_target": mean if np.isfinite(mean) else None,
        "ci95": half if np.isfinite(half) else None,
        "reached": len(reached) == len(outcomes),
        "seeds_that_reached": len(reached),
        "max_overspend_ratio": max(result.outcome.overspend for some in by_epochs.values() for result in some),
        "epochs": best,
        "rounds": float(np.mean([outcome.rounds for outcome in outcomes])),
        "devices_a_round": float(np.mean([outcome.asked for outcome in outcomes])),
        "joules_of_seeds": [round(outcome.joules, 2) for outcome in outcomes],
        "seeds": [result.seed for result in ran],
        "data": data,
        "radio": radio,
        "target": TARGETS[data],
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as Markdown, a table for each data set and radio."""
    for data, radio in dict.fromkeys((row["data"], row["radio"]) for row in rows):
        print(f"\n**{data}, {radio}**, to {100 * TARGETS[data]:g} %\n")
        print("| policy | joules to target | seeds | epochs | rounds | devices a round | overspend |")
        print("|---" * 7 + "|")
        for row in rows:
            if (row["data"], row["radio"]) != (data, radio):
                continue
            joules, half = row["joules_to_target"], row["ci95"]
            shown = "not reached in each" if joules is None else f"{joules:.1f}" + (f" ± {half:.1f}" if half else "")
            print(
                f"| {row['policy']} | {shown} | {row['seeds_that_reached']} of {len(row['seeds'])} | {row['epochs']} "
                f"| {row['rounds']:.0f} | {row['devices_a_round']:.1f} | {100 * row['max_overspend_ratio']:.1f} % |"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="one seed, one number of epochs; under a minute")
    parser.add_argument(
        "--judged", action="store_true", help="fresh seeds, epochs fixed before, two data sets and radios"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help=f"default 3; {JUDGED_SEEDS} with --judged")
    parser.add_argument("--first", type=int, metavar="SEED", help=f"default 0; {FIRST_JUDGED} with --judged")
    parser.add_argument("--data", action="append", choices=sorted(TARGETS), help="repeat it for more")
    parser.add_argument("--radio", action="append", choices=("mixed", *LINKS), help="repeat it for more")
    parser.add_argument(
        "--policy", action="append", choices=sorted(EPOCHS), help="this policy alone; repeat it for more"
    )
    parser.add_argument(
        "--fleet-share",
        type=float,
        metavar="PART",
        default=_FLEET_SHARE,
        help=f"of all devices' budgets, what the planner's fleet may spend ({_FLEET_SHARE:g})",
    )
    parser.add_argument("--join", nargs="+", type=Path, metavar="PART", help="rows of what earlier runs wrote")
    options = parser.parse_args()
    toy: list[dict[str, Any]] = []
    if options.join:
        parts = [json.loads(path.read_text())["runs"] for path in options.join]
        found = [Found(**{**row, "outcome": Outcome(**row["outcome"])}) for part in parts for row in part]
    elif options.judged:
        first = FIRST_JUDGED if options.first is None else options.first
        seeds = range(first, first + (options.seeds or JUDGED_SEEDS))
        found = [
            result
            for name in options.data or JUDGED_DATA
            for radio in options.radio or JUDGED_RADIOS
            for result in runs_of(name, radio, seeds, None, options.policy or (), options.fleet_share)
        ]
    else:
        first, count = options.first or 0, 1 if options.quick else options.seeds or 3
        names, radios = options.data or [""], options.radio or ["mixed"]
        epochs = [5] if options.quick else [3, 5, 10]
        found = [
            result
            for name in names
            for radio in radios
            for result in runs_of(
                name, radio, range(first, first + count), epochs, options.policy or (), options.fleet_share
            )
        ]
        toy = toy_rows(quick=options.quick)
    rows = rows_of(found)
    show(rows)
    if toy:
        print("\n| rule of the toy | bias | error of the Monte-Carlo mean |\n|---|---|---|")
    for row in toy:
        print(f"| {row['policy']} | {row['bias']:.4f} | {row['monte_carlo_error']:.4f} |")
    if options.json is not None:
        with write_whole(options.json) as file:
            written = {"rows": [*rows, *toy], "runs": [asdict(result) for result in found]}
            file.write(json.dumps(written, indent=2).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
