"""Bundles whose way down is cut: what came is not sent again, and is checked with the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.operator.client import Operator
from edge_runtime.daemon.bundle_cache import BundleCache
from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.stopping import Interrupted, Stopping
from protos.errors import IntegrityError, StoreError
from protos.model.bundle import open_bundle
from protos.model.engine import engine_identity
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


@pytest.fixture
def offered(address: str, tools: Any, tmp_path: Path) -> tuple[Path, str]:
    """A bundle of a run, a megabyte; and its id."""
    bundle = tools.bundle(tmp_path / "large", width=2048, classes=128)
    with Operator(address) as operator:
        operator.start_run(tools.plan(bundle, devices=1), tmp_path)
    return bundle, open_bundle(bundle).bundle_id


@pytest.fixture
def link(address: str) -> Iterator[Link]:
    made = Link(address, Stopping())
    yield made
    made.close()


def sent_bytes(link: Link, bundle_id: str, folder: Path) -> int:
    """How many bytes of files a fetch with what is in the folder brings."""
    held = {path.name: path.stat().st_size for path in folder.iterdir()}
    parts = link._stub.FetchBundle(pb.FetchBundleRequest(bundle_id=bundle_id, held_bytes=held), timeout=60)
    return sum(len(part.data) for part in parts)


def test_what_came_of_a_bundle_is_not_sent_again(
    offered: tuple[Path, str], link: Link, fleet: Fleet, address: str, tools: Any, tmp_path: Path
) -> None:
    _, bundle_id = offered
    folder = tmp_path / "comes"
    folder.mkdir()
    tools.until(lambda: _there(link, bundle_id), "the bundle")
    whole = sent_bytes(link, bundle_id, folder)
    link.fetch_bundle(bundle_id, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert whole == sum(map(len, files.values())) > 1 << 20
    # A call that broke in the largest, with what is before it whole.
    broken = folder / "initial.npz"
    broken.write_bytes(files["initial.npz"][:600_000])
    assert sent_bytes(link, bundle_id, folder) == len(files["initial.npz"]) - 600_000
    link.fetch_bundle(bundle_id, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    # More than all of it, as where another file lay there.
    broken.write_bytes(files["initial.npz"] + b"more")
    link.fetch_bundle(bundle_id, folder)
    assert broken.read_bytes() == files["initial.npz"]
    # What lay there is not what the file begins with.
    broken.write_bytes(bytes([files["initial.npz"][0] ^ 1]) + files["initial.npz"][1:600_000])
    with pytest.raises(IntegrityError, match="arrived damaged"):
        link.fetch_bundle(bundle_id, folder)


def _there(link: Link, bundle_id: str) -> bool:
    try:
        next(iter(link._stub.FetchBundle(pb.FetchBundleRequest(bundle_id=bundle_id), timeout=60)))
    except Exception:
        return False
    return True


def test_what_came_stays_for_the_next_call_where_nobody_answered_and_only_then(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "bundles").mkdir(parents=True)
    cache, bundle_id = BundleCache(state, engine_identity()), "sha256:" + "a" * 64

    def brings(error: Exception, begun: int) -> Callable[[Path], None]:
        def write_files(folder: Path) -> None:
            assert len(list(folder.iterdir())) == begun
            (folder / f"file {begun}").write_bytes(b"half")
            raise error

        return write_files

    with pytest.raises(Away):
        cache.fetch(bundle_id, brings(Away("does not answer"), 0))
    with pytest.raises(Interrupted):
        cache.fetch(bundle_id, brings(Interrupted(), 1))
    again = BundleCache(state, engine_identity())
    assert again.newest() is None
    with pytest.raises(IntegrityError):
        again.fetch(bundle_id, brings(IntegrityError("arrived damaged"), 2))
    assert list((state / "bundles").iterdir()) == []
    with pytest.raises(Away):
        again.fetch(bundle_id, brings(Away("does not answer"), 0))
    # Another bundle takes the place, and one that finds no room leaves none.
    with pytest.raises(StoreError):
        again.fetch("sha256:" + "b" * 64, brings(StoreError("no space"), 0))
    assert list((state / "bundles").iterdir()) == []


def test_nobody_goes_on_with_what_is_not_here(tmp_path: Path) -> None:
    from edge_runtime.daemon.file_downloads import FileDownloads
    from protos.convert.received_files import ReceivedFiles

    digest = hashlib.sha256(b"0123456789").digest()
    (tmp_path / "short").write_bytes(b"0123")
    for name, from_byte in (("none", 4), ("short", 5), ("short", 11)):
        with FileDownloads(tmp_path) as files, pytest.raises(IntegrityError):
            files.begin(name, 10, digest, from_byte)
    with FileDownloads(tmp_path) as files:
        files.begin("short", 10, digest, 4)
        files.add(b"456789")
        files.finish()
    assert (tmp_path / "short").read_bytes() == b"0123456789"
    with pytest.raises(IntegrityError, match="not asked for"):
        ReceivedFiles(lambda name: np.zeros(0)).begin("x", 10, digest, 4)
