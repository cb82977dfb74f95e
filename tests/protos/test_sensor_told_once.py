"""The sensor is told once, in the card: reports and late joules name its id, whatever its port is called."""

from __future__ import annotations

from dataclasses import replace

import pytest
from message_values import example_report

from protos.convert.cards import meter_from, meter_to
from protos.convert.energy import named, settled_from, settled_to, without_folder
from protos.convert.reports import parse_report, serialise_report
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import DeviceReport, MeterCard, SettledEnergy

CARD = MeterCard("measured", "ina219:ttyUSB0#0", "5a05c6b1", "calibrated", id=0xCAFE1234)


def report_of(*sensors: str) -> DeviceReport:
    energy = tuple(
        PhaseEnergy(phase, 1.0, 1.0, 0.0, "measured", sensor, 0.1)
        for phase, sensor in zip(Phase, sensors, strict=False)
    )
    return replace(example_report(), energy=energy)


def test_a_report_says_the_id_and_a_reader_with_the_card_has_the_sensor_again() -> None:
    report = report_of("ina219:/dev/serial/by-id/ttyUSB0#0", "ina219:/dev/serial/by-id/ttyUSB0#0", "rapl")
    data = serialise_report(report, CARD)
    assert b"ttyUSB0" not in data
    read = parse_report(data)
    assert ([phase_energy.sensor for phase_energy in read.energy], read.meter_id) == (["", "", "rapl"], CARD.id)
    back = named(read.energy, read.meter_id, CARD)
    assert [phase_energy.sensor for phase_energy in back] == [CARD.sensor, CARD.sensor, "rapl"]


def test_another_meter_than_that_of_the_card_stays_unnamed_and_is_not_guessed() -> None:
    read = parse_report(serialise_report(report_of("ina219:a#0"), replace(CARD, sensor="ina219:a#0")))
    for card in (replace(CARD, sensor="ina219:b#0", id=7), None):
        assert [phase_energy.sensor for phase_energy in named(read.energy, read.meter_id, card)] == [""]


def test_the_size_of_a_report_does_not_depend_on_the_name_of_the_port() -> None:
    sizes = {
        len(serialise_report(report_of(*[sensor] * 5), replace(CARD, sensor=without_folder(sensor))))
        for sensor in ("ina219:/t#0", "ina219:/a/very/long/folder/of/somebody/" + "x" * 80 + "#0")
    }
    assert len(sizes) == 1


def test_a_device_that_names_its_sensor_in_each_phase_is_read_as_before() -> None:
    report = report_of("ina219:one.tty#0", "ina219:one.tty#0")
    old = MeterCard("measured", "ina219:one.tty#0")
    read = parse_report(serialise_report(report, old))
    assert (read, read.meter_id) == (report, 0)
    assert named(read.energy, read.meter_id, old) == report.energy


def test_late_joules_say_the_id_too() -> None:
    record = PhaseEnergy(Phase.SEND, 1.0, 1.0, 0.0, "measured", "ina219:/x/ttyUSB0#0", 0.1)
    (told,) = settled_to([SettledEnergy("run-1", 2, (record,), 3)], CARD)
    (read,) = settled_from([told])
    assert (read.energy[0].sensor, read.meter_id, read.attempt) == ("", CARD.id, 3)
    assert named(read.energy, read.meter_id, CARD)[0].sensor == CARD.sensor


def test_the_card_carries_the_id() -> None:
    assert meter_from(meter_to(CARD)) == CARD


@pytest.mark.parametrize(
    ("sensor", "told"),
    [
        ("ina219:/dev/serial/by-id/usb-Arduino-if00#0", "ina219:usb-Arduino-if00#0"),
        ("ina219:some/folder/one.tty#1", "ina219:one.tty#1"),
        ("ina219:one.tty#0", "ina219:one.tty#0"),
        ("iio:ina219/buffer", "iio:ina219/buffer"),
        ("i2c:1:0x40", "i2c:1:0x40"),
        ("estimate:pi4", "estimate:pi4"),
        ("none", "none"),
        ("", ""),
    ],
)
def test_the_folder_of_a_port_is_left_out_and_nothing_else(sensor: str, told: str) -> None:
    assert without_folder(sensor) == told
