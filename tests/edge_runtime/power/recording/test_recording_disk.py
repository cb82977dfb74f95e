"""A disk that is full, a file that is there, a disk that is slow: the recording ends, measuring goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading

import pytest

from edge_runtime.measure.replayed_period import CUT, replay_periods
from edge_runtime.power.recording import writer
from edge_runtime.power.recording.entries import Note
from edge_runtime.power.recording.reader import Recording
from edge_runtime.power.recording.writer import BlockFile, Recorder
from edge_runtime.power.sensor import Capabilities
from protos.energy.uncertainty import ErrorModel
from protos.errors import DataError, StoreError

# Measures with files limited to so many bytes: the kernel's own EFBIG, as a full disk would be its ENOSPC.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from edge_runtime import cli
sys.exit(cli.main(sys.argv[2:]))
"""


class Talker:
    """A sensor that only tells, when told to."""

    capabilities = Capabilities(100.0, "host")

    def __init__(self, header) -> None:
        self.identity = header.identity
        self.tell = lambda event: None

    def errors(self) -> ErrorModel:
        return ErrorModel()

    def subscribe(self, listener):
        self.tell = listener
        return lambda: None


def test_a_file_that_may_not_grow_ends_the_recording_and_not_the_measurement(plug_in, tmp_path):
    bridge = plug_in(profile="transient", load="square:1.0,5.0,0.011")
    path = tmp_path / "run.ejr"
    words = ["measure", "--sensor", f"serial:{bridge.spec.link}", "--record", str(path), "--for", "5s", "--json"]
    ended = subprocess.run([sys.executable, "-c", LIMITED, "4000", *words], capture_output=True, text=True, timeout=60,
                           check=False)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures["energy_j"] == pytest.approx(3.0 * figures["covered_s"], rel=0.03)
    assert "recording-incomplete" in figures["flags"]
    assert f"{path} ended after" in ended.stderr
    assert "File too large; measuring goes on" in ended.stderr
    recording = Recording(path)
    assert path.stat().st_size <= 4000
    assert not recording.overview().damage
    assert f"{recording.overview().samples} samples, {path.stat().st_size} bytes" in ended.stderr


def data_blocks(path) -> int:
    try:
        return Recording(path).overview().blocks
    except DataError:
        return 0


def test_a_measurement_that_is_killed_leaves_a_recording_of_what_it_had(plug_in, tmp_path, until):
    bridge = plug_in(profile="transient")
    path = tmp_path / "run.ejr"
    words = ["measure", "--sensor", f"serial:{bridge.spec.link}", "--record", str(path)]
    process = subprocess.Popen([sys.executable, "-m", "edge_runtime.cli", *words])
    try:
        until(lambda: data_blocks(path) >= 2)
    finally:
        process.kill()
        process.wait()
    (period,) = replay_periods(path).periods
    assert CUT in period.energy.flags
    assert period.energy.energy_j == pytest.approx(4.0 * period.energy.covered_s, rel=0.01)
    assert period.energy.covered_s > 1.5
    assert period.energy.coverage == pytest.approx(1.0)


def test_a_write_that_stops_half_way_leaves_whole_blocks_only(tmp_path, header):
    """In a child, since the limit holds for a whole process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            file = BlockFile(tmp_path / "run.ejr", header)
            size = file.written_bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300, size + 300))
            for n in range(50):
                try:
                    file.append([Note(float(n), "x", {"n": n})])
                except OSError as error:
                    code = 0 if error.errno == errno.EFBIG else 2
                    break
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    recording = Recording(tmp_path / "run.ejr")
    kept = [entry.fields["n"] for entry in recording.entries() if isinstance(entry, Note)]
    assert kept == list(range(len(kept)))
    assert 1 <= len(kept) < 10
    assert not recording.damage


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_file_system_is_called_a_full_disk(tmp_path, header, until):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True,
                             check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip("this machine does not let a file system be mounted")
    try:
        talker = Talker(header)
        recorder = Recorder(small / "run.ejr", talker, block_s=0.01)  # type: ignore[arg-type]
        recorder.begin(0.0)
        until(lambda: recorder.note(1.0, "x", {"noise": os.urandom(2000).hex()}) or recorder.stopped)
        recorder.close()
        assert recorder.stopped is not None
        assert "the disk is full; measuring goes on" in recorder.stopped
        recording = Recording(small / "run.ejr")
        assert list(recording.entries())
        assert not recording.damage
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_recording_is_never_overwritten(tmp_path, header, write_file):
    path = write_file([Note(1.0, "a")])
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is there already"):
        BlockFile(path, header)
    with pytest.raises(StoreError, match="is there already"):
        Recorder(path, Talker(header))  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_measured(tmp_path, header):
    with pytest.raises(StoreError, match="cannot be made"):
        BlockFile(tmp_path / "no" / "run.ejr", header)


def test_a_disk_that_hangs_holds_up_nobody_and_is_given_up(tmp_path, header, monkeypatch, until):
    going_on = threading.Event()
    monkeypatch.setattr(writer, "MOST_WAITING", 500)
    talker = Talker(header)
    recorder = Recorder(tmp_path / "run.ejr", talker, block_s=0.001)  # type: ignore[arg-type]
    recorder.begin(0.0)
    monkeypatch.setattr(os, "fdatasync", lambda fd: going_on.wait() and None)
    recorder.note(0.0, "first")
    until(lambda: not recorder._waiting)
    for n in range(600):
        recorder.note(float(n), "x")
    assert recorder.stopped is not None
    assert "does not keep up" in recorder.stopped
    going_on.set()
    recorder.close()
    notes = [entry for entry in Recording(tmp_path / "run.ejr").entries() if isinstance(entry, Note)]
    assert [note.word for note in notes] == ["first"]


def test_blocks_are_closed_by_time_and_by_size(tmp_path, header, until):
    talker = Talker(header)
    recorder = Recorder(tmp_path / "run.ejr", talker, block_s=0.01)  # type: ignore[arg-type]
    recorder.begin(0.0)
    recorder.note(0.0, "alone")
    before = recorder.written_bytes
    until(lambda: recorder.written_bytes > before or Recording(tmp_path / "run.ejr").overview().blocks)
    for n in range(3 * writer.MOST_IN_BLOCK):
        recorder.note(float(n), "x")
    recorder.close()
    overview = Recording(tmp_path / "run.ejr").overview()
    assert overview.blocks >= 4
    assert recorder.stopped is None
    assert overview.size_bytes == recorder.written_bytes


def test_a_block_holds_8192_entries_and_no_event_is_cut() -> None:
    notes = [Note(float(number), "x") for number in range(20_000)]
    parts = writer._parts(notes)  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [8192, 8192, 20_000 - 2 * 8192]
    assert [note for part in parts for note in part] == notes
    assert writer._parts([]) == []
