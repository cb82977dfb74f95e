"""What is kept of reports that came in part: how much of it, for whom, for how long, and after a restart."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from coordinator.run.workers import Worker
from coordinator.server.services import unfinished as rules
from coordinator.server.services.unfinished import OutOfStepError, Unfinished, Uploads
from protos.convert.uploads import UploadKey
from protos.errors import IntegrityError, StoreError


def key(device: str = "a", round: int = 1, data: bytes = b"0123456789") -> UploadKey:
    return UploadKey(device, "run", round, len(data), hashlib.sha256(data).digest())


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def brought(kept: Unfinished, name: UploadKey, data: bytes) -> None:
    call = kept.begin(name, kept.held_bytes(name))
    kept.add(name, call, data)
    kept.end(name, call)


def test_what_came_is_there_after_a_restart_and_the_rest_makes_it_whole(tmp_path: Path) -> None:
    name = key()
    brought(Unfinished(tmp_path / "uploads"), name, b"0123")
    kept = Unfinished(tmp_path / "uploads")
    assert (kept.held_bytes(name), kept.size_bytes) == (4, 4)
    call = kept.begin(name, 4)
    with pytest.raises(IntegrityError, match="4 of 10 bytes"):
        kept.whole(name, call)
    kept.add(name, call, b"456789")
    assert kept.whole(name, call) == b"0123456789"
    assert kept.held_bytes(key("b")) == 0, "another device's report of the same bytes is another"


def test_files_that_are_none_of_ours_or_damaged_are_deleted_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    brought(Unfinished(folder), key(), b"0123")
    (file,) = folder.iterdir()
    good = file.read_bytes()
    for bad in (b"", b"\0" * 5000, b"{}\nxx", b"[1]\n", good + b"far too many", good[:20], b"\xff\xfe\n"):
        file.write_bytes(bad)
        assert Unfinished(folder).parts == {}
        assert not file.exists()
    (folder / "notes.txt").write_text("not ours")
    assert Unfinished(folder).parts == {}
    assert (folder / "notes.txt").exists()


def test_a_hash_that_is_wrong_lets_go_of_all_of_it(tmp_path: Path) -> None:
    kept, name = Unfinished(tmp_path), key()
    call = kept.begin(name, 0)
    kept.add(name, call, b"0123456780")
    with pytest.raises(IntegrityError, match="not the declared ones"):
        kept.whole(name, call)
    assert kept.held_bytes(name) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutOfStepError):
        kept.add(name, call, b"x")


def test_a_device_has_so_many_and_the_oldest_goes(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, clock=Clock())
    brought(kept, key("other"), b"01")
    for round in range(1, rules.MOST_OF_DEVICE + 3):
        brought(kept, key(round=round), b"01")
    own = sorted(name.round for name in kept.parts if name.device_id == "a")
    assert own == list(range(3, rules.MOST_OF_DEVICE + 3))
    assert kept.held_bytes(key("other")) == 2
    assert len(list(tmp_path.iterdir())) == rules.MOST_OF_DEVICE + 1


def test_a_device_has_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_BYTES_OF_DEVICE", 25)
    kept = Unfinished(tmp_path, clock=Clock())
    for round in (1, 2, 3):
        brought(kept, key(round=round), b"01")
    assert sorted(name.round for name in kept.parts) == [2, 3]
    huge = key(round=4, data=b"x" * 60)
    brought(kept, huge, b"x")
    assert list(kept.parts) == [huge], "alone, one may have more"


def test_all_together_have_so_many_bytes_and_who_is_being_written_stays(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, clock=Clock(), most_bytes=20)
    brought(kept, key("a"), b"01234567")
    writes = kept.begin(key("b"), 0)
    kept.add(key("b"), writes, b"01234567")
    more = kept.begin(key("c"), 0)
    kept.add(key("c"), more, b"01234567")
    assert [name.device_id for name in kept.parts] == ["b", "c"]
    with pytest.raises(StoreError, match="have 20 bytes already"):
        kept.add(key("c"), more, b"89xxx")
    assert kept.held_bytes(key("c")) == 8
    kept.end(key("b"), writes)
    kept.add(key("c"), more, b"89")
    assert kept.size_bytes <= 20


def test_a_disk_that_takes_nothing_is_said_and_what_was_there_stays(tmp_path: Path) -> None:
    kept, name = Unfinished(tmp_path / "uploads"), key()
    call = kept.begin(name, 0)
    kept.add(name, call, b"0123")
    file = kept.parts[name].path
    held = file.read_bytes()
    file.unlink()
    file.mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        kept.add(name, call, b"4567")
    assert kept.held_bytes(name) == 4
    file.rmdir()
    file.write_bytes(held)
    kept.add(name, call, b"456789")
    assert kept.whole(name, call) == b"0123456789"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        Unfinished(tmp_path / "file" / "uploads").begin(name, 0)


def test_what_no_round_waits_for_goes_and_what_one_waits_for_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = Worker("uploads")
    kept = Unfinished(tmp_path)
    for device in ("open", "closed"):
        brought(kept, key(device), b"01")

    async def wanted(run_id: str, round: int, device_id: str) -> bool:
        return device_id == "open"

    async def play() -> None:
        uploads = Uploads(kept, thread)
        await uploads.sweep(wanted)
        assert len(kept.parts) == 2, "untouched for long first"
        monkeypatch.setattr(rules, "UNWANTED_S", -1.0)
        await uploads.sweep(wanted)
        assert [name.device_id for name in kept.parts] == ["open"]
        monkeypatch.setattr(rules, "LONGEST_S", -1.0)
        await uploads.sweep(wanted)
        assert kept.parts == {}

    try:
        asyncio.run(play())
    finally:
        thread.close()
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_is_cancelled_leaves_what_it_brought(tmp_path: Path) -> None:
    thread, kept, name = Worker("uploads"), Unfinished(tmp_path), key()

    async def play() -> None:
        uploads, in_it = Uploads(kept, thread), asyncio.Event()

        async def call() -> None:
            async with uploads.taking(name, 0) as taking:
                await taking.add(b"0123")
                in_it.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(call())
        await in_it.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await uploads.held_bytes(name) == 4
        assert kept.parts[name].call == 0

    try:
        asyncio.run(play())
    finally:
        thread.close()
    thread.soon(kept.drop, name)
    assert kept.held_bytes(name) == 4, "a thread that is closed does nothing more"


def test_what_is_counted_is_what_lies_there_whatever_comes_and_goes(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, clock=Clock(), most_bytes=40)

    def there() -> int:
        return sum(path.stat().st_size - part.begin for part in kept.parts.values() for path in [part.path])

    for number in range(12):
        name = key(f"d-{number % 5}", round=number, data=bytes(range(10)))
        brought(kept, name, bytes(range(4 + number % 6)))
        assert kept.size_bytes == there() <= 40
        assert Unfinished(tmp_path, most_bytes=40).size_bytes == kept.size_bytes
    again = key("d-1", round=11, data=bytes(range(10)))
    kept.begin(again, 0)
    assert kept.size_bytes == there(), "what is begun anew counts once"
    for name in list(kept.parts):
        kept.drop(name)
        kept.drop(name)
    assert kept.size_bytes == 0
