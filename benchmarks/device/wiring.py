"""Wires that are wrong, each on real programs: a bridge on a pseudo-terminal, a daemon with it, a round.

    .venv/bin/python benchmarks/field.py --only wiring

A row has the flag that the coordinator shows as the quality of the device's meter (or the reason in its card, where the
sensor was refused), and whether the joules of a round without a budget were known. A run *with* a budget is given to
each device as well: with a wrong wire it must get no step out of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.device.faults import NAME, Rig, until
from benchmarks.device.runs import begin, look
from coordinator.operator.client import Operator
from protos.energy.trace import Phase
from protos.errors import EdgejouleError
from protos.model.bundle import Bundle

__all__ = ["FAULTS", "rows"]

_NOT_WORD = re.compile(r"\W+")
TRUE_W = 4.0
BUDGETED_S = 6.0
_FLAGS = ("reversed", "bus-low", "bus-full", "no-current", "shunt-unknown")


@dataclass(frozen=True)
class Fault:
    """A wire, as `firmware-tools bridge sim` takes it.

    Args:
        name: of the row.
        bridge: arguments of the simulator.
        flag: what must be shown; empty where the figure is right.
    """

    name: str
    bridge: tuple[str, ...]
    flag: str


FAULTS = (
    Fault("none: as it should be", (), ""),
    Fault("a supply of 24 V, in the 32 V range", ("--supply-v", "24"), ""),
    Fault("VIN+ and VIN- swapped", ("--wiring", "swapped"), "reversed"),
    Fault("IN- open", ("--wiring", "open-minus"), "bus-low"),
    Fault("sensor in the ground line", ("--wiring", "low-side"), "bus-low"),
    Fault("current flows past the sensor", ("--wiring", "bypassed"), "no-current"),
    Fault("a supply of 24 V, with a bridge that stays at 16 V", ("--supply-v", "24", "--old"), "bus-full"),
    Fault(
        "a shunt that nobody named", ("--uncalibrated", "--shunt-ohm", "0.02"), "nobody has told the bridge its shunt"
    ),
)


def rows(folder: Path, bundle: Bundle, faults: tuple[Fault, ...] | None = None) -> Iterator[dict[str, Any]]:
    """A row for each wire; None: of all."""
    for fault in FAULTS if faults is None else faults:
        rig = Rig(folder / f"wire-{_NOT_WORD.sub('-', fault.name)}", bundle.path)
        try:
            yield _row(rig, fault)
        finally:
            rig.close()


def _row(rig: Rig, fault: Fault) -> dict[str, Any]:
    rig.serve()
    rig.write_data()
    link = rig.folder / "ttyINA"
    words = ("bridge", "sim", "--load", f"constant:{TRUE_W}", "--link", link, *fault.bridge)
    rig.start("bridge", "firmware_tools.cli", *words)
    until(link.exists)
    daemon = rig.device("--sensor", f"serial:{link}")
    until(lambda: _shown_flag(rig, fault) == fault.flag)
    joules = _joules(rig)
    spent_steps = _budgeted_steps(rig)
    return {
        "fault": fault.name,
        "flag": fault.flag,
        "joules_known": joules is not None,
        "watts": joules,
        "steps_within_a_budget": spent_steps,
        "daemon_alive": daemon.poll() is None,
    }


def _shown_flag(rig: Rig, fault: Fault) -> str | None:
    """What the coordinator shows of the wires; empty when the meter measures, None when it is not known yet."""
    found = rig.shown(NAME)
    if found is None or found.state != "present":
        return None
    if found.meter.method == "measured":
        return ""
    if found.meter.quality in _FLAGS:
        return found.meter.quality
    return fault.flag if fault.flag and fault.flag in found.reason else None


def _joules(rig: Rig) -> float | None:
    """Mean watts of the work of a round without a budget, None when its joules are not known."""
    run_id = begin(rig, epochs=20)
    until(lambda: look(rig, run_id).is_over)
    (device,) = look(rig, run_id).rounds[-1].devices
    worked = [
        phase_energy
        for phase_energy in device.energy
        if phase_energy.phase in (Phase.EMBED, Phase.TRAIN) and phase_energy.covered_s > 0
    ]
    if not worked or any(
        phase_energy.energy_j is None for phase_energy in device.energy if phase_energy.phase is not Phase.IDLE
    ):
        return None
    return sum(phase_energy.energy_j or 0.0 for phase_energy in worked) / sum(
        phase_energy.covered_s for phase_energy in worked
    )


def _budgeted_steps(rig: Rig) -> int:
    """Steps that a device made of an order with a budget; 0 when it got none, as one without a sensor."""
    run_id = begin(rig, more="[budget]\nper_round_j = 50.0\n")
    with contextlib.suppress(TimeoutError):
        until(lambda: look(rig, run_id).is_over, BUDGETED_S)
    status = look(rig, run_id)
    with contextlib.suppress(EdgejouleError), Operator(rig.address) as operator:
        operator.stop_run(run_id)
    return sum(device.steps_done for this_round in status.rounds for device in this_round.devices)
