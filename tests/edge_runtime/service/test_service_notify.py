"""Messages to systemd over a real datagram socket."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.daemon.stopping import Stopping
from edge_runtime.systemd.notify import Notifier, _line


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_ready_status_and_stopping_are_what_systemd_reads(listener) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": listener.address})
    notifier.ready("5 examples")
    notifier.status("round 1\nREADY=0")
    notifier.stopping("SIGTERM")
    assert listener.take() == [
        b"READY=1\nSTATUS=5 examples", b"STATUS=round 1 READY=0", b"STOPPING=1\nSTATUS=SIGTERM",
    ]  # fmt: skip
    notifier.close()


def test_an_abstract_socket_is_reached_too(listener) -> None:
    abstract = type(listener)(f"@edgejoule-{uuid.uuid4().hex}")
    notifier = Notifier.of({"NOTIFY_SOCKET": abstract.address})
    notifier.ready("up")
    assert abstract.take() == [b"READY=1\nSTATUS=up"]
    notifier.close()
    abstract.close()


@given(st.text())
def test_a_status_is_one_assignment_whatever_it_says(text: str) -> None:
    assert "\n" not in _line(text)


def test_progress_feeds_the_watchdog_four_times_in_its_interval_at_most(listener) -> None:
    clock = Clock()
    notifier = Notifier(listener.address, 40.0, now_s=clock)
    for _ in range(400):  # steps, 0.1 s each
        notifier.progress()
        clock.now_s += 0.1
    assert listener.take() == [b"WATCHDOG=1"] * 4
    notifier.close()


def test_a_long_start_asks_for_more_time_while_it_goes_on_and_no_more_once_it_is_ready(listener) -> None:
    clock = Clock()
    notifier = Notifier(listener.address, 40.0, now_s=clock)
    for _ in range(700):  # photographs, 0.1 s each
        notifier.went_on()
        clock.now_s += 0.1
    assert listener.take() == [b"EXTEND_TIMEOUT_USEC=120000000"] * 2
    clock.now_s += 1e6
    assert listener.take() == []
    notifier.ready("up")
    clock.now_s += 1e6
    notifier.went_on()
    assert listener.take() == [b"READY=1\nSTATUS=up", b"WATCHDOG=1"]
    notifier.close()


def test_time_alone_feeds_nothing(listener) -> None:
    clock = Clock()
    notifier = Notifier(listener.address, 40.0, now_s=clock)
    clock.now_s += 1e6
    assert listener.take() == []
    notifier.progress()
    assert listener.take() == [b"WATCHDOG=1"]
    notifier.close()


def test_a_message_that_found_no_reader_is_sent_again_with_the_next_progress(listener) -> None:
    clock = Clock()
    notifier = Notifier(listener.address, 40.0, now_s=clock)
    path = Path(listener.address)
    path.rename(path.with_suffix(".away"))
    notifier.progress()
    path.with_suffix(".away").rename(path)
    notifier.progress()
    assert listener.take() == [b"WATCHDOG=1"]
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "expected_s"),
    [
        ({"WATCHDOG_USEC": "300000000"}, 300.0),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": str(os.getpid())}, 300.0),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "1"}, None),  # meant for the parent
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_one_that_systemd_means_for_this_process(listener, environ, expected_s) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": listener.address, **environ})
    assert notifier.watchdog_s == expected_s
    notifier.close()


def test_a_full_socket_holds_nothing_up(listener) -> None:
    notifier = Notifier(listener.address, 1e-9)
    for _ in range(1000):  # far more than the queue of a socket holds, and nobody reads
        notifier.progress()
    notifier.status("still here")
    assert 0 < len(listener.take()) < 1000
    notifier.close()


def test_without_a_service_manager_nothing_is_said_and_nothing_fails() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nobody/here"}):
        notifier = Notifier.of({**environ, "WATCHDOG_USEC": "1000000"})
        notifier.ready("up")
        notifier.progress()
        notifier.stopping("done")
        notifier.close()
        notifier.close()


def test_each_turn_of_a_wait_is_progress_and_a_hung_step_is_none() -> None:
    stopping, told = Stopping(), []
    stopping.tell_progress(lambda: told.append("turn"))
    stopping.wait(0.0)
    assert told == []
    stopping.wait(0.01)
    assert told
    stopping.close()
