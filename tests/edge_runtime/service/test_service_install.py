"""``edge-runtime service`` on a machine's root in a folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import edge_runtime.cli
from edge_runtime.service.command import journal_command
from edge_runtime.service.install import Place
from edge_runtime.service.status import parse

PROGRAM = ("--program", "/opt/edgejoule/bin/edge-runtime")


@pytest.fixture
def service(root: Path, capsys: pytest.CaptureFixture[str]):
    """Runs ``edge-runtime service VERB --root ROOT ...``: exit code, stdout, stderr."""

    def run(verb: str, *more: str) -> tuple[int, str, str]:
        code = edge_runtime.cli.main(["service", verb, "--root", str(root), *more])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_install_writes_the_unit_and_lets_it_start_with_the_machine(service, root: Path) -> None:
    code, out, err = service("install", *PROGRAM)
    assert (code, out) == (0, "")
    assert "is written, and enabled" in err
    unit = root / "etc/systemd/system/edge-runtime.service"
    text = unit.read_text()
    assert "ExecStart=/opt/edgejoule/bin/edge-runtime run --config /etc/edgejoule/device.toml\n" in text
    assert "DeviceAllow=/dev/ttyUSB0 rw\nSupplementaryGroups=dialout\n" in text
    assert "CPUQuota=150%\nMemoryMax=256M\n" in text
    assert str(root) not in text
    assert unit.stat().st_mode & 0o777 == 0o644
    link = root / "etc/systemd/system/multi-user.target.wants/edge-runtime.service"
    assert link.resolve() == unit.resolve()


def test_a_group_that_the_machine_lacks_is_not_named(service, root: Path) -> None:
    (root / "etc/group").write_text("root:x:0:\n")
    service("install", *PROGRAM)
    assert "SupplementaryGroups" not in (root / "etc/systemd/system/edge-runtime.service").read_text()


def test_install_twice_is_install_once_with_todays_settings(service, root: Path) -> None:
    service("install", *PROGRAM)
    before = files(root)
    config = root / "etc/edgejoule/device.toml"
    config.write_text(config.read_text().replace("256", "300"))
    assert service("install", *PROGRAM)[0] == 0
    assert files(root) == before
    assert "MemoryMax=300M" in (root / "etc/systemd/system/edge-runtime.service").read_text()


def test_again_keeps_file_keys_and_whether_it_starts_with_the_machine(service, root: Path) -> None:
    code, _, err = service("install", *PROGRAM, "--again")
    assert code == 16
    assert "leave --again out" in err
    (root / "etc/other.toml").write_text((root / "etc/edgejoule/device.toml").read_text())
    service("install", *PROGRAM, "--config", "/etc/other.toml", "--credential", "device.key:/etc/key")
    link = root / "etc/systemd/system/multi-user.target.wants/edge-runtime.service"
    link.unlink()
    (root / "etc/other.toml").write_text((root / "etc/other.toml").read_text().replace("256", "300"))
    assert service("install", "--program", "/opt/new/bin/edge-runtime", "--again")[0] == 0
    text = (root / "etc/systemd/system/edge-runtime.service").read_text()
    for line in (
        "ExecStart=/opt/new/bin/edge-runtime run --config /etc/other.toml",
        "LoadCredential=device.key:/etc/key",
        "MemoryMax=300M",
    ):
        assert f"\n{line}\n" in text
    assert not link.is_symlink()
    assert service("install", *PROGRAM, "--again", "--config", "/etc/other.toml")[0] == 2


def test_a_dry_run_prints_the_unit_and_changes_nothing(service, root: Path) -> None:
    before = files(root)
    code, out, err = service("install", *PROGRAM, "--dry-run")
    assert (code, files(root)) == (0, before)
    assert out.startswith("# Made by `edge-runtime service install`.")
    assert err == f"would write {root}/etc/systemd/system/edge-runtime.service\n"
    service("install", *PROGRAM)
    assert (root / "etc/systemd/system/edge-runtime.service").read_text() == out
    before = files(root)
    assert service("uninstall", "--purge", "--dry-run")[0] == 0
    assert files(root) == before


def test_uninstall_leaves_nothing_but_the_state_and_purge_not_even_that(service, root: Path) -> None:
    before = files(root)
    service("install", *PROGRAM)
    # What systemd makes of StateDirectory= with DynamicUser=.
    (root / "var/lib/private/edgejoule").mkdir(parents=True)
    (root / "var/lib/private/edgejoule/lock").touch()
    (root / "var/lib/edgejoule").symlink_to("private/edgejoule")
    assert service("uninstall")[0] == 0
    assert files(root) == before | {"var/lib/private/edgejoule/lock"}
    code, _, err = service("uninstall", "--purge")
    assert (code, files(root)) == (0, before)
    assert "is not there" in err


def test_a_unit_that_somebody_else_wrote_is_not_touched(service, root: Path) -> None:
    unit = root / "etc/systemd/system/edge-runtime.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    for verb in (("install", *PROGRAM), ("uninstall",)):
        code, _, err = service(*verb)
        assert code == 16
        assert "was not made by this command" in err
        assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_keys_are_handed_over_as_credentials(service, root: Path) -> None:
    _, out, _ = service("install", *PROGRAM, "--credential", "device.key:/etc/edgejoule/device.key", "--dry-run")
    assert "\nLoadCredential=device.key:/etc/edgejoule/device.key\n" in out


@pytest.mark.parametrize(
    ("arguments", "line", "code", "message"),
    [
        (("--credential", "key"), "", 2, "write it like device.key:/etc/edgejoule/device.key"),
        (("--credential", "../key:/etc/key"), "", 2, "write it like"),
        (("--program", "bin/edge-runtime"), "", 2, "is not absolute"),
        (("--config", "device.toml"), "", 2, "is not absolute"),
        (("--config", "/etc/none.toml"), "", 4, "cannot be read"),
        ((), "memory_max_mb = 1", 4, "not a whole number from 64 to 1048576"),
        ((), "cpu_quota = 50", 4, "cpu_quota_percent"),
        ((), 'pid_file = "/run/x.pid"', 4, "leave it out"),
        ((), 'sensor = "rapl"', 16, "use another sensor"),
        ((), "data =", 4, "is not TOML"),
    ],
)
def test_mistakes_are_one_line_with_a_way_out_and_write_nothing(
    service, root: Path, arguments: tuple[str, ...], line: str, code: int, message: str
) -> None:
    config = root / "etc/edgejoule/device.toml"
    key = line.partition(" ")[0]
    kept = [text for text in config.read_text().splitlines() if not key or not text.startswith((f"{key} ", f"{key}_"))]
    config.write_text("\n".join([*kept, line]) + "\n")
    before = files(root)
    got, out, err = service("install", *(() if "--program" in arguments else PROGRAM), *arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert files(root) == before


def test_settings_without_data_are_refused_before_anything_starts(service, root: Path) -> None:
    (root / "etc/edgejoule/device.toml").write_text('device_id = "pi-1"\n')
    code, _, err = service("install", *PROGRAM)
    assert code == 4
    assert "no data is named" in err


def test_variables_of_the_installing_shell_do_not_reach_the_service(service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEJOULE_SENSOR", "none")
    monkeypatch.setenv("EDGEJOULE_MEMORY_MAX_MB", "999")
    _, out, _ = service("install", *PROGRAM, "--dry-run")
    assert "DeviceAllow=/dev/ttyUSB0 rw" in out
    assert "MemoryMax=256M" in out


def test_paths_in_the_file_are_relative_to_where_it_will_be(service, root: Path) -> None:
    home = root / "home/pi"
    home.mkdir(parents=True)
    (home / "device.toml").write_text('device_id = "pi-1"\ndata = "digits.npz"\n')
    _, out, _ = service("install", *PROGRAM, "--config", "/home/pi/device.toml", "--dry-run")
    assert "BindReadOnlyPaths=-/home/pi/device.toml\nBindReadOnlyPaths=-/home/pi/digits.npz\n" in out


def test_a_live_machine_is_for_root_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "device.toml").write_text('data = "digits.npz"\n')
    code = edge_runtime.cli.main(["service", "install", "--config", str(tmp_path / "device.toml"), *PROGRAM])
    assert code == 16
    assert "sudo" in capsys.readouterr().err


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine")
@pytest.mark.skipif(os.geteuid() != 0, reason="asks for root first")
def test_a_machine_without_systemd_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "device.toml").write_text('data = "digits.npz"\n')
    code = edge_runtime.cli.main(["service", "install", "--config", str(tmp_path / "device.toml"), *PROGRAM])
    assert code == 16
    assert "systemd does not run this machine" in capsys.readouterr().err


def test_status_of_a_root_says_what_is_there(service) -> None:
    code, out, _ = service("status", "--json")
    facts = {"unit": "edge-runtime.service", "installed": False, "enabled": False}
    assert (code, json.loads(out)) == (3, {"schema": "edgejoule.service/1", **facts})
    service("install", *PROGRAM)
    code, out, _ = service("status")
    assert (code, out) == (0, "edge-runtime.service is installed, and starts with the machine\n")


def test_what_systemctl_shows_is_read_and_the_unknown_stays_unknown() -> None:
    shown = (
        "ActiveState=active\nSubState=running\nStatusText=round 3 of run a=b: 12 steps\nMainPID=321\nNRestarts=2\n"
        "Result=success\nExecMainStatus=0\nMemoryCurrent=[not set]\nCPUUsageNSec=18446744073709551615\n"
    )
    assert parse(shown) == {
        "active": "active", "sub": "running", "says": "round 3 of run a=b: 12 steps", "pid": 321, "restarts": 2,
        "result": "success", "exit_code": 0, "memory_bytes": None, "cpu_ns": None,
    }  # fmt: skip
    assert parse("MemoryCurrent=1048576\n")["memory_bytes"] == 1 << 20


def test_logs_are_asked_of_the_journal_of_that_machine(root: Path) -> None:
    words = journal_command(Place(root), follow=True, lines=5, as_json=True)
    assert words == [
        "journalctl", "--unit=edge-runtime.service", "--lines=5", "--no-pager", f"--root={root}", "--follow",
        "--output=json",
    ]  # fmt: skip
    assert "--follow" not in journal_command(Place(Path("/")), follow=False, lines=5, as_json=False)


def test_help_has_an_example_for_each_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        edge_runtime.cli.main(["service", "--help"])
    assert "sudo edge-runtime service install" in capsys.readouterr().out


def test_the_unit_of_a_root_is_one_that_systemctl_calls_enabled(service, root: Path) -> None:
    service("install", *PROGRAM)
    try:
        asked = subprocess.run(
            ["systemctl", f"--root={root}", "is-enabled", "edge-runtime.service"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs systemctl (package systemd)")
    assert (asked.returncode, asked.stdout) == (0, "enabled\n")
