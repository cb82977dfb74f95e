"""A site that shows a certificate above: it enrols as a device, its name is its certificate's, and it renews itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.server.upstream.identity import read_site_identity, renewed
from protos.errors import ConfigError, RefusedError

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[3]


def until(found: Callable[[], Any], what: str) -> Any:
    end_s = time.monotonic() + 90
    while time.monotonic() < end_s:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come")


def devices(lab: Any) -> dict[str, Any]:
    said = lab.operate("devices", "--json")
    assert said.returncode == 0, said.stderr
    return {device["device_id"]: device for device in json.loads(said.stdout)["devices"]}


def test_a_site_joins_with_its_certificate_and_takes_up_a_renewed_one(
    lab: Any, board: Callable[[str], Path], tools: Any, fleet: Callable[..., Any], tmp_path: Path
) -> None:
    folder = board("hall-3")
    ready, log = tmp_path / "site.ready", tmp_path / "site.log"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(tmp_path / "site"), "--listen",
               "127.0.0.1:0", "--ready-file", str(ready), "--upstream", lab.address, "--site", "another-name",
               "--upstream-identity", str(folder)]  # fmt: skip
    with (
        log.open("wb") as told,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=told, stderr=told
        ) as site,
    ):
        try:
            until(lambda: ready.exists() or site.poll() is not None, "the site")
            board_of_site = fleet(ready.read_text().strip(), "pi-a")
            board_of_site.join()
            there = until(lambda: devices(lab).get("hall-3"), "the site above")
            assert there["state"] == "present"
            assert "another-name" not in devices(lab)
            assert "as its certificate says" in log.read_text()
            # Renewed by the device's own program, as the site starts it when it is time; the site goes on with it.
            before = read_site_identity(folder)
            assert renewed(folder, lab.address) == ""
            after = read_site_identity(folder)
            assert after.key_pem != before.key_pem
            assert after.name == before.name == "hall-3"
            # A site without boards asks for nothing: one of its own goes on asking.
            until(
                lambda: board_of_site.ask() is not None and log.read_text().count("joined") == 2,
                "the site with its new certificate",
            )
            assert devices(lab)["hall-3"]["state"] == "present"
            # Who is revoked is out, also as a site.
            assert lab.run("revoke", "--state", str(lab.state), "hall-3").returncode == 0
            until(lambda: board_of_site.ask() is not None and "was revoked" in log.read_text(), "the refusal")
        finally:
            site.terminate()
            site.wait(30)


def test_a_site_without_an_identity_is_told_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "--state", str(tmp_path / "s"), "--listen", "127.0.0.1:0", "--upstream", "10.0.0.1:50461"]
    assert main(words) == RefusedError.exit_code
    assert "--upstream-identity" in capsys.readouterr().err
    assert main([*words, "--upstream-identity", str(tmp_path / "none")]) == ConfigError.exit_code
    assert "edge-runtime enroll TOKEN" in capsys.readouterr().err
    (tmp_path / "bad" / "identity").mkdir(parents=True)
    (tmp_path / "bad" / "identity" / "identity.json").write_text("{}")
    assert main([*words, "--upstream-identity", str(tmp_path / "bad")]) == ConfigError.exit_code
    assert "holds no identity" in capsys.readouterr().err
    assert main(["serve", "--state", str(tmp_path / "s"), "--upstream-identity", str(tmp_path)]) == 2
    assert "--upstream" in capsys.readouterr().err


def test_what_keeps_a_site_from_a_new_certificate_is_said(
    lab: Any, board: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = board("hall-4")
    kept = read_site_identity(folder)
    assert "does not answer" in renewed(folder, "127.0.0.1:9")
    assert read_site_identity(folder) == kept
    shutil.rmtree(folder / "identity")
    assert "there is no identity" in renewed(folder, lab.address)
