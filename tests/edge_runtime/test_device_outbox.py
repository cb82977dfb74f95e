"""What must still reach the coordinator survives anything but its answer."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_runtime.daemon.energy_sums import in_words, with_idle
from edge_runtime.daemon.outbox import Outbox
from protos.energy.trace import Phase, PhaseEnergy, joined
from protos.orders import SettledEnergy


def record(phase: Phase, energy_j: float | None, seconds: float = 1.0) -> PhaseEnergy:
    method = "unknown" if energy_j is None else "measured"
    return PhaseEnergy(phase, energy_j, seconds, 0.5, method, "s", None if energy_j is None else 0.1, ("degraded",))  # type: ignore[arg-type]


def test_a_report_is_there_until_it_is_answered(tmp_path: Path) -> None:
    Outbox(tmp_path).put("run-b", 2, b"\n\x00two")
    Outbox(tmp_path).put("run-a", 1, b"one")
    outbox = Outbox(tmp_path)
    letters = outbox.pending()
    assert [(letter.run_id, letter.round, letter.data) for letter in letters] == [
        ("run-a", 1, b"one"),
        ("run-b", 2, b"\n\x00two"),
    ]
    outbox.answered(letters[0])
    outbox.answered(letters[0])
    assert [letter.round for letter in outbox.pending()] == [2]


def test_the_same_round_is_stored_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("run", 1, b"old")
    outbox.put("run", 1, b"new")
    assert [letter.data for letter in outbox.pending()] == [b"new"]


@pytest.mark.parametrize("cut", [0, 5, -1])
def test_a_damaged_report_is_set_aside_and_not_sent(tmp_path: Path, cut: int) -> None:
    outbox = Outbox(tmp_path)
    letter = outbox.put("run", 1, b"payload")
    assert letter.path
    letter.path.write_bytes(letter.path.read_bytes()[:cut])
    assert outbox.pending() == []
    assert [path.name for path in tmp_path.iterdir()] == ["aside"]
    assert [path.name for path in (tmp_path / "aside").iterdir()] == [letter.path.name]


def test_only_the_newest_reports_are_kept_aside(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(20):
        outbox.set_aside(outbox.put("run", number, b"payload"), "refused")
    assert outbox.pending() == []
    assert 0 < len(list((tmp_path / "aside").iterdir())) < 20


def test_energy_that_cannot_be_stored_is_kept_in_memory_and_stored_when_it_can(tmp_path: Path) -> None:
    # A path through a file cannot be written, not even by root.
    folder = tmp_path / "outbox"
    folder.write_text("in the way")
    outbox = Outbox(folder)
    first = SettledEnergy("run", 1, (record(Phase.SEND, 1.5),))
    second = SettledEnergy("run", 2, (record(Phase.SEND, 2.5),))
    outbox.add_settled(first)
    outbox.add_settled(second)
    assert outbox.settled() == (first, second)
    outbox.told((first,))
    assert outbox.settled() == (second,)
    folder.unlink()
    folder.mkdir()
    third = SettledEnergy("run", 3, (record(Phase.SEND, 3.5),))
    outbox.add_settled(third)
    assert Outbox(folder).settled() == (second, third)


def test_settled_energy_comes_back_as_it_was_and_goes_when_told(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    first = SettledEnergy("run", 1, (record(Phase.SEND, 1.5), record(Phase.IDLE, None)))
    second = SettledEnergy("run", 2, (record(Phase.SEND, 2.5),))
    outbox.add_settled(first)
    outbox.add_settled(second)
    assert Outbox(tmp_path).settled() == (first, second)
    Outbox(tmp_path).told((first,))
    assert outbox.settled() == (second,)
    outbox.told((second,))
    assert list(tmp_path.iterdir()) == []


def test_a_later_figure_for_a_phase_replaces_the_earlier(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.add_settled(SettledEnergy("run", 1, (record(Phase.SEND, 1.0), record(Phase.IDLE, 3.0))))
    outbox.add_settled(SettledEnergy("run", 1, (record(Phase.SEND, 2.0),)))
    (settled,) = outbox.settled()
    assert {phase_energy.phase: phase_energy.energy_j for phase_energy in settled.energy} == {
        Phase.SEND: 2.0,
        Phase.IDLE: 3.0,
    }


def test_what_was_changed_while_it_was_told_is_kept(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.add_settled(SettledEnergy("run", 1, (record(Phase.SEND, 1.0),)))
    told = outbox.settled()
    outbox.add_settled(SettledEnergy("run", 1, (record(Phase.SEND, 2.0),)))
    outbox.told(told)
    assert [settled_energy.energy[0].energy_j for settled_energy in outbox.settled()] == [2.0]


def test_sending_again_adds_to_earlier_tries_and_is_unknown_where_they_died_with_their_process(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    died, tried = outbox.put("run", 1, b"a", 1), outbox.put("run", 1, b"b", 2)
    outbox.add_settled(SettledEnergy("run", 1, (record(Phase.SEND, 1.0, 4.0),), 2))
    for letter in (died, tried):
        outbox.add_sending(letter, (record(Phase.IDLE, 9.0), record(Phase.SEND, 2.0, 3.0)))
    (again,), (lost,) = (
        settled_energy.energy
        for settled_energy in sorted(outbox.settled(), key=lambda settled_energy: -(settled_energy.attempt or 0))
    )
    assert (again.phase, again.energy_j, again.covered_s, again.uncovered_s) == (Phase.SEND, 3.0, 7.0, 1.0)
    assert (lost.energy_j, lost.covered_s, lost.uncovered_s, lost.method) == (None, 3.0, 0.5, "unknown")
    assert lost.flags == ("interrupted", "degraded")


def test_two_stretches_add_up_and_unknown_stays_unknown() -> None:
    both = joined(record(Phase.IDLE, 1.0), record(Phase.IDLE, 2.0, 3.0))
    assert (both.energy_j, both.covered_s, both.uncovered_s, both.uncertainty_j) == (3.0, 4.0, 1.0, 0.2)
    unknown = joined(record(Phase.IDLE, 1.0), record(Phase.IDLE, None))
    assert (unknown.energy_j, unknown.method, unknown.uncertainty_j) == (None, "unknown", None)
    with pytest.raises(ValueError, match="idle"):
        joined(record(Phase.IDLE, 1.0), record(Phase.SEND, 1.0))


def test_idle_time_of_a_round_is_one_figure() -> None:
    before = (record(Phase.IDLE, 1.0), record(Phase.TRAIN, 5.0))
    after = (record(Phase.IDLE, 2.0), record(Phase.SEND, 1.0))
    assert [(phase_energy.phase, phase_energy.energy_j) for phase_energy in with_idle(after, before)] == [
        (Phase.IDLE, 3.0),
        (Phase.SEND, 1.0),
    ]


def test_words_never_call_an_unknown_energy_zero() -> None:
    assert in_words([record(Phase.TRAIN, None)]) == "energy unknown (coverage 0.67)"
    assert in_words([record(Phase.TRAIN, 2.0), record(Phase.SEND, None)]).startswith("over 2.00 J (estimated")
    assert in_words([record(Phase.IDLE, 9.0), record(Phase.TRAIN, 2.0)]) == "2.00 J (coverage 0.67)"


def test_energy_that_cannot_be_stored_is_told_of_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "outbox"
    folder.write_text("in the way")
    outbox = Outbox(folder)

    def told() -> int:
        return sum("kept in memory until it is told" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            outbox.add_settled(SettledEnergy("run", number, (record(Phase.SEND, 1.5),)))
            assert told() == 1
        folder.unlink()
        folder.mkdir()
        outbox.add_settled(SettledEnergy("run", 3, (record(Phase.SEND, 1.5),)))
        (folder / "settled.json").unlink()
        folder.rmdir()
        folder.write_text("in the way")
        outbox.add_settled(SettledEnergy("run", 4, (record(Phase.SEND, 1.5),)))
    assert told() == 2, "each time anew"
