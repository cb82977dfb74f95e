"""The base install on aarch64, emulated: real wheels, a real Debian, one real round with a coordinator on this machine.

Times under emulation say nothing of a board.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from arm_figures import Figures
from arm_round import PATIENCE_S, Outcome, compare, plain_environ, play
from arm_userland import CPU, Userland

pytestmark = [pytest.mark.arm, pytest.mark.workshop]
MACHINE = "aarch64 programs"
EXAMPLES = 1000
_HEADS = """
import itertools, pathlib, sys
import numpy as np
import tensorflow as tf
from firmware_tools.convert.head_model import HeadDesign, compile_head
from firmware_tools.convert.objectives import OBJECTIVES
from firmware_tools.convert.optimisers import OPTIMISERS
mean, scale = np.full(6, 0.5, np.float32), np.full(6, 2.0, np.float32)
for objective, optimiser, hidden in itertools.product(OBJECTIVES, OPTIMISERS, (None, 5)):
    content = compile_head(HeadDesign(mean, scale, 3, hidden, 8, objective, optimiser))
    pathlib.Path(sys.argv[1], f"{objective}-{optimiser}-{hidden or 'linear'}.tflite").write_bytes(content)


class Scalar(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([2], name="x"), tf.TensorSpec([], name="rate")])
    def train(self, x, rate):
        return {"loss": x * rate}


trap = pathlib.Path(sys.argv[1], "trap")
module = Scalar()
tf.saved_model.save(module, str(trap), signatures={"train": module.train})
(trap / "scalar.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(trap)).convert())
"""
# What any program does with such a model: no care is taken of the 0-D input.
_TRAP = """
import sys
import numpy as np
from protos.model.engine import open_interpreter
runner = open_interpreter(open(sys.argv[1], "rb").read()).get_signature_runner("train")
print(runner(x=np.ones(2, np.float32), rate=np.float32(0.5)))
"""
# Runs anywhere: every signature once, then training, with all that it answers as lists of bit patterns.
_SIGNATURES = """
import json, pathlib, sys
import numpy as np
from protos.model.engine import open_interpreter
answers = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.tflite")):
    interpreter = open_interpreter(path)
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    rng = np.random.default_rng(3)
    def given(runner):
        values = {}
        for name, one in sorted(runner.get_input_details().items()):
            shape = tuple(one["shape"])
            if one["dtype"] is np.int32:
                values[name] = rng.integers(0, 3, shape).astype(np.int32)
            elif name in ("beta1", "beta2", "momentum"):
                values[name] = np.full(shape, 0.9, np.float32)
            elif name == "weight_bits":
                values[name] = np.full(shape, 4.0, np.float32)
            elif shape == (1,):
                values[name] = np.full(shape, 0.01, np.float32)
            elif name == "weight":
                values[name] = np.ones(shape, np.float32)
            else:
                values[name] = rng.normal(size=shape).astype(np.float32)
        return values
    found = {}
    for name in sorted(runners, key=lambda one: (one != "write", one)):
        for key, value in sorted(runners[name](**given(runners[name])).items()):
            found[f"{name}.{key}"] = np.asarray(value, np.float64).ravel().tolist()
    batch = given(runners["train"])
    found["losses"] = [float(runners["train"](**batch)["loss"][0]) for _ in range(40)]
    answers[path.stem] = found
print(json.dumps(answers))
"""


def emulated(board: Userland, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in (board.python, *arguments)]
    return subprocess.run(command, env=board.environ(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm-heads")
    done = subprocess.run([sys.executable, "-c", _HEADS, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def rounds(
    board: Userland, workload: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Outcome, str]]:
    """The same round by a native device and by an emulated one, and what each device said."""
    folder, work = tmp_path_factory.mktemp("arm-round"), workload(EXAMPLES)
    native = play(folder / "native", work, [sys.executable, "-m", "edge_runtime.cli"], plain_environ())
    device = play(folder / "arm", work, [board.python, board.program], board.environ())
    said = {name: (folder / name / "device.log").read_text() for name in ("native", "arm")}
    return {"native": (native, said["native"]), "arm": (device, said["arm"])}


def test_the_program_answers_and_the_wheels_are_those_of_a_board(board: Userland, figures: Figures) -> None:
    helped = emulated(board, board.program, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "usage: edge-runtime" in helped.stdout
    code = (
        "import json, platform; from importlib.metadata import version; "
        "names = ('ai-edge-litert', 'numpy', 'grpcio', 'protobuf'); import grpc, numpy, edge_runtime.daemon.process; "
        "print(json.dumps([platform.machine(), platform.python_version(), {name: version(name) for name in names}]))"
    )
    found = emulated(board, "-c", code)
    assert found.returncode == 0, found.stderr
    machine, python, versions = json.loads(found.stdout)
    assert machine == "aarch64"
    figures.note(MACHINE, "emulator", f"qemu {board.qemu}, -cpu {CPU}")
    figures.note(
        MACHINE, "wheels", f"Python {python}, " + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def test_the_doctor_finds_a_machine_that_can_train(
    board: Userland, workload: Callable[[int], Path], tmp_path: Path, figures: Figures
) -> None:
    work = workload(EXAMPLES)
    done = emulated(board, board.program, "doctor", "--json", "--data", work / "device.npz", "--bundle",
                    work / "bundle", "--sensor", "estimate:pi-zero-2", "--state", tmp_path / "state")  # fmt: skip
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert (found["steps"], found["embedded"], found["error"]) == (20, EXAMPLES, None)
    assert found["ok"]
    figures.note(MACHINE, "doctor: kernels", found["delegate"], limit="xnnpack", ok=found["delegate"] == "xnnpack")


def test_a_round_on_aarch64_ends_with_the_head_of_x86(rounds: dict[str, tuple[Outcome, str]], figures: Figures) -> None:
    (native, _), (device, said) = rounds["native"], rounds["arm"]
    assert device.steps == native.steps == (-(-EXAMPLES // 32) * 3,)
    assert device.embedded == (EXAMPLES,)
    assert "xnnpack" in said
    figures.note(MACHINE, "round: examples embedded, steps", f"{device.embedded[0]}, {device.steps[0]}")
    before = device.status.rounds[0].accuracy
    assert before is not None
    figures.note(MACHINE, "round: accuracy", f"{before:.1%} to {device.accuracy:.1%}", limit="better",
                 ok=device.accuracy > before + 0.1)  # fmt: skip
    assert native.embeddings is not None
    equal = device.embeddings == native.embeddings
    figures.note(MACHINE, "round: embeddings against x86-64", "bit-equal" if equal else "differ", limit="bit-equal",
                 ok=equal)  # fmt: skip
    close = compare(device.head, native.head)
    scale = max(float(np.abs(value).max()) for value in native.head.values())
    figures.note(MACHINE, "round: head against x86-64", close.as_row(), limit=f"{1e-4 * scale:.2g}",
                 ok=close.largest <= 1e-4 * scale)  # fmt: skip
    assert abs(device.accuracy - native.accuracy) <= 0.01


def test_every_signature_of_every_head_runs_and_trains(board: Userland, heads: Path, figures: Figures) -> None:
    done = emulated(board, "-c", _SIGNATURES, heads)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-1500:]}"
    there = json.loads(done.stdout)
    native = subprocess.run(
        [sys.executable, "-c", _SIGNATURES, str(heads)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    here = json.loads(native.stdout)
    assert set(there) == set(here)
    assert len(there) == len(list(heads.glob("*.tflite"))) >= 12
    worst = 0.0
    for name, key in itertools.chain.from_iterable([(name, key) for key in here[name]] for name in here):
        one, other = np.array(there[name][key]), np.array(here[name][key])
        assert one.shape == other.shape
        assert np.isfinite(one).all(), (name, key)
        worst = max(worst, float(np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)), initial=0.0)))
    for name, answers in there.items():
        losses = answers["losses"]
        assert losses[-1] < losses[0], f"{name} does not learn: {losses}"
    figures.note(MACHINE, "heads: every signature of", f"{len(there)} kinds, at most {worst:.1e} from x86-64",
                 limit="1e-3", ok=worst <= 1e-3)  # fmt: skip


def test_a_model_with_a_scalar_input_is_refused_before_it_can_crash(
    board: Userland, heads: Path, figures: Figures
) -> None:
    model = heads / "trap/scalar.tflite"
    care = (
        "import pathlib, sys\nfrom protos.errors import ModelError\nfrom protos.model.engine import try_in_subprocess\n"
        "try:\n    try_in_subprocess(pathlib.Path(sys.argv[1]))\nexcept ModelError as error:\n    print(error.what)"
    )
    refused = emulated(board, "-c", care, model)
    assert refused.returncode == 0, refused.stderr
    assert "0-D, which crashes on aarch64" in refused.stdout
    careless = emulated(board, "-c", _TRAP, model)
    native = subprocess.run([sys.executable, "-c", _TRAP, str(model)], capture_output=True, check=False)
    assert native.returncode == 0, "on x86-64 nothing would show it"
    # Informs: some day the runtime may be mended.
    died = f"dies of {signal.Signals(-careless.returncode).name}" if careless.returncode < 0 else "runs"
    figures.note(MACHINE, "a 0-D input: refused by the trial; without it", died)
