"""Odd, damaged and hostile input: one line that names the file and the reason, a stable code, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.workshop
Command = Callable[..., Any]


@pytest.fixture
def refused(quick: Command, tmp_path: Path) -> Callable[..., str]:
    """Runs a conversion that must fail with a code and leave nothing; gives its one line."""
    return _refusing(quick, tmp_path)


@pytest.fixture
def refused_alone(command: Command, tmp_path: Path) -> Callable[..., str]:
    """The same by the command itself, in processes of its own."""
    return _refusing(command, tmp_path)


def _refusing(command: Command, tmp_path: Path) -> Callable[..., str]:
    def run(code: int, *arguments: str | Path) -> str:
        done = command("convert", *arguments, "-o", tmp_path / "out" / "bundle")
        assert done.code == code, done.stderr
        assert done.stdout == ""
        assert not (tmp_path / "out").exists()
        complaint: str = done.complaint
        return complaint

    return run


@pytest.mark.parametrize("suffix", ["h5", "keras", "tflite"])
def test_a_text_file_with_the_name_of_a_model_is_refused(suffix: str, refused: Any, tmp_path: Path) -> None:
    path = tmp_path / f"text.{suffix}"
    path.write_text("This is no model.\n")
    assert f"text.{suffix}: is named .{suffix} but holds no model format known here" in refused(6, path)
    path.write_bytes(b"")
    assert "is an empty file" in refused(6, path)


def test_truncated_models_are_refused(models: Path, plain_bundle: Path, refused_alone: Any, tmp_path: Path) -> None:
    for source, says in (
        (models / "groups.h5", "truncated"),
        (models / "plain.keras", "truncated"),
        (plain_bundle / "backbone.tflite", "damaged TFLite model"),
    ):
        path = tmp_path / f"cut_short{source.suffix}"
        path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        line = refused_alone(6, path, "--classes", "4", "--calibrate", models / "images.npz")
        assert "cut_short" in line
        assert says in line


@pytest.mark.parametrize("name", ["regression.keras", "regression"])
def test_one_number_that_no_sigmoid_ends_is_no_classifier_unless_somebody_says_so(
    name: str, models: Path, refused: Any, quick: Command, tmp_path: Path
) -> None:
    line = refused(6, models / name, "--calibrate", models / "values.npz")
    assert line.startswith(f"firmware-tools: {name}: gives one number that no sigmoid ends, as a regression does")
    assert "--classes 2" in line
    assert "--fresh-head" in line
    done = quick(
        "convert", models / name, "--calibrate", models / "values.npz", "--classes", "2", "-o", tmp_path / "b", "--json"
    )
    assert done.report["provenance"]["head"] == "starts from the pre-trained last layer"


@pytest.mark.parametrize("name", ["two_steps.keras", "sigmoid"])
def test_a_sigmoid_after_other_layers_or_in_a_saved_model_is_seen(
    name: str, models: Path, quick: Command, tmp_path: Path
) -> None:
    done = quick("convert", models / name, "--calibrate", models / "values.npz", "-o", tmp_path / "b", "--json")
    assert done.report["classes"] == ["0", "1"]


def test_a_model_that_kills_its_process_is_an_error(
    models: Path, plain_bundle: Path, refused_alone: Any, tmp_path: Path
) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf((plain_bundle / "backbone.tflite").read_bytes(), 0)
    first = model.subgraphs[0].operators[0]
    first.inputs = [int(first.inputs[0]), -1, -1]  # a convolution without a filter: the runtime follows a null pointer
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "killer.tflite"
    path.write_bytes(bytes(builder.Output()))
    line = refused_alone(6, path, "--classes", "4", "--calibrate", models / "images.npz")
    assert "killer.tflite" in line
    assert "died of SIG" in line or "refuses" in line


def test_folders_and_paths_that_are_no_model_are_refused(refused: Any, tmp_path: Path, models: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is an empty folder" in refused(6, tmp_path / "empty")
    assert "no such file or folder" in refused(6, tmp_path / "nothing.keras")
    assert "is one file of a SavedModel" in refused(6, models / "saved" / "saved_model.pb")
    assert "unknown suffix" in refused(6, models / "images.npz")


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("two_inputs.keras", (), "has 2 inputs"),
        ("two_outputs.keras", (), "has 2 outputs"),
        ("no_dense.keras", (), "its last layer with weights is only, not a Dense; name the layer"),
        ("float_inside.keras", (), "float operators are left inside the backbone: "),
        ("code.keras", (), "export it with model.export"),
        ("plain.keras", ("--cut", "vektor"), "no layer 'vektor' to cut at; did you mean 'vector'?"),
        (
            "plain.keras",
            ("--cut", "first"),
            "is 5 x 5 x 8 per example, not a vector; cut after a pooling or flatten layer",
        ),
        ("saved", ("--cut", "vectr"), "no layer 'vectr' to cut at; did you mean 'vector"),
    ],
)
def test_models_that_cannot_be_cut_say_why(
    models: Path, refused: Any, model: str, options: tuple[str, ...], says: str
) -> None:
    line = refused(6, models / model, "--calibrate", models / "images.npz", *options)
    assert model in line
    assert says in line


def test_data_that_do_not_fit_have_their_own_codes(models: Path, refused: Any) -> None:
    plain, vector = models / "plain.keras", models / "vector.keras"
    assert "no such file" in refused(13, plain, "--calibrate", models / "gone.npz")
    assert "[12, 12, 3]" in refused(8, plain, "--calibrate", models / "values.npz")
    assert "outside 0..2" in refused(9, plain, "--eval", models / "images.npz", "--classes", "3")
    assert "example 7" in refused(10, vector, "--calibrate", models / "broken.npz")


def test_without_real_examples_a_float_model_is_not_quantised(models: Path, refused: Any) -> None:
    assert "int8 ranges must come from real examples" in refused(2, models / "plain.keras")
    assert "real examples" in refused(2, models / "plain.keras", "--eval", models / "images_all_test.npz")


def test_too_little_agreement_is_a_failed_check(models: Path, refused: Any) -> None:
    line = refused(3, models / "plain.keras", "--eval", models / "images.npz", "--min-agreement", "0.9999999")
    assert "mean cosine over 100 examples" in line
    assert "--min-agreement 0.9999999" in line


def test_an_integer_model_is_cut_only_where_there_is_a_tensor(plain_bundle: Path, refused: Any) -> None:
    source = plain_bundle / "backbone.tflite"
    assert "has no layer 'x' to cut at" in refused(6, source, "--cut", "x", "--classes", "4")
    assert "--classes N" in refused(6, source)


@pytest.mark.parametrize(
    "options",
    [
        ("--classes", "1"), ("--hidden", "0"), ("--batch-size", "0"), ("--class-names", "a,a"), ("--seed", "-1"),
        ("--class-names", "a,b,c", "--classes", "2"), ("--input-shape", "big"), ("--name", "../up"),
        ("--min-agreement", "nan"), ("--log", "/no/such/folder/log"), ("--objective", "magic"),
        ("--optimizer", "magic"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_usage_errors(models: Path, quick: Command, tmp_path: Path, options: Any) -> None:
    done = quick("convert", models / "plain.keras", "-o", tmp_path / "b", *options)
    assert done.code == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_bundle_is_replaced_only_when_told_to(
    models: Path, plain_bundle: Path, quick: Command, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    arguments = ("convert", plain_bundle / "backbone.tflite", "--classes", "4", "-o", target)
    assert "is no bundle: not replaced" in quick(*arguments, "--force").complaint
    (target / "precious.txt").unlink()
    assert quick(*arguments).code == 0
    first = (target / "manifest.json").read_text()
    again = quick(*arguments, "--name", "second")
    assert again.code == 2
    assert "give --force" in again.complaint
    assert (target / "manifest.json").read_text() == first
    assert quick(*arguments, "--name", "second", "--force").code == 0
    assert '"name": "second"' in (target / "manifest.json").read_text()
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_conversion_leaves_no_file_and_no_process(
    models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    running = subprocess.Popen(
        [sys.executable, "-m", "firmware_tools.cli", "convert", str(models / "plain.keras"),
         "--eval", str(models / "images.npz"), "-o", str(out / "bundle")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert "opening plain.keras" in running.stderr.readline()
    children = _children(running.pid)
    assert children
    running.send_signal(number)
    _, rest = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert "Traceback" not in rest
    assert os.listdir(out) == []
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
