"""Examples against those that a bundle was calibrated on: alike, unlike, or such that a head could only guess."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from protos.datafiles.stored import StoredRows
from protos.errors import DataError
from protos.model.backbone import quantise
from protos.model.head_algebra import head_shapes
from protos.model.manifest import (
    BackboneSpec,
    FileRecord,
    HeadSpec,
    Manifest,
    Preprocessing,
    TensorSpec,
)
from protos.model.resemblance import (
    RECORD,
    compared,
    held_against,
    places_looked_at,
    record_of_inputs,
    recorded,
    sample,
)

SPEC = BackboneSpec("b.tflite", (12, 12, 3), "int8", 1 / 255, -128, 4, "int8", 0.1, 0)
UNIT = Preprocessing(1 / 255, 0.0)


def pictures(count: int = 100, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Grey pictures with a bright corner, uint8 [count, 12, 12, 3]."""
    rng = np.random.default_rng(seed)
    x = rng.integers(10, 120, (count, 12, 12, 3))
    x[:, :6, :6] += 110
    return x.astype(np.uint8)


def manifest(calibrated_on: npt.NDArray[np.uint8] | None) -> Manifest:
    record = None if calibrated_on is None else record_of_inputs(calibrated_on, SPEC, UNIT)
    tensors = tuple(TensorSpec(name, shape) for name, shape in head_shapes(4, 2).items())
    made = Manifest(
        name="m",
        classes=("a", "b"),
        preprocessing=UNIT,
        backbone=SPEC,
        head=HeadSpec("h.tflite", "i.npz", 32, None, "cross_entropy", "sgd", tensors, ()),
        files={name: FileRecord("0" * 64, 1) for name in ("b.tflite", "h.tflite", "i.npz")},
        provenance={} if record is None else {RECORD: dataclasses.asdict(record)},
    )
    return Manifest.from_json(made.to_json())


def test_the_record_survives_the_manifest() -> None:
    found = recorded(manifest(pictures()).provenance)
    assert found == record_of_inputs(pictures(), SPEC, UNIT)
    assert found is not None
    assert len(found.mean) == 3
    assert found.levels == len(np.unique(pictures()))
    json.dumps(dataclasses.asdict(found))


def test_examples_of_the_same_kind_are_alike() -> None:
    known = manifest(pictures())
    assert held_against(known, pictures(seed=1), where="own.npz") is None
    assert held_against(known, pictures(seed=1).astype(np.float32), where="own.npz") is None
    assert held_against(known, pictures(9, seed=2), where="own.npz") is None


@pytest.mark.parametrize(
    ("values", "raw"),
    [
        (pictures(seed=1) / np.float32(255), "0.03922 to 0.898"),
        (pictures(seed=1) / np.float32(127.5) - np.float32(1), "-0.9216 to 0.7961"),
        (pictures(seed=1).astype(np.float32) * 257, "2570 to 5.885e+04"),
        (np.full((50, 12, 12, 3), 127, np.uint8), "127 to 127"),
    ],
    ids=["unit", "symmetric", "sixteen bits", "constant"],
)
def test_values_of_another_scale_are_refused_with_both_figures(values: npt.NDArray[np.float32], raw: str) -> None:
    with pytest.raises(DataError) as caught:
        held_against(manifest(pictures()), values, where="own.npz")
    line = str(caught.value)
    assert line.startswith("own.npz: these examples are not like those of the bundle, and its head would guess")
    assert raw in line
    assert "calibrated on 10 to 229" in line
    assert "--preprocess" in line


def test_values_that_only_differ_are_one_warning_with_both_figures() -> None:
    dark = (pictures(seed=1) // 4).astype(np.uint8)
    warning = held_against(manifest(pictures()), dark, where="own.npz")
    assert warning is not None
    assert "deviations away" in warning or "times as wide" in warning
    assert "raw values are 2 to 57" in warning
    assert "calibrated on 10 to 229" in warning
    black_and_white = np.where(pictures(seed=1) > 120, 255, 0).astype(np.uint8)
    warning = held_against(manifest(pictures()), black_and_white, where="own.npz")
    assert warning is not None


def test_a_bundle_without_a_record_and_a_handful_of_examples_are_let_pass() -> None:
    assert held_against(manifest(None), pictures() / np.float32(255), where="own.npz") is None
    assert held_against(manifest(pictures()), pictures(7) / np.float32(255), where="own.npz") is None


def test_a_sample_is_spread_over_all_examples() -> None:
    rows = np.arange(10_000).reshape(-1, 1)
    taken = sample(rows)
    assert len(taken) == 256
    assert taken.min() == 0
    assert taken.max() == 9999
    assert len(sample(rows[:100])) == 100


def test_examples_are_looked_at_in_little_memory_whatever_their_size() -> None:
    wide = dataclasses.replace(SPEC, input_shape=(224, 224, 3))
    many = np.random.default_rng(0).integers(0, 256, (300, 224, 224, 3), np.uint8)
    known = record_of_inputs(many[:10], wide, UNIT)
    asked: list[int] = []

    class Read(StoredRows):
        def __getitem__(self, block: slice) -> npt.NDArray[np.uint8]:
            asked.extend(range(*block.indices(len(many))))
            return many[block]

    class Source:
        mapped, where, count, row_shape, dtype = None, "many", len(many), many.shape[1:], many.dtype

        def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
            return many[rows]

    rows = Read(Source(), np.arange(len(many)))
    tracemalloc.start()
    try:
        assert compared(known, wide, UNIT, rows, where="own") is None
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One example in float64 and what quantising makes of it; all 256 of them would be 308 MB.
    assert peak_bytes < 16 * 2**20
    assert asked == places_looked_at(rows).tolist()
    assert 90 <= len(asked) <= 16 * 2**20 // many[0].nbytes


def test_of_large_examples_no_two_are_taken_for_all() -> None:
    """Two pictures of 8 MB are 16 MB; if they are of a dark night and the others are not, nothing is refused."""
    large = dataclasses.replace(SPEC, input_shape=(836, 836, 3))
    many = np.random.default_rng(0).integers(0, 256, (9, 836, 836, 3), np.uint8).astype(np.float32)
    known = record_of_inputs(many[1:8], large, UNIT)
    many[[0, 8]] = 20.0
    assert len(places_looked_at(many)) == 8
    assert compared(known, large, UNIT, many, where="own") is None


def test_the_record_is_that_of_all_values_at_once() -> None:
    raw = np.random.default_rng(1).integers(0, 256, (40, 12, 12, 3)).astype(np.uint8)
    found = record_of_inputs(raw, SPEC, UNIT)
    codes = quantise(raw, SPEC, UNIT).astype(np.float64).reshape(-1, 3)
    assert found.mean == pytest.approx(codes.mean(axis=0), rel=1e-5)
    assert found.deviation == pytest.approx(codes.std(axis=0), rel=1e-5)
    assert found.raw_mean == pytest.approx(raw.mean(), rel=1e-5)
    assert found.low_share == pytest.approx((codes == -128).mean(), rel=1e-5)
    assert (found.examples, found.levels) == (40, len(np.unique(codes)))
