"""The coordinator's unit, judged by systemd's own tools; and what installing it writes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.cli import main
from coordinator.service.unit import MARK, NAME, USER, unit_text
from protos.errors import UsageError

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")
MOST_EXPOSURE = 2.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "venv/bin/coordinator"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@systemd
@pytest.mark.parametrize("listen", ["127.0.0.1:50461", "0.0.0.0:50461", "[::]:50461"])
def test_systemd_finds_nothing_wrong_and_little_exposed(tmp_path: Path, program: Path, listen: str) -> None:
    unit = tmp_path / NAME
    unit.write_text(unit_text(program, listen=listen))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # A user that is not made yet on this machine is no fault of the unit.
    said = [line for line in checked.stderr.splitlines() if line and USER not in line.partition(": ")[2]]
    assert not said, checked.stderr
    words = ["--offline=true", "--json=short", f"--threshold={int(MOST_EXPOSURE * 10)}", str(unit)]
    judged = subprocess.run(
        ["systemd-analyze", "security", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert json.loads(judged.stdout)


def test_a_coordinator_on_loopback_reaches_nothing_else_and_one_on_the_network_does(program: Path) -> None:
    assert "IPAddressDeny=any" in unit_text(program, listen="127.0.0.1:50461")
    assert "IPAddressDeny" not in unit_text(program, listen="0.0.0.0:50461")
    assert "IPAddressDeny" not in unit_text(program, listen="127.0.0.1:1", database_file=Path("/etc/e/db"))
    for wrong in ("a b:1", 'x":1', "$HOME:1", "a\n:1"):
        with pytest.raises(UsageError, match="cannot stand in a unit file"):
            unit_text(program, listen=wrong)


def test_it_is_written_into_a_machine_and_removed_and_nobody_elses_unit_is_touched(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    words = ["service", "install", "--root", str(root), "--program", str(program), "--listen", "0.0.0.0:50461"]
    assert main([*words, "--dry-run"]) == 0
    assert not root.exists()
    assert capsys.readouterr().out.startswith(MARK)
    assert main(words) == 0
    unit = root / "etc/systemd/system" / NAME
    assert re.search(
        rf"^ExecStart={program} serve --state %S/{USER} --listen 0\.0\.0\.0:50461$", unit.read_text(), re.M
    )
    assert (root / f"etc/sysusers.d/{USER}.conf").read_text().startswith(f"u {USER} ")
    assert main(words) == 0, "again is the same"
    assert main(["service", "uninstall", "--root", str(root)]) == 0
    assert not unit.exists()
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert main(words) == 16
    assert "was not made by" in capsys.readouterr().err
    assert "/bin/true" in unit.read_text()


def test_a_program_that_cannot_serve_is_not_made_a_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "sqlalchemy" else real(name, *more)
    )
    assert main(["service", "install", "--root", str(tmp_path)]) == 2
    assert "pip install 'edgejoule[coordinator]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_secret_that_others_may_read_is_no_database_file(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "database"
    secret.write_text("EDGEJOULE_DATABASE=postgresql://u:p@h/d\n")
    secret.chmod(0o644)
    words = [
        "service",
        "install",
        "--root",
        str(tmp_path / "r"),
        "--program",
        str(program),
        "--database-file",
        str(secret),
    ]
    assert main(words) == 2
    assert "chmod 600" in capsys.readouterr().err
    secret.chmod(0o600)
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"EnvironmentFile={secret}" in shown
    assert "u:p@h" not in shown


def test_the_container_file_runs_as_nobody_special_and_starts_what_there_is() -> None:
    text = (ROOT / "packaging/Containerfile").read_text()
    assert re.search(r"^USER edgejoule-coordinator$", text, re.M)
    (start,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
    words = json.loads(start)
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", words[0], "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert all(word in done.stdout for word in words if word.startswith("--"))
