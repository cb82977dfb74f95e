"""Why training stopped, and what the device had to bear.

A pause that ended a training is told beside the stop reason, which then is DEADLINE: a reader that does not know
pauses takes the report all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from protos.convert.checks import finite
from protos.orders import StopReason, Strain
from protos.v1 import edgejoule_pb2 as pb

_STOPS = {
    StopReason.COMPLETED: pb.STOP_REASON_COMPLETED,
    StopReason.BUDGET: pb.STOP_REASON_BUDGET,
    StopReason.DEADLINE: pb.STOP_REASON_DEADLINE,
    StopReason.SHUTDOWN: pb.STOP_REASON_SHUTDOWN,
}
_PAUSES = {StopReason.HEAT: pb.PAUSE_CAUSE_HEAT, StopReason.BUSY: pb.PAUSE_CAUSE_BUSY}
STOP_OF: Mapping[int, StopReason] = {number: stop for stop, number in _STOPS.items()}
_PAUSE_OF: Mapping[int, StopReason] = {number: stop for stop, number in _PAUSES.items()}
# Thirty years, and temperatures that no chip outlives.
_MOST_S = 1e9
_COLDEST_C, _HOTTEST_C = -100.0, 500.0


def stop_to(reason: StopReason) -> pb.StopReason:
    """A number that every reader knows."""
    return _STOPS.get(reason, pb.STOP_REASON_DEADLINE)


def pause_to(reason: StopReason | None) -> pb.PauseCause:
    """The pause that ended the training, if one did."""
    return pb.PAUSE_CAUSE_UNSPECIFIED if reason is None else _PAUSES.get(reason, pb.PAUSE_CAUSE_UNSPECIFIED)


def stop_from(stop: int, pause: int) -> StopReason:
    """Both numbers, of which ``stop`` is known, as one reason. A pause counts beside DEADLINE alone."""
    reason = STOP_OF[stop]
    return _PAUSE_OF.get(pause, reason) if reason is StopReason.DEADLINE else reason


def strain_to(strain: Strain | None) -> pb.Strain | None:
    """As a message."""
    if strain is None:
        return None
    return pb.Strain(
        heat_s=strain.heat_s,
        busy_s=strain.busy_s,
        hottest_c=strain.hottest_c,
        throttled=strain.throttled,
        under_voltage=strain.under_voltage,
    )


def strain_from(message: pb.Strain) -> Strain:
    """From a message.

    Raises:
        UpdateError: a figure that cannot be.
    """
    return Strain(
        heat_s=finite(message.heat_s, "heat_s", at_least=0.0, at_most=_MOST_S),
        busy_s=finite(message.busy_s, "busy_s", at_least=0.0, at_most=_MOST_S),
        hottest_c=finite(message.hottest_c, "hottest_c", at_least=_COLDEST_C, at_most=_HOTTEST_C)
        if message.HasField("hottest_c")
        else None,
        throttled=message.throttled,
        under_voltage=message.under_voltage,
    )
