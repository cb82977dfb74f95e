"""Faults that the coordinator once had, put back one at a time: a simulation must find each of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from coordinator.run import resume, round_transactions
from coordinator.run.rounds import round_budgets
from coordinator.run.rounds.round_events import Writing
from coordinator.run.rounds.round_machine import RoundMachine
from coordinator.run.run import ActiveRun
from coordinator.run.run_driver import RunDriver
from coordinator.server.fleet import Fleet
from coordinator.store import reports, runs


@contextlib.contextmanager
def _all(*patches: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each_patch in patches:
            stack.enter_context(each_patch)
        yield


def acknowledged_reports_are_not_folded_again() -> Any:
    """Nobody holds fold and machine against the rows after a write that ended badly."""

    async def _agree(self: RunDriver, number: int) -> None:
        return None

    def agree(db: Any, run: Any, number: int) -> list[str]:
        return list(run.fold.folded)

    return _all(patch.object(RunDriver, "_agree", _agree), patch.object(round_transactions, "agree", agree))


def reports_being_written_do_not_count() -> Any:
    """The deadline decides while reports are being written."""
    real = RoundMachine.step

    def step(self: RoundMachine, event: Any, now_s: float) -> Any:
        return [] if isinstance(event, Writing) else real(self, event, now_s)

    return patch.object(RoundMachine, "step", step)


def attempts_have_no_number() -> Any:
    """Whoever was late once takes no order of a further attempt."""
    real = ActiveRun.order_for

    def order_for(self: ActiveRun, *args: Any) -> Any:
        order = real(self, *args)
        return None if order is None else dataclasses.replace(order, attempt=None)

    def is_undecided(self: RoundMachine, device_id: str, now_s: float) -> bool:
        return False

    return _all(
        patch.object(ActiveRun, "order_for", order_for), patch.object(RoundMachine, "is_undecided", is_undecided)
    )


def a_rounds_own_grants_count_as_spent() -> Any:
    """A round whose commit was not answered is planned again, against its own promises."""
    real = round_budgets.charged_to

    def charged_to(connection: Any, run: Any, now_unix_s: float, renewed: Any, **keys: Any) -> Any:
        return real(connection, run, now_unix_s, (0, ()), **keys)

    opens = round_transactions.open_round

    def open_round(*args: Any) -> Any:
        with patch.object(round_transactions, "_stands", lambda *args: False):
            return opens(*args)

    return _all(
        patch.object(round_transactions, "open_round", open_round),
        patch.object(round_budgets, "charged_to", charged_to),
    )


def a_restart_forgets_who_was_asked() -> Any:
    """After a restart every order of a round counts as one of its newest attempt; and so it does where an attempt is
    looked at again before it is given up, which would mend what the restart did."""

    def asked(connection: Any, run_id: str, number: int, attempt: int) -> list[str]:
        return list(runs.lines_of(connection, run_id, number))

    by_round = SimpleNamespace(**{**vars(runs), "asked": asked})
    real = round_transactions.abandon_round

    def abandon_round(*args: Any) -> bool:
        with patch.object(round_transactions, "runs", by_round):
            return real(*args)

    return _all(
        patch.object(resume, "runs", by_round), patch.object(round_transactions, "abandon_round", abandon_round)
    )


def waiting_is_silence() -> Any:
    """A device whose call is not answered yet counts as silent."""

    def call_begins(self: Fleet, device_id: str) -> None:
        return None

    def call_ends(self: Fleet, device_id: str, now_s: float, now_unix_s: float) -> None:
        self.touch(device_id, now_s, now_unix_s)

    return _all(patch.object(Fleet, "call_begins", call_begins), patch.object(Fleet, "call_ends", call_ends))


def late_reports_are_forgotten() -> Any:
    """A report that counts in a later round is folded when it comes, and not when that round opens or is made anew."""

    def counting_in(connection: Any, run_id: str, number: int) -> list[tuple[int, str]]:
        return [(number, device) for device in reports.devices_in(connection, run_id, number)]

    return patch.object(reports, "counting_in", counting_in)


def a_head_moves_again_when_its_round_is_closed_again() -> Any:
    """A round whose close failed after it was on disk is closed from the beginning."""
    real = round_transactions.close_round

    def close_round(*args: Any) -> bool:
        real(*args)
        return True

    never = property(lambda driver: 0, lambda driver, number: None)
    return _all(
        patch.object(RunDriver, "_moved_in", never, create=True),
        patch.object(round_transactions, "close_round", close_round),
    )


# By the item of the review that found them, and then in their order.
MUTATIONS: dict[int, Callable[[], Any]] = {
    1: acknowledged_reports_are_not_folded_again,
    2: reports_being_written_do_not_count,
    3: attempts_have_no_number,
    4: a_rounds_own_grants_count_as_spent,
    5: a_restart_forgets_who_was_asked,
    6: waiting_is_silence,
    7: late_reports_are_forgotten,
    8: a_head_moves_again_when_its_round_is_closed_again,
}
