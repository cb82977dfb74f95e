"""Which engine runs the backbone, by setting and by what is wrong with the Edge TPU; and that no caches are mixed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from edge_tpu_standin import Layer, bare_bundle, build_library

from edge_runtime.round.accelerator import Accelerator, Mode
from edge_runtime.round.inputs.embeddings import EmbeddingCache
from edge_runtime.systemd.logging_setup import LOGGER
from protos.errors import RefusedError
from protos.model.bundle import Bundle, open_bundle
from protos.model.edge_tpu import EdgeTpu, EdgeTpuError

LAYER = Layer.drawn((4, 4, 1), 6)
FAULTS = ["REFUSES", "CRASHES", "FAIL_AT=1", "FAIL_AT=3", "WRONG"]
Make = Callable[..., Accelerator]


@pytest.fixture
def twinned(tmp_path: Path) -> Bundle:
    return open_bundle(bare_bundle(tmp_path / "twinned", LAYER, twin=LAYER.twin()))


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    return open_bundle(bare_bundle(tmp_path / "plain", LAYER))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def accelerator(mode: Mode = "auto", *defines: str, timeout_s: float = 60.0) -> Accelerator:
        return Accelerator(mode, EdgeTpu(str(build_library(tmp_path, *defines)), "usb"), timeout_s=timeout_s)

    return accelerator


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    caplog.set_level(logging.DEBUG, LOGGER)
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_twin_runs_where_the_edge_tpu_works(
    make: Make, twinned: Bundle, lines: Callable[[], list[tuple[str, str]]]
) -> None:
    accelerator = make()
    accelerator.look()
    assert (accelerator.available, accelerator.name, accelerator.runtime) == (True, "edgetpu", 14)
    assert accelerator.takes(twinned)
    ((level, said),) = lines()
    assert level == "INFO"
    assert "the backbone runs on the Edge TPU" in said


@pytest.mark.parametrize("fault", FAULTS)
def test_auto_goes_on_with_the_cpu_and_warns_once_with_the_reason_and_what_to_do(
    make: Make, twinned: Bundle, plain: Bundle, fault: str, lines: Callable[[], list[tuple[str, str]]]
) -> None:
    accelerator = make("auto", fault)
    accelerator.look()
    assert not accelerator.takes(plain)
    assert lines() == [], "a bundle without a twin is no reason to warn"
    for _ in range(3):
        assert not accelerator.takes(twinned)
    assert accelerator.name == ""
    ((level, said),) = lines()
    assert level == "WARNING"
    assert "runs on the CPU" in said
    assert f"libstandin-{fault.replace('=', '')}.so" in said
    assert "edge-runtime doctor" in said


@pytest.mark.parametrize("fault", FAULTS)
def test_require_refuses_with_the_reason(make: Make, twinned: Bundle, fault: str) -> None:
    accelerator = make("require", fault)

    def start() -> None:
        accelerator.look()
        accelerator.takes(twinned)

    with pytest.raises(RefusedError, match="is required and does not work") as caught:
        start()
    assert caught.value.exit_code == 16


def test_a_library_that_hangs_at_load_is_given_up(make: Make, twinned: Bundle) -> None:
    accelerator = make("auto", "HANGS", timeout_s=2.0)
    accelerator.look()
    assert not accelerator.takes(twinned)
    with pytest.raises(RefusedError, match="did not answer within 2 s"):
        make("require", "HANGS", timeout_s=2.0).look()


def test_off_says_nothing_and_opens_nothing(
    tmp_path: Path, make: Make, twinned: Bundle, lines: Callable[[], list[tuple[str, str]]]
) -> None:
    for accelerator in (make("off"), make("off", "CRASHES"), Accelerator("off", EdgeTpu("libnowhere.so.9"))):
        accelerator.look()
        assert not accelerator.takes(twinned)
        assert accelerator.name == ""
    assert lines() == []


def test_a_machine_without_the_library_starts_no_child(twinned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr("edge_runtime.round.accelerator.try_edge_tpu", forbidden)
    accelerator = Accelerator("auto", EdgeTpu("libnowhere.so.9"))
    accelerator.look()
    assert not accelerator.takes(twinned)
    with pytest.raises(RefusedError, match="is not installed"):
        Accelerator("require", EdgeTpu("libnowhere.so.9")).look()


def test_require_needs_a_twin_in_the_bundle(make: Make, plain: Bundle) -> None:
    accelerator = make("require")
    accelerator.look()
    with pytest.raises(RefusedError, match="has no Edge TPU twin") as caught:
        accelerator.takes(plain)
    assert caught.value.fix is not None
    assert "--into-bundle" in caught.value.fix


def test_a_copy_that_lacks_its_twin_runs_on_the_cpu_and_says_so(
    make: Make, twinned: Bundle, lines: Callable[[], list[tuple[str, str]]]
) -> None:
    assert twinned.twin_path is not None
    twinned.twin_path.unlink()
    accelerator = make()
    accelerator.look()
    assert not accelerator.takes(open_bundle(twinned.path, twin_may_lack=True))
    assert "lacks its twin" in lines()[-1][1]


def test_what_was_lost_stays_lost_and_is_said_once(
    make: Make, twinned: Bundle, lines: Callable[[], list[tuple[str, str]]]
) -> None:
    accelerator = make()
    accelerator.look()
    assert accelerator.takes(twinned)
    accelerator.lost(EdgeTpuError("unplugged", where="usb"))
    assert not accelerator.takes(twinned)
    warnings = [said for level, said in lines() if level == "WARNING"]
    assert len(warnings) == 1
    assert "the Edge TPU is lost" in warnings[0]
    required = make("require")
    required.look()
    with pytest.raises(RefusedError, match="unplugged"):
        required.lost(EdgeTpuError("unplugged", where="usb"))


def test_caches_of_both_engines_and_of_two_runtimes_are_kept_apart(tmp_path: Path, twinned: Bundle) -> None:
    def folder(engine: str, *, twin: bool, bundle: Bundle = twinned) -> Path:
        return EmbeddingCache(tmp_path / "cache", bundle, "data", 9, engine, twin=twin).folder

    assert len({folder("e", twin=False), folder("e", twin=True), folder("e 14", twin=True)}) == 3
    # The CPU model is the same with and without a twin beside it: what was embedded before stays good.
    alone = open_bundle(bare_bundle(tmp_path / "alone", LAYER))
    assert folder("e", twin=False, bundle=alone) == folder("e", twin=False)
