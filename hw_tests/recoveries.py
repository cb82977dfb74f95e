"""What goes wrong on a bench, how it ends, and what the figures must say of it.

Each row is one of ``docs/faults-of-metering.md``. There they happen in virtual time; here on the bench's own port, in
real time, and with whatever hardware the bench has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hw_tests.bench.bench import Bench
from protos.bridge.commands import HANG_KEY, REBOOT_KEY, Command, command
from protos.bridge.framing import encode_frame

__all__ = ["RECOVERIES", "Recovery"]

Deed = Callable[[Bench], object]
GARBAGE = bytes([1, 0, 0x55, 0xAA, 0, 7]) * 40
AT_ONCE = 0.0


def _nothing(bench: Bench) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Recovery:
    """One fault.

    Args:
        name: of the test.
        begin, end: let it happen, and end it.
        lasts_s: between the two.
        needs: features of the bench.
        flags: words that the phase must have.
        maybe: words that it may have, as it depends on the moment.
        figure: whether the phase has joules; None where that depends on how long the bench needs to come back.
        moves_load: the load is not constant meanwhile.
        asks_hang: the firmware must take the key that lets the watchdog bite.
    """

    name: str
    begin: Deed
    end: Deed = _nothing
    lasts_s: float = AT_ONCE
    needs: tuple[str, ...] = ("fault-injection",)
    flags: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()
    figure: bool | None = True
    moves_load: bool = False
    asks_hang: bool = False


def _fault(name: str, on: bool | float) -> Deed:
    return lambda bench: bench.fault(name, on)


def _sent(payload: bytes) -> Deed:
    return lambda bench: bench.wire.send(encode_frame(payload))


def _cycled(bench: Bench) -> None:
    assert bench.power is not None
    bench.power.cycle()


def _in_and_out(bench: Bench) -> None:
    """A plug that somebody wiggles."""
    for _ in range(3):
        bench.unplug()
        bench.clock.sleep(0.4)
        bench.replug()
        bench.clock.sleep(0.8)


_BUS = ("bus-errors",)
_LOST = ("batches-lost", "recovered", "line-errors")
_RESTART = ("degraded", "line-errors", "batches-lost", "recovered")
RECOVERIES = (
    Recovery("two addresses not acknowledged", _fault("address-nack", 2), flags=_BUS, maybe=("degraded",)),
    Recovery("two data bytes not acknowledged", _fault("data-nack", 2), flags=_BUS, maybe=("degraded",)),
    Recovery("arbitration lost twice", _fault("arbitration", 2), flags=_BUS, maybe=("degraded",)),
    Recovery("SDA held low for nine clocks", _fault("sda-stuck", 9), flags=_BUS, maybe=("degraded",)),
    Recovery(
        "SDA held low for a second",
        _fault("sda-stuck", 10**6),
        _fault("sda-stuck", 0),
        lasts_s=1.0,
        flags=("bus-errors", "degraded"),
        maybe=("sensor-lost",),
        figure=False,
    ),
    Recovery(
        "sensor lost its supply for a moment",
        _fault("sensor-brown-out", True),
        flags=("sensor-restarted",),
        maybe=("bus-errors", "degraded"),
    ),
    Recovery(
        "a byte of a thousand to the host changed",
        _fault("to-host-flip", 1e-3),
        _fault("to-host-flip", 0),
        lasts_s=1.5,
        maybe=_LOST,
    ),
    Recovery(
        "cable pulled and put back",
        lambda bench: bench.unplug(),
        lambda bench: bench.replug(),
        lasts_s=0.5,
        flags=("reconnected", "batches-lost", "recovered"),
        maybe=("line-errors", "degraded"),
    ),
    Recovery(
        "cable that comes and goes",
        _in_and_out,
        flags=("reconnected", "batches-lost", "recovered"),
        maybe=("line-errors", "degraded"),
    ),
    Recovery(
        "bridge browned out", lambda bench: bench.brown_out(), flags=("bridge-restarted",), maybe=_RESTART, figure=None
    ),
    Recovery(
        "garbage to the host",
        lambda bench: bench.wire.spoil(GARBAGE),
        needs=(),
        flags=("line-errors",),
        maybe=("batches-lost", "recovered"),
    ),
    Recovery("garbage to the bridge", lambda bench: bench.wire.send(GARBAGE), needs=(), flags=("line-errors",)),
    Recovery(
        "bridge told to restart in mid-stream",
        _sent(command(Command.REBOOT, REBOOT_KEY)),
        needs=(),
        flags=("bridge-restarted",),
        maybe=_RESTART,
        figure=None,
    ),
    Recovery(
        "bridge hangs until its watchdog bites",
        _sent(command(Command.REBOOT, HANG_KEY)),
        needs=(),
        flags=("bridge-restarted",),
        maybe=_RESTART,
        figure=None,
        asks_hang=True,
    ),
    Recovery(
        "supply off and on",
        _cycled,
        needs=("power-switch",),
        flags=("reconnected", "bridge-restarted"),
        maybe=_RESTART,
        figure=None,
        moves_load=True,
    ),
)
