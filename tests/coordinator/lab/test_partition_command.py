"""`coordinator partition`: files, table, and nothing overwritten."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import coordinator.cli
from protos.datafiles import dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 40).astype(np.int32)
    np.savez(
        path,
        x=rng.integers(0, 255, (120, 8, 8, 1), np.uint8),
        y=y,
        device=np.tile(["ann", "ben", "cy", "di"], 30),
        is_test=np.arange(120) % 10 == 0,
        class_names=np.array(["cat", "dog", "cow"]),
    )
    return path


def call(*words: object) -> int:
    return coordinator.cli.main(["partition", *map(str, words)])


def test_shards_are_disjoint_whole_and_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    assert call(data, "--boards", 4, "--how", "dirichlet", "--alpha", 0.3, "--seed", 5, "-o", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "edgejoule.partition/1"
    assert json.loads((out / "partition.json").read_text()) == said
    assert [shard["file"] for shard in said["shards"]] == [f"device-{n}.npz" for n in range(1, 5)]
    assert sum(shard["examples"] for shard in said["shards"]) == 108
    assert said["held_out"]["examples"] == 12
    for shard in [*said["shards"], said["held_out"]]:
        raw = (out / shard["file"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == shard["sha256"]
        loaded = dataset.load(str(out / shard["file"]))
        assert len(loaded) == shard["examples"] == sum(shard["classes"].values())
        assert set(shard["classes"]) <= {"cat", "dog", "cow"}
    # The same arguments make the same files.
    again = tmp_path / "again"
    assert call(data, "--boards", 4, "--how", "dirichlet", "--alpha", 0.3, "--seed", 5, "-o", again) == 0
    for shard in said["shards"]:
        assert (again / shard["file"]).read_bytes() == (out / shard["file"]).read_bytes()


def test_owners_keep_their_examples_together(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    assert call(data, "--boards", 2, "-o", out, "--names", "pi-1,pi-2") == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["file", "examples", "cat", "dog", "cow"]
    owners = [set(np.load(out / f"pi-{n}.npz", allow_pickle=False)["device"].tolist()) for n in (1, 2)]
    assert len(owners[0]) == len(owners[1]) == 2
    assert not owners[0] & owners[1]


def test_nothing_is_overwritten_and_mistakes_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    out.mkdir()
    (out / "thesis.tex").touch()
    assert call(data, "--boards", 2, "-o", out) == 2
    assert list(out.iterdir()) == [out / "thesis.tex"]
    fresh = tmp_path / "fresh"
    assert call(data, "--boards", 5, "-o", fresh) == 11
    assert call(data, "--boards", 2, "--alpha", 1, "-o", fresh) == 2
    assert call(data, "--boards", 2, "--how", "dirichlet", "--alpha", -1, "-o", fresh) == 2
    assert call(data, "--boards", 2, "--names", "a,../b", "-o", fresh) == 2
    assert call(data, "--boards", 0, "-o", fresh) == 2
    assert call(tmp_path / "none.npz", "--boards", 2, "-o", fresh) == 13
    assert not fresh.exists()
    assert capsys.readouterr().err.count("\n") == 7
