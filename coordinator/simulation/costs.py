"""What work takes a virtual board: seconds of each kind of work, and watts while it lasts.

Unless given, they are those by which the coordinator guesses before the first measurement
(:mod:`coordinator.budgets.cold_start`: operations of the bundle, speeds and watts of boards).
:func:`costs_of_run` takes them from a run that was metered instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median

from coordinator.budgets.cold_start import prices_of, work_w_of
from coordinator.operator.status import DeviceRound, RunStatus
from protos.energy.boards import BOARDS
from protos.energy.trace import Phase, PhaseEnergy
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


def costs_of_run(run: RunStatus, boards: Mapping[str, str]) -> dict[str, BoardCosts]:
    """What a metered run says of its boards, one entry a board.

    Each figure is the median over devices and rounds, so that a round in which something else held up a board counts
    for one: seconds an example, a step, a coding and a sending, and joules over seconds of each phase. A median of
    whole rounds has the fixed part of a phase in it; steps of the run and of the simulation should be about as many.

    Args:
        run: with its rounds and devices.
        boards: board of each device, by id.

    Raises:
        DataError: a board without a metered round in which it embedded and one in which it trained.
    """
    found: dict[str, BoardCosts] = {}
    for board in dict.fromkeys(boards.values()):
        rows = [
            one
            for row in run.rounds
            if row.state == "closed"
            for one in row.devices
            if one.outcome == "accepted" and boards.get(one.device_id) == board
        ]
        found[board] = _costs_of_rows(rows, board)
    return found


def _costs_of_rows(rows: list[DeviceRound], board: str) -> BoardCosts:
    def each(phase: Phase, count: str) -> list[float]:
        """Seconds of one piece."""
        pairs = ((_of(row, phase), getattr(row, count) if count else 1) for row in rows)
        return [(one.covered_s + one.uncovered_s) / pieces for one, pieces in pairs if one is not None and pieces]

    def watts(phase: Phase) -> list[float]:
        """Watts while a phase lasted, where it was metered."""
        known = [one for row in rows if (one := _of(row, phase)) is not None and one.covered_s > 0]
        return [one.energy_j / one.covered_s for one in known if one.energy_j is not None]

    seconds = {
        "embedding_s": each(Phase.EMBED, "embedded"),
        "step_s": each(Phase.TRAIN, "steps_done"),
        "encode_s": each(Phase.ENCODE, ""),
        "send_fixed_s": each(Phase.SEND, ""),
    }
    powers = {"train_w": watts(Phase.TRAIN), "encode_w": watts(Phase.ENCODE), "send_w": watts(Phase.SEND)}
    # Only the first round embeds; every board has one.
    embedding = [row for row in rows if row.embedded]
    powers["embed_w"] = [
        one.energy_j / one.covered_s
        for row in embedding
        if (one := _of(row, Phase.EMBED)) is not None and one.energy_j is not None and one.covered_s > 0
    ]
    powers["idle_w"] = watts(Phase.IDLE)
    missing = [name for name, values in {**seconds, **powers}.items() if not values]
    if missing:
        raise DataError(
            f"says nothing of {', '.join(missing)} of board {board!r}", where="the run to take costs from",
            fix="take a run of two rounds and more, of devices with a sensor, with its first round",
        )  # fmt: skip
    idle = [one.covered_s + one.uncovered_s for row in rows if (one := _of(row, Phase.IDLE)) is not None]
    return BoardCosts(
        embed_fixed_s=0.0,
        train_fixed_s=0.0,
        around_s=median(idle),
        **{name: median(values) for name, values in seconds.items()},
        **{name: median(values) for name, values in powers.items()},
    )


def _of(row: DeviceRound, phase: Phase) -> PhaseEnergy | None:
    return next((one for one in row.energy if one.phase is phase), None)
