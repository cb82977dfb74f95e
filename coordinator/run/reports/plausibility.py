"""What no figure of a device can honestly be: joules beyond what its board draws, embeddings of examples that it has
not. They weigh nothing in the head, but they teach prices and fill ledgers, where one absurd figure spoils all.

The bounds are wide: a figure beyond them is a fault or a lie, and one within them is not therefore true.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.budgets.cold_start import known_board
from protos.energy.trace import PhaseEnergy
from protos.errors import UpdateError
from protos.orders import DeviceCard, DeviceReport

# A phase lasts no longer: a device that waits for its coordinator idles for weeks at most.
LONGEST_S = 30 * 86_400.0
# Watts of a host whose board nobody knows; and how much more than its profile a known board may draw, with all that
# hangs on its USB ports.
UNKNOWN_BOARD_W = 1000.0
PROFILE_TIMES = 10.0
# What a phase of no time at all may cost: the rounding of its clock.
LEAST_S = 1.0
# An accelerator that fails is given up half-way, and its work is done once more.
EMBEDDINGS_PER_EXAMPLE = 2
# Rounds are numbered in 31 bits in every database.
LAST_ROUND = 2**31 - 1
# More than any device stores, and few enough that steps made of them fit in any field and database.
MAX_EXAMPLES = 1_000_000_000


def most_w(board: str) -> float:
    """Watts that a device cannot exceed.

    Args:
        board: in the device's own words.
    """
    profile = known_board(board)
    if profile is None:
        return UNKNOWN_BOARD_W
    parts = (profile.ethernet, profile.radio, profile.accelerator)
    return PROFILE_TIMES * (profile.power_w(profile.cores) + sum(part.value for part in parts if part is not None))


def energy_fault(record: PhaseEnergy, board: str) -> str | None:
    """What is wrong with joules of this board; None when they are possible.

    >>> from protos.energy.trace import Phase
    >>> energy_fault(PhaseEnergy(Phase.TRAIN, -1e12, 2.0, 0.0, "measured", "", None), "pi4")
    'train: -1e+12 J in 2 s; a board of this kind takes 0 to 137 J'
    """
    seconds = record.covered_s + record.uncovered_s
    if seconds > LONGEST_S:
        return f"{record.phase}: {seconds:g} s; {LONGEST_S:g} at most"
    most_j = most_w(board) * max(seconds, LEAST_S)
    # A board that works draws power. A device whose sensor sees less than its zero may be wrong by says unknown.
    if record.energy_j is not None and not 0.0 <= record.energy_j <= most_j:
        return f"{record.phase}: {record.energy_j:g} J in {seconds:g} s; a board of this kind takes 0 to {most_j:.3g} J"
    if record.uncertainty_j is not None and record.uncertainty_j > most_j:
        return f"{record.phase}: uncertain by {record.uncertainty_j:g} J in {seconds:g} s; {most_j:.3g} at most"
    return None


def report_fault(report: DeviceReport, examples: int, board: str) -> tuple[str, str] | None:
    """A row of :data:`coordinator.run.reports.reasons.REASONS` and the reason, for a report with an impossible figure.

    Args:
        examples: training examples declared at join.
    """
    if report.embedded > EMBEDDINGS_PER_EXAMPLE * examples:
        return "too_many_examples", f"{report.embedded} embeddings of {examples} training examples declared at join"
    if report.train_s > LONGEST_S:
        return "bad_energy", f"trained for {report.train_s:g} s; {LONGEST_S:g} at most"
    faults = [fault for phase_energy in report.energy if (fault := energy_fault(phase_energy, board)) is not None]
    return ("bad_energy", faults[0]) if faults else None


def possible(records: Iterable[PhaseEnergy], board: str) -> tuple[list[PhaseEnergy], list[str]]:
    """The records that may be written down, and what is wrong with the others: their joules stay unknown."""
    good: list[PhaseEnergy] = []
    faults: list[str] = []
    for record in records:
        fault = energy_fault(record, board)
        if fault is None:
            good.append(record)
        else:
            faults.append(fault)
    return good, faults


def check_card(card: DeviceCard) -> None:
    """Refuse a device that declares what no device has.

    Raises:
        UpdateError: it names the field.
    """
    for field, count in (("train_examples", card.train_examples), ("test_examples", card.test_examples)):
        if count > MAX_EXAMPLES:
            raise UpdateError(f"{count} is not a number from 0 to {MAX_EXAMPLES}", where=field)
