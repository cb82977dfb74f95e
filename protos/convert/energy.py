"""Joules by phase and their messages. An unknown energy is an absent field, never 0."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from protos.convert.checks import checked_name, count_at_most, finite, known
from protos.energy.trace import Method, Phase, PhaseEnergy
from protos.orders import MeterCard, SettledEnergy
from protos.v1 import edgejoule_pb2 as pb

MAX_ENERGY_RECORDS = 1024
MAX_FLAGS = 32
# What is below zero is for the coordinator to refuse, with its reason (coordinator/run/reports/plausibility.py).
MIN_ENERGY_J = -1e12

_PHASES = {
    Phase.IDLE: pb.PHASE_IDLE,
    Phase.RECEIVE: pb.PHASE_RECEIVE,
    Phase.EMBED: pb.PHASE_EMBED,
    Phase.TRAIN: pb.PHASE_TRAIN,
    Phase.ENCODE: pb.PHASE_ENCODE,
    Phase.SEND: pb.PHASE_SEND,
    Phase.INFER: pb.PHASE_INFER,
}
METHODS = {
    "measured": pb.ENERGY_METHOD_MEASURED,
    "estimated": pb.ENERGY_METHOD_ESTIMATED,
    "unknown": pb.ENERGY_METHOD_UNKNOWN,
}
_PHASE_OF = {number: phase for phase, number in _PHASES.items()}
METHOD_OF = {number: method for method, number in METHODS.items()}


def energy_to(records: Iterable[PhaseEnergy]) -> list[pb.PhaseEnergy]:
    """Energy records as messages; an unknown energy stays absent."""
    return [
        pb.PhaseEnergy(
            phase=_PHASES[record.phase],
            energy_j=record.energy_j,
            covered_s=record.covered_s,
            uncovered_s=record.uncovered_s,
            method=METHODS[record.method],
            sensor=record.sensor,
            uncertainty_j=record.uncertainty_j,
            flags=record.flags,
        )
        for record in records
    ]


def energy_from(messages: Iterable[pb.PhaseEnergy]) -> tuple[PhaseEnergy, ...]:
    """Energy records from messages."""
    records: list[PhaseEnergy] = []
    for message in messages:
        count_at_most(len(records) + 1, MAX_ENERGY_RECORDS, "energy")
        count_at_most(len(message.flags), MAX_FLAGS, "energy.flags")
        energy_j = finite(message.energy_j, "energy_j", at_least=MIN_ENERGY_J) if message.HasField("energy_j") else None
        spread_j = finite(message.uncertainty_j, "uncertainty_j") if message.HasField("uncertainty_j") else None
        records.append(
            PhaseEnergy(
                phase=known(_PHASE_OF, message.phase, "energy.phase"),
                energy_j=energy_j,
                covered_s=finite(message.covered_s, "covered_s"),
                uncovered_s=finite(message.uncovered_s, "uncovered_s"),
                method=cast(Method, known(METHOD_OF, message.method, "energy.method")),
                sensor=checked_name(message.sensor, "energy.sensor", empty=True),
                uncertainty_j=spread_j,
                flags=tuple(checked_name(flag, "energy.flags") for flag in message.flags),
            )
        )
    return tuple(records)


def settled_to(settled: Iterable[SettledEnergy], meter: MeterCard | None = None) -> list[pb.SettledEnergy]:
    """Late energy as messages; ``meter`` is that of the card which the coordinator holds."""
    made = []
    for settled_energy in settled:
        energy, meter_id = unnamed(settled_energy.energy, meter)
        made.append(
            pb.SettledEnergy(
                run_id=settled_energy.run_id,
                round=settled_energy.round,
                energy=energy_to(energy),
                attempt=settled_energy.attempt or 0,
                meter_id=meter_id or settled_energy.meter_id,
            )
        )
    return made


def unnamed(energy: tuple[PhaseEnergy, ...], meter: MeterCard | None) -> tuple[tuple[PhaseEnergy, ...], int]:
    """Records without the name of a sensor that the card names already, and the id that stands for it; 0 without."""
    told = tuple(replace(record, sensor=without_folder(record.sensor)) for record in energy)
    if meter is None or not meter.id or all(record.sensor != meter.sensor for record in told):
        return told, 0
    return tuple(
        replace(phase_energy, sensor="") if phase_energy.sensor == meter.sensor else phase_energy
        for phase_energy in told
    ), meter.id


def without_folder(sensor: str) -> str:
    """The name of a sensor without the folder of its port, which means nothing on another machine.

    >>> without_folder("ina219:/dev/serial/by-id/usb-1#0"), without_folder("iio:ina219/buffer")
    ('ina219:usb-1#0', 'iio:ina219/buffer')
    """
    return re.sub(r"^(ina219:|\w+:(?=/)).*/", r"\1", sensor)


def named(energy: tuple[PhaseEnergy, ...], meter_id: int, meter: MeterCard | None) -> tuple[PhaseEnergy, ...]:
    """The reverse: records with the sensor of the meter that has this id. One that is not ``meter`` stays unnamed."""
    if not meter_id or meter is None or meter.id != meter_id:
        return energy
    return tuple(
        phase_energy if phase_energy.sensor else replace(phase_energy, sensor=meter.sensor) for phase_energy in energy
    )


def settled_from(messages: Iterable[pb.SettledEnergy]) -> tuple[SettledEnergy, ...]:
    """Late energy from messages."""
    settled: list[SettledEnergy] = []
    for message in messages:
        count_at_most(len(settled) + 1, MAX_ENERGY_RECORDS, "settled")
        run_id = checked_name(message.run_id, "settled.run_id")
        energy = energy_from(message.energy)
        settled.append(SettledEnergy(run_id, message.round, energy, message.attempt or None, message.meter_id))
    return tuple(settled)
