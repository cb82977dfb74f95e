"""The bridge's clock on the host's: how near, how fast it drifts, and where a marker's edge falls."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.power.events import Edge
from hw_tests.bench.bench import Disturbed

pytestmark = pytest.mark.needs("ina219-bridge")


def test_the_clocks_are_compared_well_enough(bench, meter, clock, measure):
    live = meter()
    begun = bench.disturbances()
    clock.sleep(bench.duration_s("clock_s"))
    if bench.disturbances() != begun:
        raise Disturbed("this computer was too slow to keep a clock")
    with live.sensor.lock:
        fit = live.sensor.track.alignment.fit
    measure("exchanges in the fit", fit.exchanges, "1", limit=(3, None))
    measure("limit of an instant", fit.limit_s, "s", limit=bench.tolerance("clock_limit_s"))
    # Where the crystal's error is known, it is what the fit must find.
    true_ppm = bench.environment.section("simulation")["crystal_ppm"] if bench.simulated else 0.0
    allowed = bench.tolerance("clock_drift_ppm")
    limit = (true_ppm - allowed, true_ppm + allowed)
    measure("drift", fit.drift_ppm, "ppm", limit=limit, uncertainty=2 * fit.rate_error * 1e6)


@pytest.mark.needs("marker")
def test_an_edge_of_the_marker_falls_where_it_was(bench, meter, clock, measure):
    live = meter()
    edges = []
    live.sensor.subscribe(lambda event: edges.append(event.marker) if isinstance(event, Edge) else None)
    clock.sleep(bench.duration_s("clock_s") / 2)
    begun = bench.disturbances()
    true_s = []
    for level in (1, 0, 1, 0):
        true_s.append(bench.marker(level))
        clock.sleep(0.2)
    clock.until(lambda: len(edges) >= len(true_s), "each edge")
    if bench.disturbances() != begun:
        raise Disturbed("this computer was too slow to keep a clock")
    with live.sensor.lock:
        fit = live.sensor.track.alignment.fit
    heard_s = fit.host_s(np.array([edge.tick for edge in edges], np.int64))
    assert [edge.level for edge in edges] == [1, 0, 1, 0]
    worst_s = float(np.max(np.abs(heard_s - np.array(true_s))))
    # No uncertainty: a simulated machine that catches up hears bytes before they were sent, by its lag.
    measure("worst edge", worst_s, "s", limit=bench.tolerance("mark_s"))
