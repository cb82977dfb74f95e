"""`coordinator budgets`: the ledger of joules of one run."""

from __future__ import annotations

import argparse

from coordinator.commands.parts import add_address, add_json, add_run, example, operator
from coordinator.operator import as_json
from coordinator.operator.status import DeviceBudget
from coordinator.operator.tables import joules, show
from protos.commands.json_document import document

_AMOUNTS = ("granted", "spent", "uncertain", "today")
_PRICES = ("a step", "an example", "a kB up")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "budgets",
        help="show what each device of a run was granted, spent, and may have spent",
        description="Joules without idling. Uncertain: granted to orders that were not answered in full. Prices are "
        "fitted to the device's own metered phases, each with its standard deviation.",
        **example("coordinator budgets digits --json"),
    )
    add_run(parser)
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the ledger."""
    with operator(arguments) as connection:
        found = connection.budgets(arguments.which)
    if arguments.json:
        print(as_json.dump(document("budgets", {"devices": [as_json.budget(budget) for budget in found]})))
    elif found:
        show(
            ["device", "orders", *(f"{what} J" for what in _AMOUNTS), *(f"J {what}" for what in _PRICES)],
            [_row(budget) for budget in found],
        )
    else:
        print("no orders yet")
    return 0


def _row(budget: DeviceBudget) -> list[str]:
    unlimited = f" (+ {budget.unlimited} without a limit)" if budget.unlimited else ""
    return [
        budget.device_id,
        str(budget.orders),
        joules(budget.granted_j),
        joules(budget.spent_j),
        joules(budget.uncertain_j) + unlimited,
        joules(budget.today_j),
        _price(budget, "step_j", 1.0),
        _price(budget, "embedding_j", 1.0),
        _price(budget, "up_j", 1000.0),
    ]


def _price(budget: DeviceBudget, name: str, times: float) -> str:
    if not budget.fitted_rounds:
        return joules(None)
    return f"{joules(times * budget.price[name])} ± {joules(times * budget.deviation[name])}"
