"""The doctor's findings about an Edge TPU: machines in a folder, and libraries that are really loaded in a child."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edge_tpu_standin import Layer, bare_bundle, build_library

from edge_runtime.config import Settings, resolve
from edge_runtime.doctor.edge_tpu import check_edge_tpu
from edge_runtime.doctor.finding import Finding
from edge_runtime.round.edge_tpus import Seen, edge_tpus

LAYER = Layer.drawn((4, 4, 1), 6)
Make = Callable[..., Settings]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return tmp_path / "machine"


@pytest.fixture
def make(tmp_path: Path, machine: Path) -> Make:
    def settings(*defines: str, **flags: str) -> Settings:
        library = str(build_library(tmp_path, *defines))
        given = {"device_id": "a", "machine_root": str(machine), "edgetpu_library": library, **flags}
        return resolve(given, {}, None).settings

    return settings


def plug_in(machine: Path, ids: str, name: str = "1-1.2", number: int = 7) -> Path:
    """An entry of the kernel for a device on USB, and its node."""
    device = machine / "sys/bus/usb/devices" / name
    device.mkdir(parents=True)
    vendor, product = ids.split(":")
    for file, value in (("idVendor", vendor), ("idProduct", product), ("busnum", "1"), ("devnum", str(number))):
        (device / file).write_text(f"{value}\n")
    node = machine / f"dev/bus/usb/001/{number:03d}"
    node.parent.mkdir(parents=True, exist_ok=True)
    node.touch()
    return node


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_the_kernel_shows_them_before_and_after_they_get_their_firmware_and_on_pci(machine: Path) -> None:
    assert edge_tpus(machine) == []
    plug_in(machine, "046d:c31c", "1-1", 2)
    (machine / "sys/bus/usb/devices/1-1:1.0").mkdir()
    assert edge_tpus(machine) == []
    plug_in(machine, "1a6e:089a", "1-1.2", 7)
    plug_in(machine, "18d1:9302", "2-1", 12)
    (machine / "dev/apex_0").touch()
    usb, pci = Path("/dev/bus/usb/001"), Path("/dev/apex_0")
    assert edge_tpus(machine) == [Seen("usb", usb / "007"), Seen("usb", usb / "012"), Seen("pci", pci)]
    assert [edge_tpu.group for edge_tpu in edge_tpus(machine)] == ["plugdev", "plugdev", "apex"]


def test_a_machine_with_nothing_of_the_kind_is_in_order_unless_one_is_required(make: Make) -> None:
    finding = only(check_edge_tpu(make(edgetpu_library="libnowhere.so.9")))
    assert (finding.check, finding.verdict) == ("edgetpu", "ok")
    required = only(check_edge_tpu(make(edgetpu_library="libnowhere.so.9", edgetpu="require")))
    assert required.verdict == "fail"
    assert "libedgetpu1-std" in required.fix
    assert only(check_edge_tpu(make("CRASHES", edgetpu="off"))).verdict == "ok"


def test_a_chip_without_its_library_is_named_with_what_to_install(make: Make, machine: Path) -> None:
    plug_in(machine, "1a6e:089a")
    finding = only(check_edge_tpu(make(edgetpu_library="libnowhere.so.9")))
    assert finding.verdict == "warn"
    assert "libnowhere.so.9 is not installed" in finding.what
    assert "usb /dev/bus/usb/001/007" in finding.what
    assert "libedgetpu1-std" in finding.fix


@pytest.mark.parametrize(("bus", "group"), [("usb", "plugdev"), ("pci", "apex")])
def test_a_node_that_this_user_may_not_open_is_named_with_its_group(
    make: Make, machine: Path, bus: str, group: str
) -> None:
    if bus == "usb":
        node = plug_in(machine, "18d1:9302")
    else:
        node = machine / "dev/apex_0"
        node.parent.mkdir(parents=True)
        node.touch()
    asked: list[Path] = []

    def closed(path: Path) -> bool:
        asked.append(path)
        return False

    first, second = check_edge_tpu(make("REFUSES"), may_open=closed)
    assert asked == [node]
    assert first.verdict == "warn"
    assert "may not be opened" in first.what
    assert f"usermod -aG {group}" in first.fix
    assert "does not work" in second.what


@pytest.mark.parametrize(
    ("define", "says", "plugged", "fix"),
    [
        ("CRASHES", "SIGSEGV", True, "built for this TFLite runtime"),
        ("REFUSES", "finds no Edge TPU", False, "lsusb shows 1a6e:089a or 18d1:9302"),
        ("FAIL_AT=3", "device is gone", True, "libedgetpu1-std"),
        ("WRONG", "answers otherwise", True, "libedgetpu1-std"),
    ],
)
def test_what_does_not_work_is_told_with_the_reason_and_fails_when_required(
    make: Make, machine: Path, tmp_path: Path, define: str, says: str, plugged: bool, fix: str
) -> None:
    bundle = str(bare_bundle(tmp_path / "bundle", LAYER, twin=LAYER.twin()))
    if plugged:
        plug_in(machine, "18d1:9302")
    for mode, verdict in (("auto", "warn"), ("require", "fail")):
        finding = only(check_edge_tpu(make(define, edgetpu=mode, bundle=bundle)))
        assert finding.verdict == verdict
        assert says in finding.what
        assert fix in finding.fix


def test_what_works_is_told_with_its_version_and_whether_a_twin_ran(make: Make, machine: Path, tmp_path: Path) -> None:
    plug_in(machine, "18d1:9302")
    loaded = only(check_edge_tpu(make()))
    assert loaded.verdict == "ok"
    assert "loads with" in loaded.what
    assert "runtime 14" in loaded.what
    bundle = bare_bundle(tmp_path / "bundle", LAYER, twin=LAYER.twin())
    ran = only(check_edge_tpu(make(bundle=str(bundle))))
    assert "the bundle's twin runs" in ran.what
    (bundle / "head.tflite").write_bytes(b"changed")
    assert "loads with" in only(check_edge_tpu(make(bundle=str(bundle)))).what, "other checks tell of the bundle"


def test_a_runtime_older_than_the_twins_compiler_is_a_warning(make: Make, tmp_path: Path) -> None:
    bundle = str(bare_bundle(tmp_path / "bundle", LAYER, twin=LAYER.twin()))
    ran, versions = check_edge_tpu(make("RUNTIME=13", bundle=bundle))
    assert ran.verdict == "ok"
    assert versions.verdict == "warn"
    assert "compiler 16.0.384591198, made for runtime 14; here is 13" in versions.what
    assert len(check_edge_tpu(make("RUNTIME=15", bundle=bundle))) == 1
