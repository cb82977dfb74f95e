"""Power cuts and damaged disks: a reader gives what is whole, tells what is not, and never crashes."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from edge_runtime.measure.replayed_period import CUT, DAMAGED, replay_periods
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.power.events import Batch, Greeting
from edge_runtime.power.recording.blocks import Damage, Kind, Scan, block_bytes
from edge_runtime.power.recording.entries import Note, encode, sample_count
from edge_runtime.power.recording.reader import Recording
from edge_runtime.power.recording.replay_sensor import ReplaySensor
from protos.errors import DataError, EdgejouleError, SensorError


@pytest.fixture
def recorded(bridge_events, write_file):
    """A recording of three blocks, and its entries block by block."""
    events = bridge_events(1.2)
    third = len(events) // 3
    blocks = [events[:third], [*events[third : 2 * third], Note(1000.5, "mark")], events[2 * third :]]
    return write_file(*blocks), blocks


def counted(entries) -> int:
    return sum(sample_count(entry) for entry in entries)


def test_a_file_cut_at_any_byte_gives_every_whole_block_before_the_cut(recorded):
    path, blocks = recorded
    data = path.read_bytes()
    ends = [block.at + 18 + len(block.body) for block in Scan(io.BytesIO(data))]
    assert len(ends) == 4
    assert ends[-1] == len(data)
    known = [counted(part) for part in blocks]
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut < ends[0]:
            with pytest.raises(DataError):
                Recording(path)
            continue
        recording = Recording(path)
        whole = sum(cut >= end for end in ends) - 1
        assert recording.overview().samples == sum(known[:whole])
        assert recording.damage == Damage(cut_bytes=cut - max(end for end in ends if end <= cut))


def test_a_cut_file_unpacks_to_the_entries_before_the_cut(recorded):
    path, blocks = recorded
    data = path.read_bytes()
    for cut in range(len(data) - 1, 0, -97):
        path.write_bytes(data[:cut])
        try:
            entries = list(Recording(path).entries())
        except DataError:
            continue
        assert counted(entries) in [sum(map(counted, blocks[:n])) for n in range(len(blocks))]


def test_a_changed_byte_costs_one_block_and_no_other(recorded):
    path, blocks = recorded
    data = path.read_bytes()
    starts = [block.at for block in Scan(io.BytesIO(data))] + [len(data)]
    for at in range(starts[1], len(data), 13):
        changed = bytearray(data)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        hit = next(n for n in range(1, len(starts) - 1) if starts[n] <= at < starts[n + 1])
        recording = Recording(path)
        kept = [entry for entry in recording.entries() if not isinstance(entry, Greeting)]
        assert counted(kept) == sum(counted(part) for n, part in enumerate(blocks, 1) if n != hit)
        lost = starts[hit + 1] - starts[hit]
        last = hit == len(blocks)
        assert recording.damage == Damage(cut_bytes=lost) if last else Damage(skipped_bytes=lost, missing_blocks=1)


def test_the_header_may_be_lost_when_a_copy_of_it_comes_later(write_file):
    path = write_file(*[[Note(float(n), "x")] for n in range(70)])
    data = path.read_bytes()
    first = next(iter(Scan(io.BytesIO(data))))
    path.write_bytes(b"\0" * (18 + len(first.body)) + data[18 + len(first.body) :])
    recording = Recording(path)
    assert recording.header.board == "bench"
    assert sum(isinstance(entry, Note) for entry in recording.entries()) == 70
    assert recording.damage.skipped_bytes == 18 + len(first.body)


def test_a_recording_whose_beginning_is_lost_can_still_be_replayed(bridge_events, write_file):
    events = bridge_events(8.0)
    batches = [n for n, event in enumerate(events) if isinstance(event, Batch)]
    cuts = [0, *(batches[len(batches) * k // 20] for k in range(1, 20)), len(events)]
    path = write_file(*[events[a:b] for a, b in itertools.pairwise(cuts)])
    data = path.read_bytes()
    starts = [block.at for block in Scan(io.BytesIO(data))]
    # The header, and two blocks later: the first greeting is among what is lost.
    path.write_bytes(data[: starts[1]] + data[starts[3] :])
    trace = played(path).trace().disjoint()
    truth = played(write_file(events, name="whole.ejr")).trace()
    assert 0.7 < len(trace) / len(truth) < 0.95
    joules = float((trace.stop_s - trace.start_s) @ trace.power_w)
    inside = truth.start_s > float(trace.start_s[0]) - 1e-3
    wanted = float((truth.stop_s - truth.start_s)[inside] @ truth.power_w[inside])
    assert joules == pytest.approx(wanted, rel=1e-3)


def test_a_restart_within_a_damaged_stretch_puts_no_sample_at_a_wrong_time(bridge_events, write_file):
    events = bridge_events(9.0, reboot_after_s=3.0)
    second = max(n for n, event in enumerate(events) if isinstance(event, Greeting))
    assert second > 10
    cuts = sorted({*range(0, len(events), 25), second - 3, second + 1, len(events)})
    path = write_file(*[events[a:b] for a, b in itertools.pairwise(cuts)])
    truth = played(path).trace()
    data = path.read_bytes()
    starts = [block.at for block in Scan(io.BytesIO(data))]
    # The block with the greeting of the second boot; the header stands before the first block.
    hit = next(n for n, (a, b) in enumerate(itertools.pairwise(cuts)) if a <= second < b) + 1
    path.write_bytes(data[: starts[hit]] + data[starts[hit + 1] :])
    trace = played(path).trace()
    assert 0.5 < len(trace) / len(truth) < 1.0
    near = np.searchsorted(truth.start_s, trace.start_s + 1e-3, "right") - 1
    assert np.abs(truth.start_s[near] - trace.start_s).max() < 2e-3
    assert (truth.power_w[near] == trace.power_w).mean() > 0.99


def played(path) -> ReplaySensor:
    sensor = ReplaySensor(path)
    sensor.open()
    while not sensor.ended:
        sensor.wait_for_news(0.0)
    return sensor


def test_kinds_and_versions_of_the_future_are_passed_over(write_file, tmp_path):
    path = write_file([Note(1.0, "a")])
    strange = bytearray(block_bytes(Kind.DATA, 2, encode([Note(2.0, "b")])))
    unknown = block_bytes(9, 2, b"what")  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes() + unknown + block_bytes(Kind.DATA, 3, encode([Note(3.0, "c")])))
    assert [entry.at_s for entry in Recording(path).entries() if isinstance(entry, Note)] == [1.0, 3.0]
    strange[10] ^= 1
    path.write_bytes(path.read_bytes() + bytes(strange))
    assert [entry.at_s for entry in Recording(path).entries() if isinstance(entry, Note)] == [1.0, 3.0]


@settings(max_examples=60)
@given(st.data())
def test_any_damage_at_all_gives_a_part_of_what_was_there(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    notes = [Note(float(n), "n", {"text": rng.bytes(20).hex()}) for n in range(30)]
    blocks = [block_bytes(Kind.DATA, n, encode(notes[5 * n : 5 * n + 5])) for n in range(6)]
    damaged = bytearray(b"".join(blocks))
    for _ in range(data.draw(st.integers(1, 5))):
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        if what == "flip" and damaged:
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif what == "cut":
            del damaged[at:]
        elif what == "insert":
            damaged[at:at] = data.draw(st.binary(max_size=30))
        else:
            del damaged[at : at + data.draw(st.integers(0, 50))]
    bodies = {encode(notes[5 * n : 5 * n + 5]) for n in range(6)}
    scan = Scan(io.BytesIO(bytes(damaged)))
    found = list(scan)
    assert all(block.body in bodies for block in found)
    told = scan.damage.skipped_bytes + scan.damage.cut_bytes
    assert told + sum(18 + len(block.body) for block in found) == len(damaged)


def test_a_damaged_recording_of_a_bridge_replays_to_a_part_of_its_joules_or_is_refused(bridge_events, write_file):
    events = bridge_events(4.0, reboot_after_s=1.5)
    path = write_file(*[events[at : at + 16] for at in range(0, len(events), 16)])
    data, whole = path.read_bytes(), replay_periods(path).periods[0].energy
    assert whole.energy_j is not None
    rng = np.random.default_rng(8)
    seen = set()
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(0, len(damaged)))
            match int(rng.integers(0, 3)):
                case 0:
                    damaged[at] ^= int(rng.integers(1, 256))
                case 1:
                    del damaged[at : at + int(rng.integers(1, 400))]
                case _:
                    damaged[at:at] = rng.bytes(int(rng.integers(1, 40)))
        path.write_bytes(damaged)
        try:
            (period,) = replay_periods(path).periods
        except EdgejouleError as error:
            seen.add(type(error))
            continue
        energy = period.energy
        assert {CUT, DAMAGED} & {*energy.flags}
        assert energy.covered_s <= whole.covered_s * 1.001 + 0.01
        assert energy.energy_j is None or energy.energy_j <= whole.energy_j * 1.01
        seen.add(energy.energy_j is None)
    assert {True, False} <= seen
    assert seen <= {True, False, DataError, SensorError}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no recording"),
        (b"\x89EJR", "no recording"),
        (b"\xf1" + bytes(100), "no recording"),
        (block_bytes(Kind.DATA, 1, encode([Note(1.0, "a")])), "header is lost"),
        (block_bytes(Kind.HEADER, 0, b"what"), "header cannot be read"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(content, said, tmp_path):
    (tmp_path / "x.ejr").write_bytes(content)
    with pytest.raises(DataError, match=said):
        Recording(tmp_path / "x.ejr")


def test_a_missing_file_a_folder_and_an_empty_recording_are_refused(tmp_path, write_file):
    for path in (tmp_path / "none.ejr", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            Recording(path)
    with pytest.raises(SensorError, match="no sample"):
        ReplaySensor(write_file([Note(1.0, "begin")])).open()
