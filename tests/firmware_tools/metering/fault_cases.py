"""Each fault of metering: how it begins and ends, and what the figures then have to say.

The table of ``docs/faults-of-metering.md`` has the same rows; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metering_bench import Bench

from protos.bridge.commands import Command, command
from protos.bridge.framing import encode_frame

__all__ = ["CASES", "Case"]

HANG = 0xDEAD


def _nothing(bench: Bench) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Case:
    """One fault, for four seconds of a constant load.

    Args:
        name: its row in the table.
        begin, end: let it happen, and end it.
        figure: whether the phase in which it happens has joules.
        interval: whether those have an interval of 95 %; without one they are not trusted.
        watts: whether the meter shows watts at the end of that phase.
        flags: words that the phase must have.
        maybe: words that it may have, as it depends on the moment.
        relative: how far the power over the covered seconds may be from the truth.
        losses: fields of Losses that must count.
    """

    name: str
    begin: Callable[[Bench], object]
    end: Callable[[Bench], object] = _nothing
    figure: bool = True
    interval: bool = True
    watts: bool = True
    flags: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()
    relative: float = 1e-3
    losses: tuple[str, ...] = ()


def _fault(name: str, on: float) -> Callable[[Bench], None]:
    return lambda bench: bench.machine.fault(name, on=on)


def _hang(bench: Bench) -> None:
    """The program stops; the watchdog bites after 250 ms."""
    bench.world.send(encode_frame(command(Command.REBOOT, HANG)))


def _replug_powerless(bench: Bench) -> None:
    """The cable had carried the bridge's supply."""
    bench.machine.reset("power-on")
    bench.world.replug()


def _garbage(bench: Bench) -> None:
    bench.port.extra = bytes([1, 0, 0x55, 0xAA, 0, 7]) * 40


def _load(text: str) -> Callable[[Bench], None]:
    return lambda bench: bench.machine.set_load(text, at_s=bench.machine.now_s)


_BUS = ("bus_errors",)
_AWAY = ("sensor-lost", "bus-errors", "degraded")

CASES = (
    Case("two addresses not acknowledged", _fault("address-nack", 2), flags=("bus-errors",), losses=_BUS),
    Case("two data bytes not acknowledged", _fault("data-nack", 2), flags=("bus-errors",), losses=_BUS),
    Case("arbitration lost twice", _fault("arbitration", 2), flags=("bus-errors",), losses=_BUS),
    Case("SDA held low for nine clocks", _fault("sda-stuck", 9), flags=("bus-errors",), losses=_BUS),
    Case(
        "SDA held low for good",
        _fault("sda-stuck", 10**6),
        _fault("sda-stuck", 0),
        figure=False,
        watts=False,
        flags=_AWAY,
        losses=(*_BUS, "sensor_losses"),
    ),
    Case(
        "sensor absent",
        _fault("absent", 1),
        _fault("absent", 0),
        figure=False,
        watts=False,
        flags=_AWAY,
        losses=(*_BUS, "sensor_losses"),
    ),
    Case(
        "bits changed on I2C",
        _fault("i2c-flip", 0.01),
        _fault("i2c-flip", 0),
        interval=False,
        flags=("clipped",),
        # A bus voltage that no board has, or at the end of its range, is seen as well.
        maybe=("overflow", "bus-full", "bus-low", "sensor-lost", "sensor-restarted", "bus-errors", "degraded"),
    ),
    Case(
        "load beyond the range",
        _load("constant:30"),
        _load("constant:2.5"),
        interval=False,
        flags=("clipped",),
    ),
    Case(
        "sensor lost its supply for a moment",
        _fault("sensor-brown-out", 1),
        flags=("sensor-restarted",),
        losses=("sensor_restarts",),
    ),
    Case(
        "bits changed to the host",
        _fault("to-host-flip", 1e-3),
        _fault("to-host-flip", 0),
        flags=("batches-lost", "recovered", "line-errors"),
        losses=("damaged_frames", "lost_batches", "recovered_s"),
    ),
    Case(
        "bytes lost to the host",
        _fault("to-host-drop", 1e-3),
        _fault("to-host-drop", 0),
        flags=("batches-lost", "recovered", "line-errors"),
        losses=("damaged_frames", "lost_batches", "recovered_s"),
    ),
    Case(
        "bits changed to the bridge",
        _fault("to-mcu-flip", 0.1),
        _fault("to-mcu-flip", 0),
        flags=("line-errors",),
        losses=("damaged_commands",),
    ),
    Case(
        "bytes lost to the bridge",
        _fault("to-mcu-drop", 0.1),
        _fault("to-mcu-drop", 0),
        flags=("line-errors",),
        losses=("damaged_commands",),
    ),
    Case("garbage on the line", _garbage, flags=("line-errors",), maybe=("batches-lost", "recovered")),
    Case("FTDI latency of 16 ms", lambda b: b.machine.set_usb("ftdi"), lambda b: b.machine.set_usb("none")),
    Case(
        "bridge reset",
        lambda b: b.machine.reset("external"),
        flags=("bridge-restarted",),
        maybe=("degraded", "line-errors"),
        losses=("restarts",),
    ),
    Case(
        "bridge browned out",
        lambda b: b.machine.reset("brown-out"),
        flags=("bridge-restarted",),
        maybe=("degraded", "line-errors"),
        losses=("restarts",),
    ),
    Case(
        "bridge hangs, watchdog",
        _hang,
        flags=("bridge-restarted", "degraded"),
        maybe=("line-errors",),
        losses=("restarts",),
    ),
    Case(
        "cable pulled and put back",
        lambda b: b.world.unplug(),
        lambda b: b.world.replug(),
        watts=False,
        flags=("reconnected", "batches-lost", "recovered"),
        maybe=("line-errors",),
        losses=("reconnects", "lost_batches", "recovered_s"),
    ),
    Case(
        "the same, and the bridge lost its supply",
        lambda b: b.world.unplug(),
        _replug_powerless,
        figure=False,
        watts=False,
        flags=("reconnected", "bridge-restarted", "degraded"),
        maybe=("line-errors",),
        losses=("reconnects", "restarts"),
    ),
)
