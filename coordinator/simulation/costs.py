"""What work takes a virtual board: seconds of each kind of work, and watts while it lasts.

Unless given, they are those by which the coordinator guesses before the first measurement
(:mod:`coordinator.budgets.cold_start`: operations of the bundle, speeds and watts of boards).
:func:`costs_of_run` takes them from a run that was metered instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from coordinator.api import Outcome
from coordinator.budgets.cold_start import prices_of, work_w_of
from protos.energy.boards import BOARDS
from protos.energy.trace import Phase
from protos.errors import DataError
from protos.model.manifest import Manifest


@dataclass(frozen=True)
class BoardCosts:
    """Seconds of one processor of a board, and watts.

    Attributes:
        embed_fixed_s: of loading the backbone; embedding_s: of one example.
        train_fixed_s: of writing the head, and of a round without any step; step_s: of one step.
        encode_s: of coding a change; send_fixed_s: of a report, but for its bytes.
        around_s: between phases in a round: settling the meter, writing to disk. Idle.
        embed_w, train_w, encode_w, send_w, idle_w: watts of the phases.
    """

    embed_fixed_s: float
    embedding_s: float
    train_fixed_s: float
    step_s: float
    encode_s: float
    send_fixed_s: float
    around_s: float
    embed_w: float
    train_w: float
    encode_w: float
    send_w: float
    idle_w: float

    def slower(self, times: float) -> BoardCosts:
        """The same board with work that takes so many times as long."""
        seconds = ("embed_fixed_s", "embedding_s", "train_fixed_s", "step_s", "encode_s", "send_fixed_s")
        return replace(self, **{name: times * getattr(self, name) for name in seconds})


# How long a transaction takes for each device of the fleet, and at most. A report costs a real coordinator 4 ms of
# processor time (benchmarks/load.py), so what comes within that time is written down together, there and here.
_WRITING_S, _MOST_WRITING_S = 0.0005, 1.0
# A report waits for the write that is under way, for energies that came before it, and for its own: so many writes of
# the exact engine, seen there.
WRITES = 2.5
# Of a sending that was measured, what is at least its own.
_LEAST_OWN = 0.2


def writing_s(devices: int) -> float:
    """How long a transaction of a coordinator of so many devices takes, in virtual seconds."""
    return min(_MOST_WRITING_S, _WRITING_S * devices)


# Of what a round has besides its phases. An assumption: a write that is forced to an SD card, twice.
_AROUND_S = 0.05


def costs_of_board(board: str, manifest: Manifest, coordinates: int) -> BoardCosts:
    """Of a board of the table at work on a bundle.

    Args:
        coordinates: of the head.
    """
    prices = prices_of(board, macs=manifest.backbone.macs, coordinates=coordinates, batch_size=manifest.head.batch_size)
    watts = work_w_of(board)
    return BoardCosts(
        embed_fixed_s=prices.embed_fixed_j / watts,
        embedding_s=prices.embedding_j / watts,
        train_fixed_s=prices.train_fixed_j / watts,
        step_s=prices.step_j / watts,
        encode_s=prices.encode_j / watts,
        send_fixed_s=prices.send_fixed_j / watts,
        around_s=_AROUND_S,
        embed_w=watts,
        train_w=watts,
        encode_w=watts,
        send_w=watts,
        idle_w=BOARDS[board].idle_w,
    )


def costs_of_run(run: Outcome, boards: Mapping[str, str], rounds: Iterable[int] | None = None) -> dict[str, BoardCosts]:
    """What a metered run says of its boards, one entry a board.

    Each figure is the median over devices and rounds, so that a round in which something else held up a board counts
    for one: seconds an example, a step, a coding and a sending, and joules over seconds of each phase. A median of
    whole rounds has the fixed part of a phase in it; steps of the run and of the simulation should be about as many.

    Args:
        run: as :func:`coordinator.api.load_outcome` reads it.
        boards: board of each device, by id.
        rounds: that count, the first among them, since only that embeds; None: all.

    Raises:
        DataError: a board without a metered round in which it embedded and one in which it trained.
    """
    wanted = None if rounds is None else set(rounds)
    accepted = {
        (row["round"], row["device_id"]): row
        for row in run.devices
        if row["outcome"] == "accepted" and (wanted is None or row["round"] in wanted)
    }
    # The simulation has the coordinator's writes besides: they are taken out of what was measured.
    waited_s = WRITES * writing_s(len({device_id for _, device_id in accepted}))
    return {
        board: _costs_of(
            [
                (accepted[key], phase)
                for phase in run.phases
                if (key := (phase["round"], phase["device_id"])) in accepted and boards.get(key[1]) == board
            ],
            board,
            waited_s,
        )
        for board in dict.fromkeys(boards.values())
    }


def _costs_of(rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], board: str, waited_s: float) -> BoardCosts:
    """Of one board.

    Args:
        rows: a device's row of a round, with one of its phases.
        waited_s: of a sending, for the coordinator.
    """

    def each(phase: Phase, count: str = "") -> list[float]:
        """Seconds of one piece, where there were any."""
        mine = [
            (row, phase_energy)
            for row, phase_energy in rows
            if phase_energy["phase"] == phase and (not count or row[count])
        ]
        return [(one["covered_s"] + one["uncovered_s"]) / (row[count] if count else 1) for row, one in mine]

    def watts(phase: Phase, count: str = "") -> list[float]:
        """Watts while a phase lasted, where it was metered."""
        mine = [
            phase_energy for row, phase_energy in rows if phase_energy["phase"] == phase and (not count or row[count])
        ]
        return [row["energy_j"] / row["covered_s"] for row in mine if row["energy_j"] is not None and row["covered_s"]]

    figures = {
        "embedding_s": each(Phase.EMBED, "embedded"),
        "step_s": each(Phase.TRAIN, "steps_done"),
        "encode_s": each(Phase.ENCODE),
        "send_fixed_s": [max(_LEAST_OWN * value, value - waited_s) for value in each(Phase.SEND)],
        "around_s": each(Phase.IDLE),
        "embed_w": watts(Phase.EMBED, "embedded"),
        "train_w": watts(Phase.TRAIN, "steps_done"),
        "encode_w": watts(Phase.ENCODE),
        "send_w": watts(Phase.SEND),
        "idle_w": watts(Phase.IDLE),
    }
    missing = [name for name, values in figures.items() if not values]
    if missing:
        raise DataError(
            f"says nothing of {', '.join(missing)} of board {board!r}", where="the run to take costs from",
            fix="take a run with its first round, of devices with a sensor",
        )  # fmt: skip
    return BoardCosts(
        embed_fixed_s=0.0, train_fixed_s=0.0, **{name: float(median(values)) for name, values in figures.items()}
    )
