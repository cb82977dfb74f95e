"""`firmware-tools compile --into-bundle`: the twin becomes part of the bundle, or the bundle stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_tpu_standin import Layer, bare_bundle

from firmware_tools.compile import into_bundle
from protos.atomic import write_whole
from protos.errors import StoreError
from protos.model.bundle import open_bundle
from protos.model.manifest import MANIFEST_FILE

LAYER = Layer.drawn((4, 4, 1), 6)
_LOG = """\
Edge TPU Compiler version 16.0.384591198
Model compiled successfully in 6 ms.

Operator                       Count      Status

FULLY_CONNECTED                1          Mapped to Edge TPU
"""
Command = Callable[..., Any]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bare_bundle(tmp_path / "bundle", LAYER)


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    path = tmp_path / "from_elsewhere.tflite"
    path.write_bytes(LAYER.twin())
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_twin_from_elsewhere_is_checked_and_put_in(compile_command: Command, bundle: Path, twin: Path) -> None:
    before = open_bundle(bundle)
    report = compile_command(bundle, "--into-bundle", "--twin", twin, "--json").report
    after = open_bundle(bundle)
    assert report["bundle"] == {
        "path": str(bundle),
        "bundle_id": after.bundle_id,
        "bundle_id_before": before.bundle_id,
        "file": "backbone_edgetpu.tflite",
        "compiler_version": None,
    }
    assert after.bundle_id != before.bundle_id
    assert after.twin_path is not None
    assert after.twin_path.read_bytes() == LAYER.twin()
    assert set(files(bundle)) == {*before.manifest.files, MANIFEST_FILE, "backbone_edgetpu.tflite"}


def test_the_compilers_twin_is_put_in_with_the_compilers_version(
    compile_command: Command, compiler_folder: Path, bundle: Path, twin: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    log.write_text(_LOG)
    done = compile_command(bundle, "--into-bundle", path=compiler_folder, STANDIN_TWIN=str(twin), STANDIN_LOG=str(log))
    assert done.code == 0, done.stderr
    opened = open_bundle(bundle)
    assert opened.manifest.edge_tpu is not None
    assert opened.manifest.edge_tpu.compiler_version == "16.0.384591198"
    assert "backbone_edgetpu.tflite" in done.stdout
    assert opened.bundle_id in done.stdout
    assert list((tmp_path / "here").iterdir()) == [], "no second copy of the twin"


def test_a_twin_that_is_there_is_replaced_only_by_force(compile_command: Command, bundle: Path, twin: Path) -> None:
    assert compile_command(bundle, "--into-bundle", "--twin", twin).code == 0
    first = files(bundle)
    refused = compile_command(bundle, "--into-bundle", "--twin", twin)
    assert refused.code == 2
    assert "has an Edge TPU twin already" in refused.complaint
    assert files(bundle) == first
    twin.write_bytes(Layer(LAYER.shape, LAYER.weights, (LAYER.biases + 2).astype(np.int32)).twin())
    assert compile_command(bundle, "--into-bundle", "--twin", twin, "--force").code == 0
    second = open_bundle(bundle)
    assert second.twin_path is not None
    assert second.twin_path.read_bytes() == twin.read_bytes()
    assert set(files(bundle)) == {*second.manifest.files, MANIFEST_FILE}, "nothing of the first is left"
    assert compile_command(bundle, "--into-bundle", "--twin", twin, "--force").code == 0
    assert set(files(bundle)) == {*open_bundle(bundle).manifest.files, MANIFEST_FILE}


def test_a_twin_of_another_model_changes_nothing(compile_command: Command, bundle: Path, twin: Path) -> None:
    before = files(bundle)
    twin.write_bytes(Layer.drawn((4, 4, 1), 7).twin())
    done = compile_command(bundle, "--into-bundle", "--twin", twin)
    assert done.code == 6
    assert "the CPU model has" in done.complaint
    twin.write_bytes(LAYER.cpu_model())
    assert "no Edge TPU operator" in compile_command(bundle, "--into-bundle", "--twin", twin).complaint
    assert files(bundle) == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("bundle", "--into-bundle", "--predict"), 2, "--predict makes no twin"),
        (("bundle", "--into-bundle", "-o", "x.tflite"), 2, "-o is for compiling to a file"),
        (("from_elsewhere.tflite", "--into-bundle"), 2, "needs a bundle"),
        (("bundle", "--into-bundle"), 2, "edgetpu_compiler is not on PATH"),
        (("bundle", "--into-bundle", "--twin", "gone.tflite"), 6, "cannot be read"),
    ],
)
def test_options_that_make_no_sense_say_so(
    compile_command: Command, bundle: Path, twin: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = files(bundle)
    given = [str(tmp_path / argument) if not argument.startswith("-") else argument for argument in arguments]
    done = compile_command(*given)
    assert (done.code, says in done.complaint) == (code, True), done.complaint
    assert files(bundle) == before


def test_a_changed_bundle_is_refused(compile_command: Command, bundle: Path, twin: Path) -> None:
    (bundle / "head.tflite").write_bytes(b"changed")
    assert compile_command(bundle, "--into-bundle", "--twin", twin).code == 7


@pytest.mark.parametrize("writes", [0, 1])
def test_a_disk_that_fails_in_between_leaves_the_bundle_of_before(
    bundle: Path, twin: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    into_bundle.put_twin(bundle, twin, "15.0.340273435")
    before, document = open_bundle(bundle), json.loads((bundle / MANIFEST_FILE).read_text())
    twin.write_bytes(Layer(LAYER.shape, LAYER.weights, (LAYER.biases + 2).astype(np.int32)).twin())
    done: list[Path] = []

    def failing(path: Path) -> Any:
        if len(done) == writes:
            raise OSError(28, "No space left on device")
        done.append(path)
        return write_whole(path)

    monkeypatch.setattr(into_bundle, "write_whole", failing)
    with pytest.raises(StoreError, match="No space left"):
        into_bundle.put_twin(bundle, twin, None)
    assert open_bundle(bundle).bundle_id == before.bundle_id
    assert json.loads((bundle / MANIFEST_FILE).read_text()) == document


def test_a_version_that_no_manifest_can_hold_is_unknown(bundle: Path, twin: Path) -> None:
    assert into_bundle.put_twin(bundle, twin, "16.0\nrm -rf")["compiler_version"] is None
