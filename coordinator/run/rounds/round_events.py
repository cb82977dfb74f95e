"""What can happen to a run, what is to be done about it, and when its rounds open and close: plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

ATTEMPTS = 3
GATHER_S = 10.0
PATIENCE_S = 600.0


class State(StrEnum):
    """What a run is doing. The last four are final: what was paused begins as a run that was interrupted."""

    GATHERING = "gathering"
    OPEN = "open"
    SETTLING = "settling"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    PAUSED = "paused"


FINAL = frozenset({State.FINISHED, State.FAILED, State.STOPPED, State.PAUSED})


@dataclass(frozen=True)
class Rules:
    """When rounds open and close.

    Attributes:
        rounds: rounds in all, >= 1.
        devices: devices that must be present before round 1, >= 1.
        quorum: share of the ordered devices whose reports make a round, 0 to 1; one report at least.
        deadline_s: seconds from the opening of a round.
        attempts: how often a round is opened before the run fails.
        gather_s: how long a later round waits for the devices of the one before.
        patience_s: how long a round that nobody can pay for waits for what may or may not come.
        enough: share of the ordered devices whose reports close a round before its deadline; 1: all that can.
        late: for so many rounds reports of a round that has closed still count, and their devices are left at work.
        buffer: so many reports, late ones among them, close a round; None: those of whoever was asked.
    """

    rounds: int
    devices: int
    quorum: float
    deadline_s: float
    attempts: int = ATTEMPTS
    gather_s: float = GATHER_S
    patience_s: float = PATIENCE_S
    enough: float = 1.0
    late: int = 0
    buffer: int | None = None

    def are_enough(self, reports: int, ordered: int) -> bool:
        """Whether a round need not wait for the others any more.

        >>> rules = Rules(rounds=1, devices=1, quorum=0.5, deadline_s=1, enough=0.8)
        >>> [rules.are_enough(reports, 5) for reports in (3, 4)]
        [False, True]
        """
        return self.enough < 1.0 and reports >= max(1, math.ceil(self.enough * ordered - 1e-9))

    def needed(self, ordered: int) -> int:
        """Reports that make a quorum of ``ordered`` devices.

        >>> Rules(rounds=1, devices=1, quorum=0.5, deadline_s=1).needed(5)
        3
        """
        return 1 if self.buffer is not None else max(1, math.ceil(self.quorum * ordered - 1e-9))


@dataclass(frozen=True)
class Arrived:
    """A device is present and may take part."""

    device_id: str


@dataclass(frozen=True)
class Left:
    """A device said goodbye, went silent, or may not take part any more."""

    device_id: str


@dataclass(frozen=True)
class Writing:
    """A report of this device is being written. Until :class:`Written` nothing is decided."""

    device_id: str


@dataclass(frozen=True)
class Written:
    """What became of the report is known, and was told before."""

    device_id: str


@dataclass(frozen=True)
class Accepted:
    """A report of the open round is on disk."""

    device_id: str


@dataclass(frozen=True)
class AcceptedLate:
    """A report of an earlier round is on disk, and counts in the current one."""

    round: int
    device_id: str


@dataclass(frozen=True)
class Back:
    """A device does not work any more on an order of a round that has closed."""

    device_id: str


@dataclass(frozen=True)
class Refused:
    """A report of the open round was not taken: asking the same device again would cost it the same joules."""

    device_id: str


@dataclass(frozen=True)
class Spared:
    """The orders of the round that was to open are on disk: the deadline begins. With the devices that are present and
    that the planner does not ask."""

    devices: tuple[str, ...]


class Hope(StrEnum):
    """What may give devices joules to spend again, when none has any."""

    TIME = "time"
    """A day's budget or a harvest: it comes, if only one waits."""
    NEWS = "news"
    """Joules that were granted and not told of, or devices that are away: perhaps, and not for ever."""
    NONE = "none"


@dataclass(frozen=True)
class Dry:
    """Nobody may spend anything on the round that was about to open: it waits, and gathers anew, while there is hope.

    Attributes:
        why: what the devices lack, in words.
    """

    hope: Hope = Hope.TIME
    why: str = ""


@dataclass(frozen=True)
class QuorumAfterAll:
    """The attempt that was about to be written down as abandoned has its quorum: reports came in before it was."""

    round: int
    attempt: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class GivenUp:
    """It is on disk that an attempt failed."""

    round: int
    attempt: int


@dataclass(frozen=True)
class Settled:
    """The new head of the closed round is on disk."""


@dataclass(frozen=True)
class Stop:
    """An operator ends the run. ``at_once``: also when a head is being made, since it cannot be written down."""

    at_once: bool = False


@dataclass(frozen=True)
class Pause:
    """An operator lets the run rest. ``after_round``: when the round that is open has closed."""

    after_round: bool = False


@dataclass(frozen=True)
class Broken:
    """The run cannot go on."""

    reason: str


@dataclass(frozen=True)
class Enough:
    """Nothing is to be gained from further rounds: the run ends well before its last one."""

    why: str


Event = (
    Arrived
    | Left
    | Writing
    | Written
    | Accepted
    | AcceptedLate
    | Back
    | Refused
    | Spared
    | Dry
    | QuorumAfterAll
    | GivenUp
    | Tick
    | Settled
    | Stop
    | Pause
    | Broken
    | Enough
)


@dataclass(frozen=True)
class Open:
    """Write down a round and hand out its orders. ``carried`` reported in an earlier attempt and need none."""

    round: int
    attempt: int
    devices: tuple[str, ...]
    carried: tuple[str, ...]


@dataclass(frozen=True)
class Close:
    """Make the new head from the reports, then answer with :class:`Settled`."""

    round: int
    reported: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Abandon:
    """Too few reported. The round is tried again unless :class:`Fail` follows."""

    round: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class Finish:
    """All rounds are done, or those that were left need not be; ``why`` says so then."""

    why: str = ""


@dataclass(frozen=True)
class Fail:
    """The run ends without being done."""

    reason: str


@dataclass(frozen=True)
class Halt:
    """The run was stopped."""


@dataclass(frozen=True)
class Rest:
    """The run was paused."""


Action = Open | Close | Abandon | Finish | Fail | Halt | Rest
