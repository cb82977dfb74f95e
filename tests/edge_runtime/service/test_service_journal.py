"""Entries with fields, as the journal's socket gets them."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.systemd.journal import about, encode, facts, stream_is_journal
from edge_runtime.systemd.logging_setup import log, start_logging


def parsed(entry: bytes) -> dict[str, str]:
    """Reads an entry as the journal does: NAME=value, or NAME, a length of 64 bits, the value."""
    fields: dict[str, str] = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = value.decode("utf-8", "replace")
        entry = rest
    return fields


@pytest.fixture
def restored() -> Iterator[None]:
    before = (log().handlers[:], log().level, log().propagate)
    yield
    for handler in log().handlers:
        handler.close()
    log().handlers[:], log().level, log().propagate = before


@pytest.fixture
def journal(listener, monkeypatch: pytest.MonkeyPatch, restored):
    """The daemon's log, with a stderr that systemd has connected to the journal."""
    stat = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    start_logging("info", journal=Path(listener.address))
    return listener


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(), max_size=5))
def test_what_is_encoded_is_read_back_newlines_and_all(fields: dict[str, str]) -> None:
    wanted = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
    assert parsed(encode(fields)) == wanted


def test_a_line_inside_a_round_carries_run_and_round(journal) -> None:
    with about(run="run-1", round=3):
        log().warning("slow")
    log().info("idle")
    inside, outside = (parsed(entry) for entry in journal.take())
    assert inside == {
        "MESSAGE": "slow", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "edge-runtime",
        "EDGEJOULE_RUN": "run-1", "EDGEJOULE_ROUND": "3",
    }  # fmt: skip
    assert outside == {"MESSAGE": "idle", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "edge-runtime"}


def test_the_joules_of_a_phase_are_a_field_and_unknown_ones_are_absent(journal) -> None:
    log().info("train", extra=facts(phase="train", joules=1.25, journal_only=True))
    log().info("send", extra=facts(phase="send", joules=None, journal_only=True))
    train, send = (parsed(entry) for entry in journal.take())
    assert (train["EDGEJOULE_PHASE"], train["EDGEJOULE_JOULES"]) == ("train", "1.25")
    assert send["EDGEJOULE_PHASE"] == "send"
    assert "EDGEJOULE_JOULES" not in send


def test_levels_below_the_chosen_one_are_not_sent(journal) -> None:
    log().debug("detail")
    assert journal.take() == []


def test_a_line_is_not_lost_while_the_journal_is_away(journal, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(journal.address)
    path.rename(path.with_suffix(".away"))
    log().error("disk full")
    log().info("train", extra=facts(phase="train", joules=1.0, journal_only=True))
    assert capsys.readouterr().err == "<3>disk full\n"
    path.with_suffix(".away").rename(path)
    log().info("back")
    assert [parsed(entry)["MESSAGE"] for entry in journal.take()] == ["back"]


def test_without_a_journal_lines_are_text_and_phases_are_not_repeated(
    restored, listener, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # of a parent, whose stderr is not ours
    start_logging("info", journal=Path(listener.address))
    log().info("round 1")
    log().info("train", extra=facts(phase="train", joules=1.0, journal_only=True))
    assert capsys.readouterr().err == "<6>round 1\n"
    assert listener.take() == []


def test_the_stream_of_the_journal_is_told_by_device_and_inode() -> None:
    reader, writer = os.pipe()
    stat = os.fstat(writer)
    assert stream_is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, writer)
    assert not stream_is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"}, writer)
    assert not stream_is_journal({}, writer)
    os.close(reader)
    os.close(writer)
    assert not stream_is_journal({"JOURNAL_STREAM": "1:1"}, writer)


def test_a_level_without_a_priority_of_its_own_is_information(journal) -> None:
    log().log(logging.INFO + 1, "between")
    assert parsed(journal.take()[0])["PRIORITY"] == "6"
