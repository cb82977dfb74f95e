"""The unit's text, judged by systemd's own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.config import Resolved, resolve
from edge_runtime.service.access import HIDDEN, access_of
from edge_runtime.service.unit import NAME, Credential, unit_text
from protos.errors import RefusedError, UsageError

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")
SENSORS = ("none", "estimate:pi4", "serial:/dev/ttyUSB0", "serial:/dev/serial/by-id/x", "i2c:1:0x40?shunt=0.1", "pmic",
           "hwmon:ina219", "iio:ina226")  # fmt: skip
MOST_EXPOSURE = 2.0


def resolved(**flags: str) -> Resolved:
    return resolve({"device_id": "pi-1", "data": "/srv/digits.npz", **flags}, {}, None)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return executable(tmp_path / "venv/bin/edge-runtime")


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def text_of(
    given: Resolved, program: Path, config: Path = Path("/etc/edgejoule/device.toml"), *credentials: Credential
) -> str:
    access = access_of(given.settings, config, program)
    return unit_text(given, access, program=program, config=config, credentials=credentials)


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def verify(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    unit = folder / NAME
    unit.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@systemd
@pytest.mark.parametrize("sensor", SENSORS)
def test_systemd_finds_nothing_wrong_and_little_exposed(tmp_path: Path, program: Path, sensor: str) -> None:
    given = resolved(sensor=sensor, memory_max_mb="256", cpu_quota_percent="150")
    text = text_of(given, program, Path("/home/pi/device.toml"), Credential("device.key", Path("/etc/edgejoule/key")))
    done = verify(tmp_path, text)
    assert (done.returncode, done.stderr) == (0, "")
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE * 10:.0f}", tmp_path / NAME],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stdout
    found = re.search(r"exposure level for .*: (\d+\.\d+)", scored.stdout)
    assert found
    print(f"{sensor}: exposure {found[1]} of at most {MOST_EXPOSURE}")
    assert float(found[1]) <= MOST_EXPOSURE


@systemd
def test_verify_does_find_what_is_wrong(tmp_path: Path, program: Path) -> None:
    text = text_of(resolved(), program)
    assert verify(tmp_path, text.replace("ProtectClock=yes", "ProtectClok=yes")).returncode != 0
    assert verify(tmp_path, text.replace(str(program), f"{program}-gone")).returncode != 0


@systemd
@pytest.mark.parametrize("name", ["with space", "per%nt", "do$HOME", "semi ; colon", "#hash", "grün"])
def test_a_strange_path_reaches_the_program_as_it_is(tmp_path: Path, name: str) -> None:
    strange, config = executable(tmp_path / name / "bin/edge-runtime"), Path(f"/home/{name}/device.toml")
    done = verify(tmp_path, text_of(resolved(), strange, config, Credential("key", config)))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/a:b", '/srv/a"b', "/srv/a'b", "/srv/a\\b"])
def test_a_path_that_no_unit_can_hold_is_refused(program: Path, path: str) -> None:
    with pytest.raises(UsageError, match="cannot stand in a unit file"):
        text_of(resolved(), program, Path(path))


@pytest.mark.parametrize(
    ("sensor", "allowed", "groups"),
    [
        ("serial:/dev/ttyUSB0?shunt=0.02", ["/dev/ttyUSB0 rw"], ["dialout"]),
        ("serial:/dev/serial/by-id/usb-1", ["char-ttyUSB rw", "char-ttyACM rw"], ["dialout"]),
        ("i2c:1:0x40?shunt=0.1", ["/dev/i2c-1 rw"], ["i2c"]),
        ("pmic", ["/dev/vcio rw"], ["video"]),
        ("estimate:pi4", [], []),
        ("none", [], []),
    ],
)
def test_only_the_sensors_device_is_allowed(program: Path, sensor: str, allowed: list[str], groups: list[str]) -> None:
    text = text_of(resolved(sensor=sensor), program)
    assert values(text, "DevicePolicy") == ["closed"]
    assert values(text, "DeviceAllow") == allowed
    assert values(text, "SupplementaryGroups") == groups
    assert values(text, "PrivateDevices") == ([] if allowed else ["yes"])


@pytest.mark.parametrize(
    ("sensor", "allowed", "groups"),
    [
        ("estimate:pi4", ["/dev/vcio rw"], ["video"]),
        ("pmic", ["/dev/vcio rw"], ["video"]),
        ("serial:/dev/ttyUSB0", ["/dev/ttyUSB0 rw", "/dev/vcio rw"], ["dialout video"]),
    ],
)
def test_the_firmwares_door_is_opened_only_for_vcgencmd(
    program: Path, sensor: str, allowed: list[str], groups: list[str]
) -> None:
    text = text_of(resolved(sensor=sensor, throttled_from="vcgencmd"), program)
    assert values(text, "DeviceAllow") == allowed
    assert values(text, "SupplementaryGroups") == groups
    assert values(text, "PrivateDevices") == []


@systemd
@pytest.mark.parametrize("sensor", ["estimate:pi4", "serial:/dev/ttyUSB0"])
def test_that_door_leaves_little_exposed(tmp_path: Path, program: Path, sensor: str) -> None:
    text = text_of(resolved(sensor=sensor, throttled_from="vcgencmd", memory_max_mb="256"), program)
    done = verify(tmp_path, text)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=100", str(tmp_path / NAME)]
    scored = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"exposure level for .*: (\d+\.\d+)", scored.stdout)
    assert found
    print(f"{sensor} and vcgencmd: exposure {found[1]} of at most {MOST_EXPOSURE}")
    assert float(found[1]) <= MOST_EXPOSURE


def test_a_sensor_for_root_alone_is_refused_with_what_to_do(program: Path) -> None:
    with pytest.raises(RefusedError, match=r"only root may read this counter.*use another sensor"):
        text_of(resolved(sensor="rapl"), program)


def test_limits_come_from_the_settings_and_are_absent_without(program: Path) -> None:
    text = text_of(resolved(memory_max_mb="256", cpu_quota_percent="150", watchdog_s="120"), program)
    assert values(text, "MemoryMax") == ["256M"]
    assert values(text, "CPUQuota") == ["150%"]
    assert values(text, "WatchdogSec") == ["120"]
    bare = text_of(resolved(), program)
    assert values(bare, "MemoryMax") == values(bare, "CPUQuota") == []
    assert values(bare, "WatchdogSec") == ["300"]


def test_the_traps_that_were_found_stay_closed(program: Path) -> None:
    text = text_of(resolved(), program)
    assert values(text, "ProcSubset") == []  # hides /proc/cpuinfo: the engine loses XNNPACK
    assert values(text, "SystemCallErrorNumber") == ["EPERM"]  # numpy is killed otherwise


def test_files_under_a_hidden_folder_are_shown_and_others_are_not(program: Path) -> None:
    given = resolved(data="/home/pi/digits.npz", bundle="/srv/bundle")
    for hidden in HIDDEN:
        file = hidden / "device.toml"
        text = text_of(given, Path("/home/pi/edgejoule/bin/edge-runtime"), file)
        bound = ["-/home/pi/digits.npz", "-/home/pi/edgejoule", f"-{file}"]
        assert sorted(values(text, "BindReadOnlyPaths")) == sorted(bound)
    assert values(text_of(resolved(), Path("/opt/edgejoule/bin/edge-runtime")), "BindReadOnlyPaths") == []


def test_a_service_waits_for_its_coordinator_unless_told_how_long(program: Path) -> None:
    assert "Environment=EDGEJOULE_WAIT_FOR_COORDINATOR_S=10000000" in text_of(resolved(), program)
    assert "WAIT_FOR" not in text_of(resolved(wait_for_coordinator_s="60"), program)


def test_the_variables_of_the_unit_are_settings_and_are_taken(program: Path) -> None:
    variables = dict(text.split("=", 1) for text in values(text_of(resolved(), program), "Environment"))
    again = resolve({"device_id": "pi-1"}, variables, None)
    assert again.settings.wait_for_coordinator_s == 1e7
    assert json.dumps(sorted(again.origins[key] for key in ("state", "wait_for_coordinator_s"))) == json.dumps(
        ["EDGEJOULE_STATE", "EDGEJOULE_WAIT_FOR_COORDINATOR_S"]
    )


def test_nothing_but_a_wrong_configuration_ends_the_service_for_good(program: Path) -> None:
    text = text_of(resolved(), program)
    assert values(text, "StartLimitIntervalSec") == ["0"]
    assert values(text, "StartLimitBurst") == []
    assert values(text, "RestartPreventExitStatus") == ["2 4"]


def test_the_disks_of_data_and_bundle_are_mounted_first(program: Path) -> None:
    text = text_of(resolved(data="/mnt/card/photos", bundle="/srv/bundle"), program)
    assert values(text, "RequiresMountsFor") == ["/mnt/card/photos", "/srv/bundle"]


def test_whatever_else_the_board_does_comes_first(program: Path) -> None:
    text = text_of(resolved(), program)
    assert (values(text, "CPUWeight"), values(text, "Nice")) == (["20"], ["10"])
