"""Power in bins: the energy is that of the samples, and no burst is lost, whatever is joined."""

from __future__ import annotations

import numpy as np
import pytest

from protos.convert.watts import MAX_BINS, bins_from, bins_to
from protos.energy.attribution import integrate
from protos.energy.bins import BIN_S, PowerBins, binned, joined_bins
from protos.energy.trace import PowerTrace, SampleFlag
from protos.errors import UpdateError


def samples(seed: int, count: int = 4000) -> PowerTrace:
    """Samples of about a millisecond with gaps, and one burst of 90 W that a bin's mean would hide."""
    rng = np.random.default_rng(seed)
    edges = 100.0 + np.cumsum(rng.uniform(0.2e-3, 2e-3, count + 1))
    power_w = rng.uniform(1.0, 5.0, count)
    power_w[count // 2] = 90.0
    kept = rng.random(count) > 0.05
    kept[count // 2] = True
    kept[1000:1200] = False
    return PowerTrace.of(edges[:-1][kept], edges[1:][kept], power_w[kept])


@pytest.mark.parametrize("each", [1, 2, 7, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_energy_is_that_of_the_samples_and_the_burst_stays(seed: int, each: int) -> None:
    trace = samples(seed)
    first, last = int(trace.start_s[0] / BIN_S), int(trace.stop_s[-1] / BIN_S) + 1
    bins = joined_bins(binned(trace, first, last - first), each)
    energy_j, covered_s = integrate(trace, [first * BIN_S, last * BIN_S])
    assert bins.bin_s == pytest.approx(each * BIN_S)
    assert len(bins) == -(-(last - first) // each)
    assert float(bins.mean_w @ bins.covered_s) == pytest.approx(float(energy_j[0]), rel=1e-9)
    assert float(bins.covered_s.sum()) == pytest.approx(float(covered_s[0]), rel=1e-9)
    assert bins.high_w.max() == 90.0
    burst_s = trace.start_s[np.argmax(trace.power_w)]
    assert bins.high_w[int((burst_s - bins.first_s) / bins.bin_s)] == 90.0
    seen = bins.covered_s > 0
    assert (bins.low_w <= bins.mean_w).all()
    assert (bins.mean_w <= bins.high_w).all()
    assert (bins.low_w[seen] >= 1.0).all()
    assert each > 2 or not seen.all(), "the gap stays a gap"
    assert (bins.high_w[~seen] == 0).all()


def test_each_bin_has_the_least_and_largest_of_the_samples_that_touch_it() -> None:
    trace = samples(5)
    first = int(trace.start_s[0] / BIN_S) + 1
    bins = binned(trace, first, 60)
    for at in range(60):
        from_s, to_s = (first + at) * BIN_S, (first + at + 1) * BIN_S
        inside = (trace.stop_s > from_s + 1e-7) & (trace.start_s < to_s - 1e-7)
        expected = trace.power_w[inside]
        assert bins.high_w[at] == (expected.max() if len(expected) else 0.0)
        assert bins.low_w[at] == (expected.min() if len(expected) else 0.0)


def test_samples_that_say_nothing_of_the_board_cover_no_time() -> None:
    trace = PowerTrace.of([0.0, 0.01], [0.01, 0.02], [3.0, 40.0], [0, SampleFlag.BUS_LOW])
    bins = binned(trace, 0, 2)
    assert bins.covered_s.tolist() == pytest.approx([0.01, 0.0])
    assert (bins.mean_w[0], bins.high_w[0]) == (pytest.approx(3.0), 3.0)


def test_a_sample_that_is_longer_than_bins_is_in_each_of_them() -> None:
    bins = binned(PowerTrace.of([0.03], [0.11], [2.5]), 0, 6)
    assert bins.covered_s.tolist() == pytest.approx([0.0, 0.01, 0.02, 0.02, 0.02, 0.01])
    assert bins.mean_w.tolist() == pytest.approx([0.0, 2.5, 2.5, 2.5, 2.5, 2.5])


def test_bins_come_back_from_a_message() -> None:
    bins = binned(samples(1), 5001, 100)
    back = bins_from(bins_to(bins))
    assert (back.first_s, back.bin_s) == (bins.first_s, bins.bin_s)
    for name in ("mean_w", "low_w", "high_w", "covered_s"):
        np.testing.assert_allclose(getattr(back, name), getattr(bins, name), rtol=1e-6)
    assert len(bins_from(bins_to(PowerBins.none()))) == 0
    long = PowerBins(0.0, BIN_S, *(np.zeros(MAX_BINS + 1) for _ in range(4)))
    with pytest.raises(UpdateError, match="at most"):
        bins_from(bins_to(long))
