"""`inspect` shows a bundle from its files, and finds what was changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.workshop
Command = Callable[..., Any]


def test_the_report_is_read_from_the_files(plain_bundle: Path, command: Command) -> None:
    report = command("inspect", plain_bundle, "--json").report
    assert report["schema"] == "edgejoule.inspect/1"
    assert report["backbone"]["float_operators"] == {}
    assert report["backbone"]["operators"]["CONV_2D"] == 2
    assert report["backbone"]["size_bytes"] == (plain_bundle / "backbone.tflite").stat().st_size
    assert report["head"]["signatures"]["train"]["inputs"]["rate"] == {"shape": [1], "dtype": "float32"}
    assert report["engine"]["name"]


def test_the_text_names_sizes_operators_signatures_and_agreement(plain_bundle: Path, command: Command) -> None:
    done = command("inspect", plain_bundle)
    assert done.code == 0
    for part in (
        "no float operator inside",
        "CONV_2D",
        "train(",
        "cosine",
        "accuracy",
        "scale",
        "sha256",
        "zero point",
    ):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 130
    assert "\x1b" not in done.stdout


def test_a_changed_file_is_found_with_its_own_code(plain_bundle: Path, command: Command, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(plain_bundle, copy)
    content = bytearray((copy / "head.tflite").read_bytes())
    content[5000] ^= 4
    (copy / "head.tflite").write_bytes(content)
    done = command("inspect", copy)
    assert done.code == 7
    assert "head.tflite: has SHA-256" in done.complaint
    (copy / "manifest.json").write_text("{}")
    assert command("inspect", copy).code == 6
    assert command("inspect", tmp_path / "nothing").code == 6


def test_a_manifest_that_lies_about_a_sound_model_is_found(
    plain_bundle: Path, command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(plain_bundle, copy)
    fields = json.loads((copy / "manifest.json").read_text())
    fields["backbone"]["output_scale"] *= 2
    (copy / "manifest.json").write_text(json.dumps(fields))
    done = command("inspect", copy)
    assert done.code == 6
    assert "the manifest says" in done.complaint


def test_a_single_model_can_be_inspected(plain_bundle: Path, command: Command) -> None:
    report = command("inspect", plain_bundle / "backbone.tflite", "--json").report
    assert report["backbone"]["inputs"][0]["dtype"] == "int8"


def test_inspecting_imports_no_tensorflow(plain_bundle: Path) -> None:
    program = (
        "import sys; from firmware_tools.inspect.bundle import report; import firmware_tools.cli;"
        f"report({{'bundle': {str(plain_bundle)!r}}}, print);"
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'keras') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("arguments", [("--help",), ("convert", "--help"), ("inspect", "--help")])
def test_every_help_has_an_example(command: Command, arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.code == 0
    assert "examples:\n  firmware-tools" in done.stdout
