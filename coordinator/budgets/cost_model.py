"""What one device's work costs, fitted from the joules of its own metered phases.

    EMBED    embed_fixed_j (when anything is embedded) + embedding_j * examples
    TRAIN    train_fixed_j + step_j * steps
    ENCODE   encode_j
    SEND     send_fixed_j + up_j * bytes
    RECEIVE  receive_fixed_j + down_j * bytes
    IDLE     idle_w * seconds + down_j * bytes, of devices that do not meter what comes in by itself

Each line is a :class:`~coordinator.budgets.regression.Regression` of its own: a phase is metered apart from the others,
so its cost is learnt apart from theirs. Orders to a device of an earlier release arrive while its meter says IDLE, so
their bytes are found there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.budgets.regression import Estimate, Regression
from protos.energy.trace import Phase, PhaseEnergy

# The watts of an idle board are in a table; joules a byte are a guess. So idle energy teaches watts first.
_IDLE_DOUBT = (1.0, 1.0)


@dataclass(frozen=True)
class Prices:
    """Joules by kind of work; ``idle_w`` in watts. All above 0."""

    embed_fixed_j: float
    embedding_j: float
    train_fixed_j: float
    step_j: float
    encode_j: float
    send_fixed_j: float
    up_j: float
    idle_w: float
    down_j: float


@dataclass(frozen=True)
class Work:
    """What a device did, or is to do, in a round: counts."""

    embedded: int
    steps: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Forecast:
    """Joules that some work will cost, idling left out.

    Attributes:
        ahead: everything before the first step; the order's own bytes where the device meters them.
        step: one step.
        sending: coding and sending.
        whole: all of it.
    """

    ahead: Estimate
    step: Estimate
    sending: Estimate
    whole: Estimate


def _together(*parts: Estimate) -> Estimate:
    return Estimate(sum(part.mean for part in parts), sum(part.deviation**2 for part in parts) ** 0.5)


class CostModel:
    """The fit of one device.

    Args:
        first: prices before anything was metered.
    """

    def __init__(self, first: Prices) -> None:
        self._phases: dict[Phase, Regression] = {
            Phase.EMBED: Regression([first.embed_fixed_j, first.embedding_j]),
            Phase.TRAIN: Regression([first.train_fixed_j, first.step_j]),
            Phase.ENCODE: Regression([first.encode_j]),
            Phase.SEND: Regression([first.send_fixed_j, first.up_j]),
            Phase.IDLE: Regression([first.idle_w, first.down_j], _IDLE_DOUBT),
            Phase.RECEIVE: _receiving(first.down_j),
        }

    def observe(self, work: Work, energy: Iterable[PhaseEnergy]) -> None:
        """Learn from a round. Phases whose energy is unknown, or barely covered by samples, teach nothing; so does
        training without a step, which is what it costs to look whether one can be paid for."""
        records = list(energy)
        told = any(record.phase is Phase.RECEIVE for record in records)
        for record in records:
            if record.phase not in self._phases or record.energy_j is None or record.coverage < 0.9:
                continue
            if record.phase is Phase.TRAIN and not work.steps:
                continue
            if record.phase is Phase.RECEIVE and work.embedded:
                # A bundle may have come in besides: its first examples are embedded with the order that it came for.
                continue
            x = _counts(record.phase, work, record.covered_s + record.uncovered_s)
            if told and record.phase is Phase.IDLE:
                x = (x[0], 0.0)
            # A reported half width is two deviations. Errors of gain repeat from round to round; noise is learnt.
            self._phases[record.phase].observe(x, record.energy_j / max(record.coverage, 0.9))

    def forecast(self, work: Work, *, single: bool = True) -> Forecast:
        """What this work will cost; with ``single``, with the noise of one occasion in the deviations."""

        def part(phase: Phase, *x: float) -> Estimate:
            return self._phases[phase].predict(x, single=single)

        embed = self._phases[Phase.EMBED].predict(_counts(Phase.EMBED, work, 0.0), single=single)
        # Joules that a device calls idle time come in no report of its work.
        order = part(Phase.RECEIVE, 1.0, float(work.bytes_down)) if self.knows(Phase.RECEIVE) else _NOTHING
        begin, train = part(Phase.TRAIN, 1.0, 0.0), part(Phase.TRAIN, 1.0, float(work.steps))
        step, sending = self.step_and_sending(work.bytes_up, single=single)
        return Forecast(_together(order, embed, begin), step, sending, _together(order, embed, train, sending))

    def step_and_sending(self, bytes_up: int, *, single: bool = True) -> tuple[Estimate, Estimate]:
        """These two of a :meth:`forecast`: a step more, and coding and sending a report."""
        step = self._phases[Phase.TRAIN].predict((0.0, 1.0), single=single)
        encode = self._phases[Phase.ENCODE].predict((1.0,), single=single)
        send = self._phases[Phase.SEND].predict((1.0, float(bytes_up)), single=single)
        return step, _together(encode, send)

    @property
    def prices(self) -> Prices:
        """The prices as they are known now."""
        return self._as_prices(lambda one: one.coefficients.tolist())

    @property
    def deviations(self) -> Prices:
        """Their standard deviations."""
        return self._as_prices(lambda one: one.deviations.tolist())

    def _as_prices(self, of: Any) -> Prices:
        embed, train, encode, send, idle = (of(self._phases[phase]) for phase in _ORDER)
        if self.knows(Phase.RECEIVE):
            idle = [idle[0], of(self._phases[Phase.RECEIVE])[1]]
        return Prices(*embed, *train, *encode, *send, *idle)

    @property
    def embedding(self) -> Estimate:
        """Joules of one embedding, as :attr:`prices` and :attr:`deviations` have them."""
        fit = self._phases[Phase.EMBED]
        return Estimate(float(fit.coefficients[1]), float(fit.deviations[1]))

    def knows(self, phase: Phase) -> bool:
        """Whether this phase was ever metered at work."""
        return self._phases[phase].seen > 0

    @property
    def rounds(self) -> int:
        """Rounds that taught something of training."""
        return self._phases[Phase.TRAIN].seen

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {str(phase): regression.state() for phase, regression in self._phases.items()}

    def text(self) -> str:
        """:meth:`state` as JSON; what was not learnt from since is not written out again."""
        return "{" + ", ".join(f'"{phase}": {regression.text()}' for phase, regression in self._phases.items()) + "}"

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> CostModel:
        """The model that :meth:`state` described, to the last bit."""
        made = cls.__new__(cls)
        made._phases = {phase: Regression.from_state(state[str(phase)]) for phase in _ORDER}
        known = state.get(str(Phase.RECEIVE))
        # What an earlier release wrote down has none.
        made._phases[Phase.RECEIVE] = (
            _receiving(float(made._phases[Phase.IDLE].coefficients[1]))
            if known is None
            else Regression.from_state(known)
        )
        return made


_ORDER = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND, Phase.IDLE)


_NOTHING = Estimate(0.0, 0.0)
# Joules of an order of no bytes, before one was metered: some milliseconds of a board at work.
_RECEIVE_FIXED_J = 0.01


def _receiving(down_j: float) -> Regression:
    return Regression([_RECEIVE_FIXED_J, down_j])


def _counts(phase: Phase, work: Work, seconds: float) -> tuple[float, ...]:
    match phase:
        case Phase.EMBED:
            return (1.0, float(work.embedded)) if work.embedded else (0.0, 0.0)
        case Phase.TRAIN:
            return (1.0, float(work.steps))
        case Phase.ENCODE:
            return (1.0,)
        case Phase.SEND:
            return (1.0, float(work.bytes_up))
        case Phase.RECEIVE:
            return (1.0, float(work.bytes_down))
        case Phase.IDLE:
            return (seconds, float(work.bytes_down))
        case Phase.INFER:
            raise ValueError("predictions are no part of a round")
