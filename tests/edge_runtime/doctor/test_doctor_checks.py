"""Every check complains about what it is for, says how to mend it, and is content otherwise."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sick_machine import GID, Break, Patient

from edge_runtime.doctor.examination import CHECKS, FRESH_START, Examination, _judged
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.fresh_start import FreshStart
from edge_runtime.health.throttling import Bits
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from protos.plugins import Plugin

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    master, slave = os.openpty()
    one = Patient(tmp_path, Path(os.ttyname(slave)))
    with one.running:
        yield one
    os.close(master)
    os.close(slave)


def findings(patient: Patient, name: str) -> list[Finding]:
    """Of the check that may say this."""
    (check,) = [each_check for each_check in CHECKS if name in each_check.names]
    found = check.look(patient.settings, patient.machine)
    assert {finding.check for finding in found} <= set(check.names)
    return [finding for finding in found if finding.check == name]


def one_mount(kind: str, options: str, device: str = "/dev/mmcblk0p2") -> Break:
    return lambda patient: patient.mounts((device, "/", kind, options))


def changed(**changes: object) -> Break:
    return lambda patient: patient.changes.update(changes)


def installed(**versions: str) -> Break:
    def apply(patient: Patient) -> None:
        patient.versions.clear()
        patient.versions.update({name.replace("_", "-"): version for name, version in versions.items()})

    return apply


def offered(kind: str, name: str) -> Break:
    plugin = Plugin(kind, name, "odd", "1.0", "gone:ROW")
    return changed(plugins=lambda asked: (plugin,) if asked == kind else ())


def flag(**flags: str) -> Break:
    return lambda patient: patient.flags.update(flags)


def both(*some: Break) -> Break:
    def apply(patient: Patient) -> None:
        for one in some:
            one(patient)

    return apply


def held(name: str, *command: str) -> Break:
    return lambda patient: patient.process(812, name, *command, holds=patient.port)


def stale_session(patient: Patient) -> None:
    node = patient.folder / "port"
    node.write_text("")
    # The group of a file that this test makes, told as the group of the port.
    gid = node.stat().st_gid
    patient.flags["sensor"] = f"serial:{node}"
    patient.write("etc/group", f"dialout:x:{gid}:root,pi")
    patient.changes.update(may_open=lambda path: False, groups=frozenset({gid + 1}))


def brltty(patient: Patient) -> None:
    patient.usb("1a86", "7523")
    patient.write("usr/lib/udev/rules.d/85-brltty.rules", 'ENV{PRODUCT}=="1a86/7523/*"')


def two_units(patient: Patient) -> None:
    for folder in ("etc/systemd/system", "root/.config/systemd/user"):
        patient.write(f"{folder}/edge-runtime.service", "[Service]\nExecStart=/opt/x/bin/edge-runtime run --config /a")


def two_daemons(patient: Patient) -> None:
    patient.process(901, "edge-runtime", "/opt/x/bin/python3", "/opt/x/bin/edge-runtime", "run", "--config", "a")
    patient.process(902, "python3", "python3", "-m", "edge_runtime.cli", "run")


def latency(patient: Patient) -> None:
    patient.write(f"sys/bus/usb-serial/devices/{patient.port.name}/latency_timer", 16)


def bridge(**spec: Any) -> Break:
    """A simulated bridge on the port, on a load of 4 W."""

    def apply(patient: Patient) -> None:
        simulated = SimulatedBridge(BridgeSpec(link=patient.folder / "ttyINA", load="constant:4.0", **spec))
        patient.running.enter_context(Bench([simulated]))
        patient.flags["sensor"] = f"serial:{simulated.spec.link}"

    return apply


def no_cgroup(patient: Patient) -> None:
    patient.write("proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\nmemory 0 1 0")


def no_room(patient: Patient) -> None:
    patient.flags["state"] = "/proc/nothing"


# Name of the check, what breaks it, the verdict, and what is said (what), and what to do (fix).
SICK: dict[str, tuple[str, Break, str, str, str]] = {
    "old python": ("python", changed(python=(3, 10)), "fail", "3.10 is too old", "3.11"),
    "3.12 on armv7": ("python", changed(python=(3, 12), processor="armv7l", pointer_bits=32), "fail",
                      "no TFLite runtime exists for Python 3.12 on 32-bit ARM", "64-bit"),
    "3.13 in a 32-bit userland": ("python", changed(python=(3, 13), pointer_bits=32), "fail", "32-bit ARM", "3.11"),
    "musl": ("system library", changed(libc=("", "")), "fail", "no TFLite runtime", "glibc"),
    "old glibc": ("system library", changed(libc=("glibc", "2.24")), "fail", "glibc 2.24", "newer system"),
    "old glibc for the old runtime": (
        "system library", both(installed(tflite_runtime="2.14.0", numpy="1.26.4"), changed(libc=("glibc", "2.31"))),
        "fail", "needs 2.34", "ai-edge-litert"),
    "32-bit programs": ("userland", changed(pointer_bits=32), "warn", "64-bit kernel (aarch64)", "64-bit Raspberry"),
    "no runtime": ("runtime", installed(numpy="2.4.6"), "fail", "no TFLite runtime", "pip install ai-edge-litert"),
    "numpy 2 under the old runtime": ("runtime", installed(tflite_runtime="2.14.0", numpy="2.4.6"), "fail",
                                      "needs numpy 1, not 2.4.6", "numpy<2"),
    "codec of a broken package": ("plugins", offered("codecs", "mine"), "warn", "cannot be loaded from gone:ROW",
                                  "mend or uninstall odd"),
    "codec with a name of ours": ("plugins", offered("codecs", "eden"), "warn", "one of ours", "another name"),
    "no delegate": ("edgetpu", flag(edgetpu="require", edgetpu_library="/nowhere/libedgetpu.so.1"), "fail",
                    "not installed", "libedgetpu1-std"),
    "no port": ("sensor", flag(sensor="serial:/dev/ttyNOWHERE"), "fail", "not there", "plug it in"),
    "slow line": ("sensor line", latency, "warn", "16 ms", "latency_timer"),
    "swapped wires": ("sensor wiring", bridge(wiring="swapped"), "fail", "reversed", "swap VIN+"),
    "open IN-": ("sensor wiring", bridge(wiring="open-minus"), "fail", "bus-low", "plus line"),
    "shunt that nobody named": ("sensor wiring", bridge(calibrated=False), "fail", "its shunt", "calibrate"),
    "old session": ("port session", stale_session, "fail", "not yet when this session began", "log out and in"),
    "held port": ("port in use", held("minicom", "minicom", "-D"), "fail", "minicom (process 812)", "kill 812"),
    "brltty": ("port grabbers", brltty, "fail", "brltty takes the CH340", "apt remove brltty"),
    "ModemManager": ("port grabbers", lambda one: one.process(600, "ModemManager", "/usr/sbin/ModemManager"), "warn",
                     "ModemManager runs", "ID_MM_DEVICE_IGNORE"),
    "nobody listens": ("coordinator", flag(), "warn", "does not answer", "coordinator serve"),
    "address of another machine": ("coordinator", flag(coordinator="198.51.100.7:50461"), "fail", "loopback",
                                   "--coordinator"),
    "no time": ("clock", changed(synchronised=lambda: False), "warn", "not synchronised", "set-ntp true"),
    "no time and no clock chip": (
        "clock", both(changed(synchronised=lambda: False), lambda one: (one.root / "sys/class/rtc/rtc0").rename(
            one.root / "sys/class/gone")), "warn", "without a clock chip", "RTC module"),
    "clock that nobody can ask": ("clock", changed(synchronised=lambda: None), "warn", "cannot be asked", "set-ntp"),
    "state of another": ("state", changed(may_open=lambda path: False), "fail", "may not be written", "sudo chown"),
    "state in nowhere": ("state", no_room, "warn", "0 MB free", "free some space"),
    "read-only root": ("file system", one_mount("ext4", "ro,relatime"), "fail", "read-only", "remount,rw"),
    "overlay": ("file system", one_mount("overlay", "rw,lowerdir=/x"), "warn", "may not survive", "disable_overlayfs"),
    "state in memory": ("file system", one_mount("tmpfs", "rw", "tmpfs"), "warn", "tmpfs", "--state on a disk"),
    "worn eMMC": ("disk wear", lambda one: one.emmc("0x03 0x09", "0x01"), "warn", "80 to 90 % of its life", "copy it"),
    "dead eMMC": ("disk wear", lambda one: one.emmc("0x01 0x0b", "0x01"), "fail", "more than all", "copy it"),
    "eMMC without spare blocks": ("disk wear", lambda one: one.emmc("0x02 0x02", "0x03"), "fail", "90 % used", "copy"),
    "busy card": ("disk wear", lambda one: one.card(40_000_000), "warn", "19.1 GB written a day", "iotop"),
    "swap file on the card": ("swap", lambda one: one.write("proc/swaps", "F T S U P\n/var/swap file 102396 0 -2"),
                              "warn", "/var/swap", "dphys-swapfile"),
    "swap partition on the card": (
        "swap", lambda one: one.write("proc/swaps", "F T S U P\n/dev/mmcblk0p3 partition 102396 0 -2"), "warn",
        "/dev/mmcblk0p3", "zram"),
    "swap file below /dev/root": (
        "swap", both(one_mount("ext4", "rw", "/dev/root"),
                     lambda one: one.write("proc/swaps", "F T S U P\n/var/swap file 102396 0 -2")), "warn",
        "/var/swap", "zram"),
    "hot": ("temperature", lambda one: one.tree.zone(76.0), "warn", "76.0 degrees now; training pauses from 80", "fan"),
    "hot Edge TPU": ("temperature", lambda one: one.tree.apex(91.0), "warn", "Edge TPU 91.0 degrees", "fan"),
    "low voltage by the kernel": ("supply", lambda one: one.tree.rpi_volt(1), "warn", "too low now", "supply"),
    "low voltage by the firmware": ("supply", changed(firmware=lambda: (Bits(5), Bits(5))), "warn", "too low now",
                                    "supply"),
    "low voltage once": ("supply", changed(firmware=lambda: (Bits(0), Bits(1))), "warn", "since the board started",
                         "supply"),
    "throttled": ("throttling", lambda one: one.tree.firmware(0x60006), "warn", "held down now (capped, throttled)",
                  "fan"),
    "throttled once": ("throttling", changed(firmware=lambda: (Bits(0), Bits(8))), "warn",
                       "since the board started (soft limit of temperature)", "fan"),
    "throttled for want of voltage": ("throttling", changed(firmware=lambda: (Bits(5), Bits(5))), "warn", "held down",
                                      "supply"),
    "no memory cgroup": ("memory limit", no_cgroup, "warn", "MemoryMax= is ignored", "cgroup_enable=memory"),
    "two units": ("services", two_units, "warn", "2 units start a daemon: /etc/systemd/system/edge-runtime.service",
                  "keep one"),
    "two daemons": ("services", two_daemons, "warn", "2 daemons run (processes 901, 902)", "one daemon"),
}  # fmt: skip
# A name without trouble of its own: it only says what is there.
TELLS = {"board"}


@pytest.mark.parametrize("case", SICK)
def test_what_is_wrong_is_found_and_comes_with_a_way_to_mend_it(patient: Patient, case: str) -> None:
    name, break_it, verdict, what, fix = SICK[case]
    break_it(patient)
    bad = [finding for finding in findings(patient, name) if finding.verdict != "ok"]
    assert [finding.verdict for finding in bad] == [verdict], bad
    assert what in bad[0].what
    assert fix in bad[0].fix


@pytest.mark.parametrize("name", sorted({name for name, *_ in SICK.values()} | TELLS))
def test_a_healthy_machine_pleases_every_check(patient: Patient, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        patient.flags["coordinator"] = f"127.0.0.1:{server.getsockname()[1]}"
        if name == "sensor wiring":
            bridge()(patient)
        if name == "sensor line":
            patient.write(f"sys/bus/usb-serial/devices/{patient.port.name}/latency_timer", 1)
        found = findings(patient, name)
    assert [finding.verdict for finding in found] == ["ok"], found


def test_a_coordinator_and_its_standby_are_looked_at_each(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        patient.flags["coordinator"] = f"127.0.0.1:9, {there}"
        found = findings(patient, "coordinator")
    assert [(finding.verdict, finding.what.split(" (")[0]) for finding in found] == [
        ("warn", "127.0.0.1:9 does not answer"),
        ("ok", f"something listens on {there}"),
    ]


def test_every_check_has_trouble_here() -> None:
    named = {name for check in CHECKS for name in check.names}
    assert {name for name, *_ in SICK.values()} | TELLS == named


@pytest.mark.parametrize(
    ("figures", "name", "verdict"),
    [
        (FreshStart(error="it fell over"), "fresh start", "fail"),
        (FreshStart(ready_s=0.4), "ready", "ok"),
        (FreshStart(ready_s=2.5), "ready", "warn"),
        (FreshStart(rss_mb=74.0), "memory", "ok"),
        (FreshStart(rss_mb=130.0), "memory", "warn"),
        (FreshStart(data="9 examples read, 0 of them held out"), "data", "ok"),
        (FreshStart(data="9 examples read; left out: 1 .txt (a.txt)", data_left_out=True), "data", "warn"),
        (FreshStart(engine="ai-edge-litert 2.3.0", delegate="xnnpack"), "engine", "ok"),
        (FreshStart(engine="ai-edge-litert 2.3.0", delegate="builtin"), "engine", "warn"),
    ],
)
def test_the_figures_of_a_fresh_process_are_judged(figures: FreshStart, name: str, verdict: str) -> None:
    (found,) = _judged(figures)
    assert (found.check, found.verdict) == (name, verdict)
    assert found.check in FRESH_START
    assert found.fix


def test_a_port_that_the_daemon_holds_is_in_good_hands(patient: Patient) -> None:
    held("edge-runtime", "/opt/x/bin/edge-runtime", "run")(patient)
    (found,) = findings(patient, "port in use")
    assert (found.verdict, found.what) == ("ok", f"the daemon holds {patient.port} (process 812)")


def test_a_masked_brltty_takes_nothing(patient: Patient) -> None:
    brltty(patient)
    mask = patient.root / "etc/systemd/system/brltty-udev.service"
    mask.parent.mkdir(parents=True)
    mask.symlink_to("/dev/null")
    assert [finding.verdict for finding in findings(patient, "port grabbers")] == ["ok"]


def test_a_group_that_was_never_given_is_left_to_the_check_of_the_sensor(patient: Patient) -> None:
    stale_session(patient)
    patient.write("etc/group", f"dialout:x:{GID}:somebody")
    assert findings(patient, "port session") == []


def test_swap_on_a_disk_does_not_matter(patient: Patient) -> None:
    patient.mounts(("/dev/mmcblk0p2", "/", "ext4", "rw"), ("/dev/sda1", "/mnt/disk", "ext4", "rw"))
    patient.write("proc/swaps", "F T S U P\n/mnt/disk/swap file 102396 0 -2\n/dev/sda2 partition 1 0 -2")
    assert [finding.verdict for finding in findings(patient, "swap")] == ["ok"]


def test_a_unit_that_is_seen_through_two_folders_is_one(patient: Patient) -> None:
    patient.write("usr/lib/systemd/system/edge-runtime.service", "ExecStart=/opt/x/bin/edge-runtime run --config /a")
    patient.write("usr/lib/systemd/system/other.service", "ExecStart=/opt/x/bin/edge-runtime service status")
    (patient.root / "lib").symlink_to("usr/lib")
    (found,) = findings(patient, "services")
    assert (found.verdict, found.what) == ("ok", "1 unit, no daemon running")


def test_a_young_machine_says_nothing_of_writes_a_day(patient: Patient) -> None:
    patient.card(40_000_000)
    patient.write("proc/uptime", "300.0 1000.0")
    (found,) = findings(patient, "disk wear")
    assert (found.verdict, "less than an hour" in found.what) == ("ok", True)


def test_an_empty_machine_breaks_no_check(tmp_path: Path) -> None:
    """No sys, no proc, no etc: whatever a container hides."""
    empty = Patient(tmp_path / "other", Path("/dev/ttyNOWHERE"))
    empty.flags["machine_root"] = str(tmp_path / "empty")
    empty.changes["root"] = tmp_path / "empty"
    empty.changes["firmware"] = lambda: None
    for check in CHECKS:
        for finding in check.look(empty.settings, empty.machine):
            assert finding.what
            assert finding.verdict in ("ok", "warn", "fail")


def test_no_check_changes_anything(patient: Patient) -> None:
    for _, break_it, *_ in list(SICK.values())[-12:]:
        break_it(patient)
    before = list(patient.every_file())
    for check in CHECKS:
        check.look(patient.settings, patient.machine)
    assert list(patient.every_file()) == before


def test_one_failed_check_decides_the_exit_code() -> None:
    def code(*verdicts: str) -> int:
        return Examination(tuple(Finding("x", verdict, "y") for verdict in verdicts), FreshStart()).exit_code

    assert [code("ok", "warn"), code("ok", "fail", "warn")] == [0, 3]


def test_the_page_has_a_row_for_each_check_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \|", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)
    assert rows == [name for check in CHECKS for name in check.names] + list(FRESH_START)
