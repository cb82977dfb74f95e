"""Bundles that come from elsewhere: nothing is used before it is whole, the ordered one, and harmless."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.daemon import bundle_cache as shelf_room
from edge_runtime.daemon.bundle_cache import BundleCache
from edge_runtime.daemon.file_downloads import MAX_FILES
from edge_runtime.daemon.link import _write_files
from edge_runtime.state import by_use
from protos.errors import EdgejouleError, IntegrityError, ModelError
from protos.model.bundle import Bundle, record_of
from protos.model.engine import engine_identity
from protos.model.manifest import MANIFEST_FILE, Manifest
from protos.v1 import edgejoule_pb2 as pb


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    return tmp_path


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that were really tried in a child."""
    tried: list[Path] = []
    real = shelf_room.try_in_subprocess

    def counting(*paths: Path) -> None:
        end = len(paths)
        try:
            real(*paths)
        except ModelError as error:
            # Those behind the one that failed were not tried.
            end = [path.name for path in paths].index(str(error.where)) + 1
            raise
        finally:
            tried.extend(paths[:end])

    monkeypatch.setattr(shelf_room, "try_in_subprocess", counting)
    return tried


def opened(state: Path) -> BundleCache:
    return BundleCache(state, engine_identity())


def copy_to(bundle: Path) -> Any:
    return lambda folder: shutil.copytree(bundle, folder, dirs_exist_ok=True)


def test_a_fetched_bundle_is_kept_tried_once_and_found_after_a_restart(
    state: Path, bundle: Bundle, trials: list[Path]
) -> None:
    kept = opened(state).fetch(bundle.bundle_id, copy_to(bundle.path))
    assert kept.path.parent == state / "bundles"
    assert len(trials) == 2
    again = opened(state)
    found = again.find(bundle.bundle_id)
    assert found is not None
    assert found.bundle_id == bundle.bundle_id
    assert again.newest() is found
    assert len(trials) == 2


def test_a_kept_bundle_that_was_damaged_on_disk_is_deleted(state: Path, bundle: Bundle) -> None:
    kept = opened(state).fetch(bundle.bundle_id, copy_to(bundle.path))
    kept.head_path.write_bytes(kept.head_path.read_bytes()[:-1])
    assert opened(state).find(bundle.bundle_id) is None
    assert not kept.path.exists()


def test_another_bundle_than_the_ordered_one_is_not_kept(state: Path, bundle: Bundle) -> None:
    with pytest.raises(IntegrityError, match="ordered was"):
        opened(state).fetch("sha256:" + "0" * 64, copy_to(bundle.path))
    assert list((state / "bundles").iterdir()) == []


@pytest.mark.parametrize("name", ["sha256:../../etc", "sha256:" + "g" * 64, "", "x" * 64])
def test_an_identity_is_never_a_path(state: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="no identity"):
        opened(state).find(name)


def test_a_model_that_does_not_run_is_refused_although_its_hash_is_right(
    state: Path, bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(bundle.path, folder)
    content = bytearray((folder / bundle.manifest.backbone.file).read_bytes())
    content[40:400] = bytes(360)
    (folder / bundle.manifest.backbone.file).write_bytes(content)
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    record = record_of(folder / bundle.manifest.backbone.file)
    fields["files"][bundle.manifest.backbone.file] = {"sha256": record.sha256, "size_bytes": record.size_bytes}
    manifest = Manifest.from_json(json.dumps(fields))
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    with pytest.raises(ModelError):
        opened(state).fetch(manifest.bundle_id, copy_to(folder))
    assert list((state / "bundles").iterdir()) == []
    assert not (state / "tried.json").exists()


def test_a_model_that_was_bad_is_marked_and_neither_fetched_nor_tried_again(
    state: Path, bundle: Bundle, tmp_path: Path, trials: list[Path]
) -> None:
    good = opened(state).fetch(bundle.bundle_id, copy_to(bundle.path))
    folder, before = tmp_path / "hostile", len(trials)
    shutil.copytree(bundle.path, folder)
    manifest = custom_operator(folder)
    with pytest.raises(ModelError, match="has the operator custom:NoSuchThing"):
        opened(state).fetch(manifest.bundle_id, copy_to(folder))
    assert len(trials) == before + 1
    with pytest.raises(ModelError, match="it was tried here before"):
        opened(state).fetch(manifest.bundle_id, lambda folder: pytest.fail("it was fetched again"))
    assert len(trials) == before + 1
    found = opened(state).find(bundle.bundle_id)
    assert found is not None, "the last good one stays"
    assert found.path == good.path


def custom_operator(folder: Path) -> Manifest:
    """Make the first operator of the backbone one that nobody has, with the right hash of it."""
    from ai_edge_litert import schema_py_generated as schema

    from protos.model.flatbuffer import pack
    from protos.model.flatbuffer import parse as parse_model

    fields = json.loads((folder / MANIFEST_FILE).read_text())
    name = fields["backbone"]["file"]
    model = parse_model((folder / name).read_bytes())
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "NoSuchThing"
    (folder / name).write_bytes(pack(model))
    record = record_of(folder / name)
    fields["files"][name] = {"sha256": record.sha256, "size_bytes": record.size_bytes}
    manifest = Manifest.from_json(json.dumps(fields))
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return manifest


def parts(*files: tuple[str, bytes], size: int | None = None, digest: bytes | None = None) -> Iterator[Any]:
    for name, data in files:
        declared = pb.BundleFile(
            name=name,
            size_bytes=len(data) if size is None else size,
            sha256=hashlib.sha256(data).digest() if digest is None else digest,
        )
        yield pb.FetchBundleResponse(file=declared)
        yield pb.FetchBundleResponse(data=data[:2])
        yield pb.FetchBundleResponse(data=data[2:])


def test_files_arrive_as_they_were_sent(tmp_path: Path) -> None:
    _write_files(parts(("a.bin", b"12345"), ("b.bin", b"")), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"12345"
    assert (tmp_path / "b.bin").read_bytes() == b""


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", ".", "", "a\\b", "a\nb", "x" * 200])
def test_a_file_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    with pytest.raises(IntegrityError):
        _write_files(parts((name, b"12345")), inner)
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize(
    "sent",
    [
        parts(("a", b"12345"), size=4),
        parts(("a", b"12345"), size=6),
        parts(("a", b"12345"), digest=b"x" * 32),
        parts(("a", b"12345"), ("a", b"12345")),
        parts(*((f"file-{number}", b"12") for number in range(MAX_FILES + 1))),
        iter([pb.FetchBundleResponse(data=b"no file yet")]),
    ],
)
def test_more_less_or_other_bytes_than_declared_are_refused(tmp_path: Path, sent: Iterator[Any]) -> None:
    with pytest.raises(EdgejouleError):
        _write_files(sent, tmp_path)


def test_a_bundle_counts_as_used_when_it_was_fetched_whatever_the_clock_says(
    state: Path, bundle: Bundle, trials: list[Path]
) -> None:
    cache = opened(state)
    other = state / "bundles" / ("f" * 64)
    other.mkdir(parents=True)
    os.utime(other, (2e9, 2e9))
    kept = cache.fetch(bundle.bundle_id, copy_to(bundle.path))
    assert [path.name for path in by_use(state / "bundles")] == ["f" * 64, kept.path.name]
