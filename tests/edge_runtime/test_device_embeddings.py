"""The cache of embeddings: resumed where it stopped, made again when it is not what was recorded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.round.inputs.embeddings import EmbeddingCache, dequantise
from edge_runtime.round.inputs.examples import LocalExamples
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.orders import StopReason

COUNT = 21
RAW = np.arange(COUNT, dtype=np.uint8)


class Recorder:
    """An embedding that can be told from any other: example number times the place, modulo 127."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.seen: list[int] = []

    def __call__(self, raw: Any) -> Any:
        self.seen += raw.tolist()
        return self.expected(raw)

    def expected(self, raw: Any = RAW) -> Any:
        return (raw[:, None].astype(np.int64) * np.arange(1, self.width + 1) % 127).astype(np.int8)


@pytest.fixture
def embed(bundle: Bundle) -> Recorder:
    return Recorder(bundle.manifest.backbone.embedding_width)


def opened(root: Path, bundle: Bundle, fingerprint: str = "data", count: int = COUNT, engine: str = "x") -> Any:
    return EmbeddingCache(root, bundle, fingerprint, count, engine)


def fill(cache: EmbeddingCache, embed: Recorder, blocks: int = 99) -> tuple[int, StopReason | None]:
    asked = iter(range(blocks))
    return cache.fill(
        embed,
        RAW,
        allowed=lambda wanted: wanted if next(asked, None) is not None else StopReason.BUDGET,
        now_s=lambda: 0.0,
    )


def test_a_cut_in_the_middle_is_taken_up_where_it_stopped(tmp_path: Path, bundle: Bundle, embed: Recorder) -> None:
    assert fill(opened(tmp_path, bundle), embed, blocks=1) == (8, StopReason.BUDGET)
    again = opened(tmp_path, bundle)
    assert (again.rows, again.complete) == (8, False)
    assert fill(again, embed) == (13, None)
    assert embed.seen == list(range(COUNT))
    third = opened(tmp_path, bundle)
    assert third.complete
    np.testing.assert_array_equal(third.view(), embed.expected())


def test_how_many_embeddings_came_from_earlier_data_is_said_and_a_resumed_fill_took_none(
    tmp_path: Path, bundle: Bundle, embed: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgejoule.device")
    fill(opened(tmp_path / "alone", bundle), embed, blocks=1)
    fill(opened(tmp_path / "alone", bundle), embed)
    assert "earlier data" not in caplog.text
    # The same examples in two folders: the one takes what the other has, then the other its rest from the one.
    assert fill(opened(tmp_path, bundle, "one"), embed, blocks=1) == (8, StopReason.BUDGET)
    assert fill(opened(tmp_path, bundle, "other"), embed) == (13, None)
    assert fill(opened(tmp_path, bundle, "one"), embed) == (0, None)
    said = [record.getMessage() for record in caplog.records if "earlier data" in record.getMessage()]
    assert said == [f"{count} embeddings were taken from earlier data" for count in (8, 13)]


def test_the_finished_file_is_an_ordinary_npy_file(tmp_path: Path, bundle: Bundle, embed: Recorder) -> None:
    cache = opened(tmp_path, bundle)
    fill(cache, embed)
    np.testing.assert_array_equal(np.load(cache.folder / "embeddings.npy"), embed.expected())


def test_what_was_embedded_before_an_error_is_kept(tmp_path: Path, bundle: Bundle, embed: Recorder) -> None:
    def failing(raw: Any) -> Any:
        if raw[0] >= 16:
            raise RuntimeError("the delegate is gone")
        return embed(raw)

    with pytest.raises(RuntimeError):
        opened(tmp_path, bundle).fill(failing, RAW, allowed=lambda wanted: wanted, now_s=lambda: 0.0)
    assert opened(tmp_path, bundle).rows == 16


def test_own_data_larger_than_memory_allows_are_embedded_a_few_at_a_time(tmp_path: Path, bundle: Bundle) -> None:
    count, width = 150_000, bundle.manifest.backbone.embedding_width
    path = tmp_path / "large.npz"
    # Levels as the bundle was calibrated on: data of another kind would be refused.
    levels = np.round(np.linspace(0, 209**0.5, 64) ** 2).astype(np.float32)
    x, is_test = np.tile(levels, count).reshape(count, 8, 8, 1), np.arange(count) % 3 == 1
    np.savez(path, x=x, y=np.zeros(count, np.int32), is_test=is_test)
    file_bytes = x.nbytes
    del x
    (tmp_path / "examples").mkdir()
    tracemalloc.start()
    try:
        examples = LocalExamples(str(path), None, tmp_path / "examples")
        summary = examples.summary(bundle)
        raw = examples.raw(bundle, summary)
        cache = opened(tmp_path, bundle, summary.fingerprint, summary.train_count)
        asked = iter(range(500))
        done, _ = cache.fill(
            lambda block: np.zeros((len(block), width), np.int8),
            raw,
            allowed=lambda wanted: wanted if next(asked, None) is not None else StopReason.BUDGET,
            now_s=lambda: 0.0,
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (summary.train_count, done) == (100_000, 4000)
    assert peak_bytes < file_bytes / 2


def test_rows_after_the_last_record_are_dropped(tmp_path: Path, bundle: Bundle, embed: Recorder) -> None:
    cache = opened(tmp_path, bundle)
    fill(cache, embed, blocks=1)
    with (cache.folder / "embeddings.npy").open("ab") as file:
        file.write(b"half a row")
    again = opened(tmp_path, bundle)
    fill(again, embed)
    np.testing.assert_array_equal(again.view(), embed.expected())


@pytest.mark.parametrize("damage", ["flip", "truncate", "record", "header", "other record"])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, bundle: Bundle, embed: Recorder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(tmp_path, bundle)
    fill(cache, embed)
    path, record = cache.folder / "embeddings.npy", cache.folder / "progress.json"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    elif damage == "truncate":
        del content[-1]
    elif damage == "header":
        content[20] ^= 1
    elif damage == "record":
        record.write_text("{")
    else:
        record.write_text(record.read_text().replace('"examples": "data"', '"examples": "other"'))
    path.write_bytes(content)
    again = opened(tmp_path, bundle)
    assert again.rows == 0
    fill(again, embed)
    np.testing.assert_array_equal(again.view(), embed.expected())
    assert embed.seen == [*range(COUNT), *range(COUNT)]


def test_other_data_another_count_or_engine_has_a_cache_of_its_own(
    tmp_path: Path, bundle: Bundle, embed: Recorder
) -> None:
    fill(opened(tmp_path, bundle), embed)
    assert opened(tmp_path, bundle, fingerprint="other").rows == 0
    assert opened(tmp_path, bundle, count=COUNT - 1).rows == 0
    assert opened(tmp_path, bundle, engine="y").rows == 0
    assert opened(tmp_path, bundle).complete


def test_old_caches_are_deleted(tmp_path: Path, bundle: Bundle) -> None:
    for number in range(9):
        opened(tmp_path, bundle, fingerprint=str(number))
    assert len(list(tmp_path.iterdir())) == 4


def test_dequantising_is_what_the_backbone_does(bundle: Bundle) -> None:
    quantised = np.arange(-128, 128).astype(np.int8).reshape(-1, 16)
    np.testing.assert_array_equal(
        dequantise(quantised, bundle.manifest.backbone), Backbone(bundle).dequantise(quantised)
    )


def test_data_that_grew_and_were_set_in_another_order_cost_what_is_new(
    tmp_path: Path, bundle: Bundle, embed: Recorder
) -> None:
    fill(opened(tmp_path, bundle), embed)
    embed.seen.clear()
    raw = np.concatenate([[100], RAW[::-1], [101, 102]]).astype(np.uint8)
    grown = opened(tmp_path, bundle, "grown", len(raw))
    done = grown.fill(embed, raw, allowed=lambda wanted: wanted, now_s=lambda: 0.0)
    assert (done, embed.seen) == ((3, None), [100, 101, 102])
    np.testing.assert_array_equal(grown.view(), embed.expected(raw))
    third = opened(tmp_path, bundle, "again", 2)
    done = third.fill(embed, raw[:2], allowed=lambda wanted: StopReason.BUDGET, now_s=lambda: 0.0)
    assert done == (0, None), "what is there needs no budget"
    np.testing.assert_array_equal(third.view(), embed.expected(raw[:2]))


@pytest.mark.parametrize("damage", ["flip", "keys", "no keys", "engine"])
def test_rows_that_are_not_surely_those_of_an_example_are_not_taken(
    tmp_path: Path, bundle: Bundle, embed: Recorder, damage: str
) -> None:
    first = opened(tmp_path, bundle)
    fill(first, embed)
    data, keys = first.folder / "embeddings.npy", first.folder / "keys.bin"
    if damage == "flip":
        content = bytearray(data.read_bytes())
        content[-5] ^= 1
        data.write_bytes(content)
    elif damage == "keys":
        keys.write_bytes(bytes(byte ^ 1 for byte in keys.read_bytes()))
    elif damage == "no keys":
        keys.unlink()
        opened(tmp_path, bundle)
        assert keys.read_bytes() == bytes(16 * COUNT)
    embed.seen.clear()
    other = opened(tmp_path, bundle, "other", engine="y" if damage == "engine" else "x")
    fill(other, embed)
    assert embed.seen == list(range(COUNT))
    np.testing.assert_array_equal(other.view(), embed.expected())
