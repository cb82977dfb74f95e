"""One rig per sensor: how to make it on a load of 4 W, how its source falls silent, and where it is not.

Another sensor joins the contract with one more function in :data:`RIGS`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_machine import FakeBus, IioNode, RaplCounter, Worker, hwmon_tree, iio_tree, rapl_tree

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.host.hwmon import hwmon_sensor
from edge_runtime.power.host.i2c import i2c_sensor
from edge_runtime.power.host.iio import iio_sensor
from edge_runtime.power.host.pmic import pmic_sensor
from edge_runtime.power.host.rapl import rapl_sensor
from edge_runtime.power.sensor import PowerSensor
from firmware_tools.bridge.machine.build import APT, missing
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from firmware_tools.bridge.simulator.loads import ConstantLoad

TRUE_W = 4.0
IMAGE = Path(__file__).resolve().parents[3] / "firmware_tools/bridge/firmware/images/edgejoule-bridge-atmega328p.hex"
Maker = Callable[..., PowerSensor]


@dataclass
class Rig:
    """A sensor on a load of 4 W.

    Args:
        make: the sensor with these options, not open yet.
        absent: the same where there is none.
        name: what its identity calls it.
        quality: the word for it.
        stall: its source falls silent.
        restore: its source is back.
        calibration_id: its identity's.
        truth_j: joules that it can have seen from one time of the host to another.
    """

    make: Maker
    absent: Callable[[], PowerSensor]
    name: str
    quality: str
    stall: Callable[[], None]
    restore: Callable[[], None]
    calibration_id: str = "none"
    truth_j: Callable[[float, float], float] = lambda from_s, to_s: TRUE_W * (to_s - from_s)


def bridge(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    simulated = plug_in(seed=4)
    calibration = simulated.device.channels[0].calibration
    return Rig(
        make=lambda **options: bridge_sensor(str(simulated.spec.link), options, SystemClock()),
        absent=lambda: bridge_sensor(str(folder / "ttyUSB9"), {}, SystemClock()),
        name=f"ina219:{simulated.spec.link}#0",
        quality="calibrated",
        stall=simulated.unplug,
        restore=simulated.plug,
        calibration_id=f"{calibration.id:08x}",
    )


def bridge_firmware(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    """The bridge's real firmware, on a simulated microcontroller and sensor."""
    if what := missing():
        pytest.skip(f"{what}: {APT}")
    link = folder / "ttyINA"
    spec = MachineSpec(IMAGE, (SensorSpec(f"constant:{TRUE_W}", shunt_ohm=0.02),), seed=3)
    machine = stack.enter_context(FirmwareMachine.serve_pty(spec, link))
    return Rig(
        make=lambda **options: bridge_sensor(str(link), {"shunt": "0.02", **options}, SystemClock()),
        absent=lambda: bridge_sensor(str(link), {"sensor": "3"}, SystemClock()),
        name=f"ina219:{link}#0",
        quality="uncalibrated",
        stall=machine.unplug,
        restore=machine.replug,
    )


def hwmon(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    device = hwmon_tree(folder)
    hwmon_tree(folder, number=0, name="cpu_thermal")
    return Rig(
        make=lambda **options: hwmon_sensor("ina219", {"shunt": "0.02", **options}, SystemClock(), sysfs_root=folder),
        absent=lambda: hwmon_sensor("ina226", {}, SystemClock(), sysfs_root=folder),
        name="hwmon:ina219",
        quality="uncalibrated",
        stall=lambda: os.truncate(device / "curr1_input", 0),
        restore=lambda: (device / "curr1_input").write_text("800\n") and None,
    )


def iio_poll(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    device = iio_tree(folder)
    return Rig(
        make=lambda **options: iio_sensor(
            "ina219", {"shunt": "0.02", "mode": "poll", **options}, SystemClock(), sysfs_root=folder
        ),
        absent=lambda: iio_sensor("ina219", {}, SystemClock(), sysfs_root=folder / "nowhere"),
        name="iio:ina219/poll",
        quality="uncalibrated",
        stall=lambda: os.truncate(device / "in_voltage0_raw", 0),
        restore=lambda: (device / "in_voltage0_raw").write_text("1600\n") and None,
    )


def iio_buffer(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    device = iio_tree(folder)
    node = IioNode(device, folder / "dev" / "iio:device0", 1600, 1250 << 3 | 2)
    stack.callback(node.close)
    stack.enter_context(Worker(node))
    return Rig(
        make=lambda **options: iio_sensor(
            "ina219", {"shunt": "0.02", **options}, SystemClock(), sysfs_root=folder, dev_root=folder / "dev"
        ),
        absent=lambda: iio_sensor("ina219", {"mode": "buffer"}, SystemClock(), sysfs_root=folder, dev_root=folder),
        name="iio:ina219/buffer",
        quality="uncalibrated",
        stall=lambda: setattr(node, "silent", True),
        restore=lambda: setattr(node, "silent", False),
    )


def i2c(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    bus = FakeBus(ConstantLoad(TRUE_W))
    return Rig(
        make=lambda **options: i2c_sensor("1:0x40", {"shunt": "0.02", **options}, SystemClock(), bus=bus),
        absent=lambda: i2c_sensor("1:0x41", {"shunt": "0.02"}, SystemClock(), bus=bus),
        name="i2c:1:0x40",
        quality="uncalibrated",
        stall=lambda: setattr(bus, "failing", OSError(errno.EREMOTEIO, "Remote I/O error")),
        restore=lambda: setattr(bus, "failing", None),
    )


def rapl(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    zone = rapl_tree(folder)
    counter = RaplCounter(zone, TRUE_W)
    stack.callback(counter.close)
    worker = stack.enter_context(Worker(counter))

    def stall() -> None:
        worker.hold()
        os.truncate(zone / "energy_uj", 0)

    return Rig(
        make=lambda **options: rapl_sensor("", options, SystemClock(), sysfs_root=folder),
        absent=lambda: rapl_sensor("psys", {}, SystemClock(), sysfs_root=folder),
        name="rapl:package-0",
        quality="partial",
        stall=stall,
        restore=worker.held.clear,
        truth_j=lambda from_s, to_s: counter.counted_j(to_s) - counter.counted_j(from_s),
    )


def pmic(folder: Path, stack: contextlib.ExitStack, plug_in: Any) -> Rig:
    program, silent = folder / "vcgencmd", folder / "silent"
    program.write_text(f"""#!/bin/sh
test -e {silent} && exit 1
echo '   VDD_CORE_A current(7)=4.00000000A'
echo '     3V3_SYS_A current(1)=0.30303030A'
echo '   VDD_CORE_V volt(15)=0.75000000V'
echo '     3V3_SYS_V volt(9)=3.30000000V'
echo '      EXT5V_V volt(24)=5.10000000V'
""")
    program.chmod(0o755)
    return Rig(
        make=lambda **options: pmic_sensor(
            "", {"rate": "20", **options}, SystemClock(), command=(str(program), "pmic_read_adc")
        ),
        absent=lambda: pmic_sensor("", {}, SystemClock(), command=(str(folder / "none"), "pmic_read_adc")),
        name="pmic",
        quality="partial",
        stall=silent.touch,
        restore=lambda: silent.unlink(missing_ok=True),
    )


RIGS = {
    function.__name__: function for function in (bridge, bridge_firmware, hwmon, iio_poll, iio_buffer, i2c, rapl, pmic)
}
