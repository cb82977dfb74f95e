"""The power management chip of a Raspberry Pi 5, through ``vcgencmd pmic_read_adc``.

It tells volts and amperes of about a dozen rails of the processor, its memory and the board's 3.3 V and 1.8 V. **It
does not see the board**: what the USB ports, HATs and the losses of the chip itself draw is in none of them, and EXT5V
has a voltage only. So its quality is ``partial``. Each look starts a program, and takes the rails one after the other.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from edge_runtime.power.clock import Clock
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import Instants
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.options import number, refuse_others
from edge_runtime.power.sensor import Capabilities
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError, UsageError

__all__ = ["PMIC_LIMIT", "PmicSource", "pmic_sensor", "rails_power_w"]

COMMAND = ("vcgencmd", "pmic_read_adc")
RATE_HZ = 4.0
ANSWER_S = 2.0
LOOK_S = 1e-3
"""How long one look at a rail takes, about; of the rest of the time nothing is seen."""
PMIC_LIMIT = 0.1
"""Relative limit of the rails' own error: a judgement. The maker states none."""
_LINE = re.compile(r"\s*(\w+)_([AV])\s*(?:\w+\(\d+\))?\s*=\s*(-?[0-9.]+)[AV]\s*")


def pmic_sensor(
    rest: str, options: Mapping[str, str], clock: Clock, *, command: Sequence[str] = COMMAND
) -> PolledSensor:
    """The sensor of ``pmic?rate=``, not open yet. Raises UsageError."""
    if rest:
        raise UsageError(f"pmic has no part called {rest!r}", where="sensor", fix="write pmic")
    refuse_others(options, ("rate",))
    rate_hz = number(options, "rate", 0.1, 20.0, "hertz") or RATE_HZ
    return PolledSensor(PmicSource(command, rate_hz), clock)


def rails_power_w(text: str) -> float:
    """Watts of all rails that have both a voltage and a current.

    Raises:
        ValueError: there is none.

    >>> text = " VDD_CORE_A current(7)=2.00000000A\\n VDD_CORE_V volt(15)=0.75000000V\\n EXT5V_V volt(24)=5.10000000V"
    >>> rails_power_w(text)
    1.5
    """
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for line in text.splitlines():
        if found := _LINE.fullmatch(line):
            values[found[2]][found[1]] = float(found[3])
    rails = values["A"].keys() & values["V"].keys()
    if not rails:
        raise ValueError("no rail with volts and amperes")
    return sum(values["A"][rail] * values["V"][rail] for rail in sorted(rails))


class PmicSource:
    """A :class:`edge_runtime.power.host.source.Source`: the sum of the rails, at instants."""

    def __init__(self, command: Sequence[str], rate_hz: float) -> None:
        self._command = tuple(command)
        self.poll_s, self.dithers = 1.0 / rate_hz, True
        self.identity = MeterIdentity("measured", "pmic", "none", "partial")
        self.capabilities = Capabilities(rate_hz, "host")
        self._instants = Instants(self.poll_s)

    def open(self, now_s: float) -> None:
        try:
            self._look()
        except FileNotFoundError as cause:
            raise SensorError(
                f"there is no {self._command[0]} here",
                where="pmic",
                fix="use it on a Raspberry Pi 5 with its own system",
            ) from cause
        except (OSError, ValueError) as cause:
            raise SensorError(
                f"{' '.join(self._command)} gives no rails ({cause})",
                where="pmic",
                fix="only a Raspberry Pi 5 has them; the user must be in group video",
            ) from cause
        self._instants = Instants(self.poll_s)

    def take(self, now_s: float) -> PowerTrace:
        return self._instants.add(now_s, self._look())

    def errors(self) -> ErrorModel:
        return ErrorModel(gain_relative=PMIC_LIMIT, shunt_s=LOOK_S, dithered=True, sync_s=self.poll_s / 2)

    def flags(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        return None

    def _look(self) -> float:
        try:
            done = subprocess.run(
                self._command, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False
            )
        except subprocess.TimeoutExpired as cause:
            raise OSError(f"no answer within {ANSWER_S:g} s") from cause
        if done.returncode:
            raise OSError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[:80]}")
        return rails_power_w(done.stdout)
