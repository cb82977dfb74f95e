"""The planner's table of errors against the codecs themselves, and its sizes against reports that travel."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.budgets.codec_error import ERROR, report_bytes
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import DeviceReport, Engine, StopReason
from protos.update.codecs import build, generator
from protos.update.tensors import decode

SIZE = 1 << 16
ROWS = [(codec, bits) for codec, table in ERROR.items() for bits in table]


@pytest.fixture(scope="module")
def white() -> np.ndarray:
    """White Gaussian values, float32 [65536]: what the table says that it is of."""
    return np.random.default_rng(20).normal(size=SIZE).astype(np.float32)


def coded(codec: str, bits: float, values: np.ndarray, seed: int) -> tuple[object, np.ndarray]:
    built, shapes = build(codec, {"bits": bits}), {"x": values.shape}
    tensors, _ = built.encode({"x": values}, built.init(shapes), generator(seed, codec))
    return tensors, decode(tensors, shapes)["x"].astype(np.float64)


@pytest.mark.parametrize(("codec", "bits"), ROWS)
def test_the_table_says_how_wrong_a_codec_is_and_that_it_is_unbiased(
    codec: str, bits: float, white: np.ndarray
) -> None:
    power = float(np.vdot(white, white))
    found = [coded(codec, bits, white, seed)[1] for seed in (1, 2)]
    errors = [float(np.sum((array - white) ** 2)) / power for array in found]
    assert np.mean(errors) == pytest.approx(ERROR[codec][bits], rel=0.05)
    # E[decoded] = x: the projection on x is 1, up to some standard errors of sqrt(omega / d).
    shares = [float(np.vdot(array, white)) / power for array in found]
    assert np.mean(shares) == pytest.approx(1.0, abs=5 * (ERROR[codec][bits] / SIZE) ** 0.5 + 1e-3)


@pytest.mark.parametrize("codec", ERROR)
@pytest.mark.parametrize("coordinates", [650, SIZE])
def test_a_report_weighs_about_what_the_planner_reckons(codec: str, coordinates: int, white: np.ndarray) -> None:
    phases = [PhaseEnergy(phase, 1.0, 1.0, 0.0, "measured", "serial:/dev/ttyUSB0", 0.1) for phase in Phase]
    for bits in (min(ERROR[codec]), 4.0):
        tensors, _ = coded(codec, bits, white[:coordinates], 1)
        report = DeviceReport(
            "run-0123456789", 12, "pi-garden-01", "plan-0123456789abcdef", "sha256:" + "a" * 64, "head-0123456789ab",
            50, 50, 400, 50.0, StopReason.COMPLETED, 2.0, 1.0, Engine("ai-edge-litert", "2.3.0", "xnnpack"),
            tuple(phases), tensors, 400, 2.5,  # type: ignore[arg-type]
        )  # fmt: skip
        assert len(serialise_report(report)) == pytest.approx(report_bytes(bits, coordinates), rel=0.12, abs=250)


def test_the_table_has_every_width_that_a_planner_may_choose() -> None:
    halves = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
    assert {codec: [*table] for codec, table in ERROR.items()} == {
        "uniform_stochastic": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        "qsgd": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        "entropy_coded": halves,
        "eden": halves,
    }
    for table in ERROR.values():
        assert [*table.values()] == sorted(table.values(), reverse=True), "more bits, less error"


def test_a_byte_has_eight_bits_and_the_last_one_is_whole() -> None:
    rest = report_bytes(0, 0)
    assert [report_bytes(bits, count) - rest for bits, count in ((4, 8000), (1, 8), (1, 9), (2.5, 8))] == [
        4000,
        1,
        2,
        3,
    ]
