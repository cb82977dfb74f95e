"""What a method gains is told against its control with the same seed: pruned models, models that teach each other."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.paper_methods import koala
from benchmarks.paper_methods.fl_pqsu import _model_rows


def _report(accuracy: float) -> dict[str, Any]:
    whole = {"parameters": 100, "macs": 1000, "int8_bytes": 90, "accuracy": 0.75, "accuracy_refitted": 0.79}
    return {
        "before": whole | {"latency_share": 1.0},
        "after": {"parameters": 60, "macs": 500, "int8_bytes": 50, "latency_share": 0.6, "accuracy": accuracy},
    }


def test_points_over_the_whole_model_are_those_of_each_pruning() -> None:
    rows = _model_rows({"pruned, l1": [_report(0.74), _report(0.76)]}, "macs=0.5")
    found = {(row.method, row.quantity): row for row in rows}
    assert {row.setting for row in rows} == {"one model, macs=0.5"}
    points = found["pruned, l1", "points over whole"]
    assert points.mean == pytest.approx(0.0, abs=1e-9)
    # Student's t of one degree of freedom, 12.706, times the standard error of -1 and 1, which is 1.
    assert points.ci95 == pytest.approx(12.706, rel=1e-3)
    assert points.seeds == 2
    assert found["pruned, l1", "points over whole, fitted"].mean == pytest.approx(-4.0)
    assert found["pruned, l1", "latency_share"].mean == pytest.approx(0.6)
    assert ("whole", "points over whole") not in found


def test_what_only_some_of_the_prunings_have_is_left_out() -> None:
    old = _report(0.74)
    del old["after"]["latency_share"]
    rows = _model_rows({"pruned, l1": [old, _report(0.76)]}, "macs=0.5")
    assert ("pruned, l1", "latency_share") not in {(row.method, row.quantity) for row in rows}


def test_models_that_teach_each_other_are_compared_with_those_that_had_the_same_devices_and_passes() -> None:
    found = {
        ("pre-trained alone", "large, accuracy"): 0.5,
        ("fedavg, plain", "plain, accuracy"): 0.70,
        (koala.HALF, "plain, accuracy"): 0.60,
        (koala.SELF_TAUGHT, "large, accuracy"): 0.55,
        (koala.BY_LABELS, "large, accuracy"): 0.80,
        ("koala, homogeneous", "plain, accuracy"): 0.71,
        ("koala, homogeneous", "large, accuracy"): 0.56,
        (koala.CLOSED, "plain, accuracy"): 0.66,
        (koala.WITH_LABELS, "large, accuracy"): 0.79,
        (koala.WITH_LABELS, "J, WiFi"): 3.0,
    }
    points = koala._points(found)
    assert {key: round(value, 6) for key, value in points.items()} == {
        ("koala, homogeneous", "plain, points over fedavg, plain"): 1.0,
        ("koala, homogeneous", f"large, points over {koala.SELF_TAUGHT}"): 1.0,
        (koala.CLOSED, f"plain, points over {koala.HALF}"): 6.0,
        (koala.WITH_LABELS, f"large, points over {koala.BY_LABELS}"): -1.0,
    }
