"""`firmware-tools compile` as users call it: prediction, a stand-in for the compiler, and twins from elsewhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
_LOG = """\
Edge TPU Compiler version 16.0.384591198

Model compiled successfully in 12 ms.

On-chip memory used for caching model parameters: 1.00KiB
On-chip memory remaining for caching model parameters: 7.88MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 3

Operator                       Count      Status

CONV_2D                        1          Mapped to Edge TPU
MEAN                           1          {mean}
HARD_SWISH                     1          Operation not supported
"""
MAPPED = "Mapped to Edge TPU"


@pytest.fixture
def model(tmp_path: Path, small_model: bytes) -> Path:
    path = tmp_path / "small.tflite"
    path.write_bytes(small_model)
    return path


@pytest.fixture
def twin(tmp_path: Path, small_twin: Callable[..., bytes]) -> Path:
    path = tmp_path / "from_elsewhere.tflite"
    path.write_bytes(small_twin())
    return path


@pytest.fixture
def log(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "log.txt"
        path.write_text(text)
        return str(path)

    return write


def test_prediction_needs_no_compiler_and_writes_nothing(compile_command: Command, model: Path, tmp_path: Path) -> None:
    report = compile_command(model, "--predict", "--json").report
    assert report["schema"] == "edgejoule.compile/1"
    assert (report["mapped"], report["total"], report["complete"]) == (2, 3, False)
    assert [operator["mapped"] for operator in report["operators"]] == [True, True, False]
    assert report["parameter_bytes"] == 64 + 32 + 8
    assert list((tmp_path / "here").iterdir()) == []


def test_the_text_names_every_operator_that_stays_on_the_cpu(compile_command: Command, model: Path) -> None:
    done = compile_command(model, "--predict")
    assert done.code == 0
    assert "predicted  2 of 3 operators run on the Edge TPU" in done.stdout
    assert "  CPU      HARD_SWISH, operator 2: is no operator of the Edge TPU" in done.stdout
    assert done.stderr == ""


def test_a_script_can_ask_for_all_operators(compile_command: Command, model: Path) -> None:
    done = compile_command(model, "--predict", "--require-all")
    assert done.code == 3
    assert "1 of 3 operators are predicted for the CPU" in done.complaint
    assert "HARD_SWISH" in done.stdout


def test_without_the_compiler_the_way_out_is_named(compile_command: Command, model: Path) -> None:
    done = compile_command(model)
    assert done.code == 2
    assert "edgetpu_compiler is not on PATH" in done.complaint
    assert "--predict" in done.complaint


def test_the_compilers_twin_is_checked_and_put_in_place(
    compile_command: Command, compiler_folder: Path, model: Path, twin: Path, log: Callable[[str], str], tmp_path: Path
) -> None:
    done = compile_command(
        model, "--json", path=compiler_folder, STANDIN_TWIN=str(twin), STANDIN_LOG=log(_LOG.format(mean=MAPPED))
    )
    report = done.report
    assert f"{compiler_folder}/edgetpu_compiler -s -o " in done.stderr
    assert done.stderr.strip().endswith(str(model))
    assert report["compiled"]["version"] == "16.0.384591198"
    assert report["compiled"]["on_chip_bytes"] == 1024
    assert report["differences"] == []
    assert report["twin"]["cpu_operators"] == ["HARD_SWISH"]
    assert (tmp_path / "here" / "small_edgetpu.tflite").read_bytes() == twin.read_bytes()


def test_a_compiler_that_maps_less_than_predicted_is_shown(
    compile_command: Command, compiler_folder: Path, model: Path, twin: Path, log: Callable[[str], str], tmp_path: Path
) -> None:
    text = _LOG.format(mean="Operation is otherwise supported, but not mapped due to some unspecified limitation")
    done = compile_command(
        model, "-o", tmp_path / "out.tflite", path=compiler_folder, STANDIN_TWIN=str(twin), STANDIN_LOG=log(text)
    )
    assert done.code == 0
    assert "  DIFFERS  MEAN: 0 mapped, 1 predicted" in done.stdout
    assert "some unspecified limitation" in done.stdout
    assert (tmp_path / "out.tflite").is_file()


def test_a_twin_with_other_ends_is_not_put_in_place(
    compile_command: Command,
    compiler_folder: Path,
    model: Path,
    small_twin: Callable[..., bytes],
    log: Callable[[str], str],
    tmp_path: Path,
) -> None:
    odd = tmp_path / "odd.tflite"
    odd.write_bytes(small_twin(scale=0.5))
    text = log(_LOG.format(mean=MAPPED))
    done = compile_command(model, path=compiler_folder, STANDIN_TWIN=str(odd), STANDIN_LOG=text)
    assert done.code == 6
    assert "output 0 has scale [0.5], the CPU model has [0.25]" in done.complaint
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "code", "complaint"),
    [
        ("Internal compiler error. Aborting! ", "1", "Internal compiler error. Aborting!"),
        ("ERROR: Didn't find op for builtin opcode 'EXP' version '2'.\n\nInvalid model: a", "0", "opcode 'EXP'"),
        ("", "7", "code 7"),
        ("Model compiled successfully in 3 ms.", "0", "made no twin"),
    ],
)
def test_a_compiler_that_fails_is_one_line_with_its_own_words(
    compile_command: Command,
    compiler_folder: Path,
    model: Path,
    log: Callable[[str], str],
    said: str,
    code: str,
    complaint: str,
) -> None:
    done = compile_command(model, path=compiler_folder, STANDIN_LOG=log(said), STANDIN_CODE=code)
    assert done.code == 6
    assert complaint in done.complaint


def test_a_file_that_is_there_stays_unless_forced(
    compile_command: Command, compiler_folder: Path, model: Path, twin: Path, log: Callable[[str], str], tmp_path: Path
) -> None:
    output = tmp_path / "out.tflite"
    output.write_bytes(b"mine")
    given: dict[str, Any] = {
        "path": compiler_folder, "STANDIN_TWIN": str(twin), "STANDIN_LOG": log(_LOG.format(mean=MAPPED))
    }  # fmt: skip
    done = compile_command(model, "-o", output, **given)
    assert (done.code, output.read_bytes()) == (2, b"mine")
    assert compile_command(model, "-o", output, "--force", **given).code == 0
    assert output.read_bytes() == twin.read_bytes()
    same = compile_command(model, "-o", model, "--force", **given)
    assert same.code == 2
    assert "is the model itself" in same.complaint


def test_a_twin_from_elsewhere_is_checked_without_the_compiler(
    compile_command: Command, model: Path, twin: Path
) -> None:
    done = compile_command(model, "--twin", twin)
    assert done.code == 0
    assert "takes and gives what the model does" in done.stdout
    swapped = compile_command(model, "--twin", model)
    assert swapped.code == 6
    assert "holds no Edge TPU operator" in swapped.complaint


def test_odd_arguments_are_one_line_each(compile_command: Command, model: Path, tmp_path: Path) -> None:
    assert compile_command(model, "--predict", "-o", "out.tflite").code == 2
    assert compile_command(tmp_path / "nothing.tflite", "--predict").code == 6
    assert "no bundle" in compile_command(tmp_path, "--predict").complaint
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(model.read_bytes()[:60])
    assert compile_command(broken, "--predict").code == 6


@pytest.mark.processes
def test_a_termination_ends_the_compiler_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    folder, fifo = tmp_path / "bin", tmp_path / "started"
    folder.mkdir()
    program = folder / "edgetpu_compiler"
    # Tells its number through a pipe, then waits to be ended.
    program.write_text(
        f"#!{sys.executable}\nimport os, signal\nopen({str(fifo)!r}, 'w').write(str(os.getpid()))\nsignal.pause()\n"
    )
    program.chmod(0o755)
    subprocess.run(["mkfifo", str(fifo)], check=True)
    here = tmp_path / "here"
    here.mkdir()
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-m", "firmware_tools.cli", "compile", str(model)]
    env = {"PATH": str(folder), "PYTHONPATH": root, "TMPDIR": str(here)}
    with subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.PIPE) as running:
        compiler = int(fifo.read_text())
        running.send_signal(signal.SIGTERM)
        running.communicate()
    assert running.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{compiler}").exists()
    assert list(here.iterdir()) == []
