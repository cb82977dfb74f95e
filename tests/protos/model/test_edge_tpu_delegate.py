"""The delegate of the Edge TPU, through the runtime's own loader, with a stand-in library that really computes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edge_tpu_standin import Layer, bare_bundle, build_library

from protos.errors import ModelError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle
from protos.model.edge_tpu import EdgeTpu, EdgeTpuError, is_installed
from protos.model.edge_tpu_trial import try_edge_tpu
from protos.model.engine import open_interpreter

ROOT = Path(__file__).parents[3]
LAYER = Layer.drawn((8, 8, 1), 16)
Library = Callable[..., EdgeTpu]
EXAMPLES = np.random.default_rng(3).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)

_IN_ANOTHER_RUNTIME = """
import json, sys
import numpy as np
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.edge_tpu import EdgeTpu
from protos.model.edge_tpu_trial import try_edge_tpu
bundle, edge_tpu, x = open_bundle(sys.argv[1]), EdgeTpu(sys.argv[2]), np.load(sys.argv[3])
trial = try_edge_tpu(edge_tpu, bundle)
twin, cpu = Backbone(bundle, edge_tpu=edge_tpu), Backbone(bundle)
print(json.dumps({"engine": twin.engine.name, "accelerator": twin.engine.accelerator, "runtime": trial.runtime,
                  "twin": twin.embed(x).tolist(), "cpu": cpu.embed(x).tolist()}))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("standin")
    return lambda *defines, device=None: EdgeTpu(str(build_library(folder, *defines)), device)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(bare_bundle(tmp_path_factory.mktemp("twinned") / "bundle", LAYER, twin=LAYER.twin()))


def expected(backbone: Backbone) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    return LAYER.answer(np.stack([backbone._quantise_one(example, 0)[0] for example in EXAMPLES]).astype(np.int8))


def test_the_twin_is_computed_by_the_library_and_gives_the_bits_of_the_cpu_model(
    bundle: Bundle, library: Library
) -> None:
    twin, cpu = Backbone(bundle, edge_tpu=library()), Backbone(bundle)
    answer = twin.embed(EXAMPLES)
    assert len(np.unique(answer)) > 50, "the layer must tell its inputs apart"
    np.testing.assert_array_equal(answer, expected(cpu))
    np.testing.assert_array_equal(answer, cpu.embed(EXAMPLES))
    assert (twin.engine.accelerator, cpu.engine.accelerator) == ("edgetpu", "")
    assert str(twin.engine).endswith(", edgetpu)")


def test_the_librarys_own_bits_come_through(bundle: Bundle, library: Library) -> None:
    plain = Backbone(bundle).embed(EXAMPLES).astype(int)
    shifted = Backbone(bundle, edge_tpu=library("OFF_BY=1")).embed(EXAMPLES)
    # What is cut off at an end stays there.
    assert set((shifted - plain)[abs(plain) < 127].ravel()) == {1}
    assert np.abs(shifted - plain).max() == 1


def test_without_the_library_the_twin_does_not_run_at_all(bundle: Bundle) -> None:
    assert bundle.twin_path is not None
    with pytest.raises(ModelError, match="edgetpu-custom-op"):
        open_interpreter(bundle.twin_path)


def test_a_bundle_without_its_twin_is_no_reason_to_run_the_cpu_model_in_its_place(
    tmp_path: Path, library: Library
) -> None:
    bare = open_bundle(bare_bundle(tmp_path / "bare", LAYER))
    with pytest.raises(EdgeTpuError, match="no Edge TPU twin"):
        Backbone(bare, edge_tpu=library())


def test_a_device_that_goes_away_at_work_is_an_error_of_the_edge_tpu(bundle: Bundle, library: Library) -> None:
    backbone = Backbone(bundle, edge_tpu=library("FAIL_AT=7"))
    np.testing.assert_array_equal(backbone.embed(EXAMPLES[:6]), Backbone(bundle).embed(EXAMPLES[:6]))
    with pytest.raises(EdgeTpuError, match="device is gone"):
        backbone.embed(EXAMPLES[6:])


def test_a_trial_says_the_runtimes_version_and_how_well_both_forms_agree(bundle: Bundle, library: Library) -> None:
    trial = try_edge_tpu(library("RUNTIME=13"), bundle)
    assert trial.runtime == 13
    assert trial.agreement == pytest.approx(1.0)
    close = try_edge_tpu(library("OFF_BY=1"), bundle)
    assert close.agreement is not None
    assert 0.99 < close.agreement < 1.0
    assert try_edge_tpu(library()).agreement is None


@pytest.mark.parametrize(
    ("define", "says"),
    [
        ("REFUSES", "does not start: it finds no Edge TPU that this user may open"),
        ("CRASHES", "SIGSEGV"),
        ("FAIL_AT=1", "device is gone"),
        ("FAIL_AT=3", "device is gone"),
        ("WRONG", "answers otherwise than the CPU model"),
    ],
)
def test_what_is_wrong_with_a_library_is_an_error_and_not_the_end_of_this_process(
    bundle: Bundle, library: Library, define: str, says: str
) -> None:
    with pytest.raises(EdgeTpuError) as caught:
        try_edge_tpu(library(define), bundle)
    assert says in caught.value.what
    assert "\n" not in str(caught.value)


def test_a_twin_of_other_scales_is_no_twin(tmp_path: Path, library: Library) -> None:
    odd = open_bundle(bare_bundle(tmp_path / "odd", LAYER, twin=LAYER.twin(input_scale=0.5)))
    with pytest.raises(EdgeTpuError, match="the twin's ends are"):
        try_edge_tpu(library(), odd)
    with pytest.raises(EdgeTpuError, match="the manifest says"):
        Backbone(odd, edge_tpu=library())


def test_a_library_that_hangs_is_given_up(bundle: Bundle, library: Library) -> None:
    with pytest.raises(EdgeTpuError, match=r"did not answer within 2 s"):
        try_edge_tpu(library("HANGS"), bundle, timeout_s=2.0)


def test_the_device_is_chosen_by_the_delegates_option(bundle: Bundle, library: Library) -> None:
    assert try_edge_tpu(library(device="usb:0"), bundle).agreement == pytest.approx(1.0)
    with pytest.raises(EdgeTpuError, match="no such device"):
        try_edge_tpu(library(device="pci"), bundle)


@pytest.mark.parametrize(
    ("name", "says"),
    [("libnowhere.so.9", "cannot be opened"), ("libm.so.6", "is no delegate library")],
)
def test_what_is_no_library_of_the_kind_says_so(name: str, says: str) -> None:
    with pytest.raises(EdgeTpuError, match=says):
        try_edge_tpu(EdgeTpu(name))


def test_the_linker_is_asked_for_a_library_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("libm.so.6")
    assert not is_installed("libm.so")
    assert not is_installed("libnowhere.so.9")
    (tmp_path / "libnowhere.so.9").touch()
    assert is_installed(str(tmp_path / "libnowhere.so.9"))
    assert not is_installed(str(tmp_path / "libother.so.9"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    assert is_installed("libnowhere.so.9")


def test_the_old_runtime_loads_the_same_library(bundle: Bundle, library: Library, tmp_path: Path) -> None:
    python = os.environ.get("EDGEJOULE_TFLITE_RUNTIME_PYTHON")
    if not python:
        pytest.skip("EDGEJOULE_TFLITE_RUNTIME_PYTHON names no Python with tflite-runtime 2.14")
    np.save(tmp_path / "x.npy", EXAMPLES)
    arguments = [str(bundle.path), library().library, str(tmp_path / "x.npy")]
    done = subprocess.run(
        [python, "-c", _IN_ANOTHER_RUNTIME, *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["engine"], said["accelerator"], said["runtime"]) == ("tflite-runtime", "edgetpu", 14)
    here = Backbone(bundle, edge_tpu=library()).embed(EXAMPLES)
    np.testing.assert_array_equal(said["twin"], here)
    # Its builtin kernel rounds twice.
    assert np.abs(np.array(said["cpu"]) - here).max() <= 1
