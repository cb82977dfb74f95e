"""Temperature, supply and clock of the board, at this moment and since its start."""

from __future__ import annotations

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine
from edge_runtime.health.thermal import EdgeTpuHeat, Thermometer
from edge_runtime.health.throttling import Bits, Throttling, find_sources, read_all

_COOLER = "a heat sink or a fan, more air around the board; fewer --threads; docs/heat.md says what the daemon does"
_SUPPLY = "the board maker's own supply, a short thick cable, a powered hub for USB devices"


def check_temperature(settings: Settings, machine: HostMachine) -> list[Finding]:
    """A board that is warm at rest pauses as soon as it works."""
    sysfs = machine.root / "sys"
    value_c, edge_tpu = Thermometer(sysfs).read_c(), EdgeTpuHeat(sysfs)
    found = []
    if value_c is None:
        found.append(Finding("temperature", "ok", "no thermometer of the processor: heat is no reason to pause"))
    elif settings.pause_above_c and value_c >= settings.resume_below_c:
        what = f"{value_c:.1f} degrees now; training pauses from {settings.pause_above_c:g} on, and goes on below "
        found.append(Finding("temperature", "warn", f"{what}{settings.resume_below_c:g}", _COOLER))
    else:
        limit = f"from {settings.pause_above_c:g} on" if settings.pause_above_c else "never"
        found.append(Finding("temperature", "ok", f"{value_c:.1f} degrees now; training pauses {limit}"))
    chip_c = edge_tpu.read_c()
    if chip_c is not None and chip_c >= edge_tpu.limit_c:
        what = f"Edge TPU {chip_c:.1f} degrees now; its driver slows it down from {edge_tpu.limit_c:g} on"
        found.append(Finding("temperature", "warn", what, _COOLER))
    return found


def check_supply(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Under-voltage lowers the clock, corrupts cards, and makes joules untypical."""
    seen = _throttling(machine)
    if not _tells_voltage(seen):
        return [Finding("supply", "ok", "nobody tells of its voltage here")]
    if seen.under_voltage:
        return [Finding("supply", "warn", "the voltage is too low now", _SUPPLY)]
    if seen.earlier & Bits.UNDER_VOLTAGE:
        return [Finding("supply", "warn", "the voltage was too low since the board started", _SUPPLY)]
    return [Finding("supply", "ok", "the voltage is high enough")]


def check_throttling(settings: Settings, machine: HostMachine) -> list[Finding]:
    """A clock that is held down makes each step slower and dearer than it has to be."""
    seen, clock = _throttling(machine), _clock_in_words(machine)
    if not seen.sources:
        return [Finding("throttling", "ok", f"nobody tells of it here{clock}")]
    slow = Bits.CAPPED | Bits.THROTTLED | Bits.SOFT_LIMIT
    fix = _SUPPLY if (seen.now | seen.earlier) & Bits.UNDER_VOLTAGE else _COOLER
    if seen.now & slow:
        return [Finding("throttling", "warn", f"the clock is held down now ({_words(seen.now & slow)}){clock}", fix)]
    if seen.earlier & slow:
        what = f"the clock was held down since the board started ({_words(seen.earlier & slow)}){clock}"
        return [Finding("throttling", "warn", what, fix)]
    return [Finding("throttling", "ok", f"the clock is free{clock}")]


def _throttling(machine: HostMachine) -> Throttling:
    """Of the kernel's files, and of vcgencmd where it is: it alone remembers since the start of the board."""
    seen = read_all(find_sources(machine.root / "sys"), 0.0)
    asked = machine.firmware()
    if asked is None:
        return seen
    return Throttling(seen.now | asked[0], seen.earlier | asked[1], (*seen.sources, "vcgencmd"))


def _tells_voltage(seen: Throttling) -> bool:
    return any(source in ("kernel", "rpi_volt", "vcgencmd") for source in seen.sources)


def _words(bits: Bits) -> str:
    names = {Bits.CAPPED: "capped", Bits.THROTTLED: "throttled", Bits.SOFT_LIMIT: "soft limit of temperature"}
    return ", ".join(name for bit, name in names.items() if bits & bit)


def _clock_in_words(machine: HostMachine) -> str:
    folder = machine.root / "sys/devices/system/cpu/cpu0/cpufreq"
    now_khz, most_khz = machine.number(folder / "scaling_cur_freq"), machine.number(folder / "cpuinfo_max_freq")
    return "" if now_khz is None or not most_khz else f"; {now_khz / 1000:.0f} of {most_khz / 1000:.0f} MHz now"
