"""``bridge monitor`` prints what the bridge measures."""

from __future__ import annotations

import io
import json

import pytest
from client_worlds import NEEDS_MACHINE, machine_client, sensor, twin, twin_client

from firmware_tools.bridge.commands.monitor import monitor
from protos.bridge.commands import calibration_command
from protos.energy.ina219 import Calibration
from protos.errors import SensorError


def shown(client, seconds: float, **fields) -> str:
    out = io.StringIO()
    monitor(client, seconds, **{"marks": False, "as_json": False, "out": out} | fields)
    return out.getvalue()


def test_a_plain_table_has_a_line_each_second():
    text = shown(twin_client(twin(power_w=2.5)), 3.0)
    lines = text.splitlines()
    assert lines[0].split() == ["W", "V", "A", "peak", "W", "Hz", "lost", "clip"]
    rows = [line.split() for line in lines if line.startswith("0 40h")]
    assert len(rows) == 3
    for row in rows:
        assert float(row[2]) == pytest.approx(2.5, rel=0.01)
        assert float(row[3]) == pytest.approx(5.0, abs=0.01)
        assert float(row[4]) == pytest.approx(0.5, rel=0.01)
        assert row[-2:] == ["0", "0"]
    assert any(line.startswith("clock") and "drift" in line for line in lines)
    assert "\x1b" not in text


def test_a_terminal_is_drawn_over():
    assert shown(twin_client(twin()), 3.0, live=True).count("\x1b[") == 4  # two redraws of two sequences


@NEEDS_MACHINE
def test_two_sensors_marks_losses_and_clipping_as_json():
    parts = (sensor("constant:1"), sensor("constant:30", address=0x41))
    with machine_client(*parts) as (machine, client):
        for number in range(2):
            client.tell(calibration_command(number, Calibration(1, 20_000, 0, 0, 20_000)))
        for k in range(4):
            machine.marker(1 - k % 2, at_s=machine.now_s + 0.2 + k / 10)
        objects = [json.loads(line) for line in shown(client, 2.0, marks=True, as_json=True).splitlines()]
        assert [(o["mark"], o["level"]) for o in objects if "mark" in o] == [(0, 1), (1, 0), (2, 1), (3, 0)]
        first, second = ([o for o in objects if o.get("sensor") == number] for number in range(2))
        assert [round(o["power_w"], 1) for o in first] == [1.0, 1.0]
        assert all(o["clipped"] > 50 and o["current_a"] == pytest.approx(4.0) for o in second)
        assert all(o["lost"] == 0 for o in first)
        machine.fault("to-host-drop", on=0.01)
        objects = [json.loads(line) for line in shown(client, 2.0, as_json=True).splitlines()]
        assert sum(o["lost"] for o in objects) > 0


@NEEDS_MACHINE
def test_a_restart_is_told_and_silence_ends_it(capsys):
    with machine_client(sensor("constant:1")) as (machine, client):
        client.hello()
        machine.reset("external")
        shown(client, 2.0)
        machine.fault("absent")
        with pytest.raises(SensorError, match="no samples"):
            shown(client, 60.0)
    assert "no samples" not in capsys.readouterr().err
