"""A device whose world changes while it runs: data, card, sensor, disk, clock, machine. It goes on, and says so."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon
from striped_data import write_data

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.machine_identity import default_device_id, machine_hash, take_instance
from edge_runtime.round.inputs.embeddings import EmbeddingCache
from edge_runtime.state import StateFolder, by_use, keep_newest, used
from edge_runtime.systemd.logging_setup import LOGGER, start_logging
from edge_runtime.systemd.starts import MOST_S, SOON_S, pause_s, worked
from protos.errors import StoreError
from protos.model.bundle import Bundle
from protos.v1 import edgejoule_pb2 as pb

Make = Callable[..., Settings]
Start = Callable[..., RunningDaemon]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.daemon.serving._LOOK_EACH_S", 0.1)
    monkeypatch.setattr("edge_runtime.daemon.serving._LOOK_FOLDER_EACH_S", 0.1)


def picture(path: Path, value: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


# ------------------------------------------------------------ data


def test_data_that_are_not_there_yet_are_waited_for(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    data.unlink()
    running = started(peer, max_rounds=1)
    peer.until(lambda: len(peer.joins) == 1)
    assert (peer.joins[0].train_examples, peer.joins[0].test_examples) == (0, 0)
    assert str(data) in peer.joins[0].reason
    write_data(data, test=9)
    peer.until(lambda: len(peer.joins) == 2)
    assert (peer.joins[1].train_examples, peer.joins[1].reason) == (81, "")
    peer.orders.append(order(bundle))
    running.end()
    assert peer.read().examples == 81


def test_what_is_new_is_told_while_the_coordinator_holds_a_question(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    peer.holds_s = 80.0
    data.unlink()
    running = started(peer, max_rounds=1, exit_when_idle_s=None)
    peer.until(lambda: len(peer.holdings) == 1)
    write_data(data)
    peer.until(lambda: len(peer.joins) == 2)
    assert peer.joins[1].train_examples == 90
    peer.orders.append(order(bundle))
    running.end()
    assert peer.read().examples == 90


def test_a_few_bad_examples_are_set_aside_counted_and_told(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    y = (np.arange(90) % 3).astype(np.int32)
    y[7], y[11] = 9, -4
    write_data(data, y=y)
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert [peer.read(index).examples for index in (0, 1)] == [88, 88]
    assert peer.joins[-1].train_examples == 88
    assert peer.joins[-1].reason.startswith("2 of 90 examples set aside: 2 label outside the classes")


def test_a_nan_and_a_label_that_is_no_number_are_set_aside(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    x = np.random.default_rng(0).uniform(0, 255, (90, 8, 8, 1)).astype(np.float32)
    x[5, 3, 3, 0] = np.nan
    y = (np.arange(90) % 3).astype(np.float32)
    y[8], y[9] = np.nan, 1.5
    write_data(data, x=x, y=y)
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1).end()
    assert peer.read().examples == 87
    assert "NaN or infinity" in peer.joins[-1].reason


def test_a_broken_image_and_a_strange_folder_are_set_aside(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for number in range(30):
        picture(folder / str(number % 3) / f"{number}.png", 40 + number)
    picture(folder / "holiday" / "beach.png", 1)
    whole = (folder / "0" / "0.png").read_bytes()
    (folder / "1" / "1.png").write_bytes(whole[: len(whole) // 2])
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1, data=str(folder)).end()
    assert peer.read().examples == 29
    assert "1 image that cannot be read (1/1.png" in peer.joins[-1].reason
    assert "1 of class 'holiday', which the model has not" in peer.joins[-1].reason


def test_no_bad_example_is_set_aside_where_the_settings_allow_none(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    y = (np.arange(90) % 3).astype(np.int32)
    y[7] = 9
    write_data(data, y=y)
    peer.orders.append(order(bundle))
    started(peer, bad_examples_percent=0.0)
    peer.until(lambda: bool(peer.leaves))
    assert "label 9 at example 7" in peer.leaves[0]
    assert peer.reports == []


def test_images_of_unlike_sizes_need_no_bundle_at_the_start(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    from PIL import Image

    folder = tmp_path / "photos"
    for number in range(12):
        picture(folder / str(number % 3) / f"{number}.png", 40 + number)
    Image.fromarray(np.full((21, 34), 7, np.uint8)).save(folder / "0" / "large.png")
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1, data=str(folder)).end()
    assert peer.read().examples == 13


def test_data_that_grow_are_told_before_they_are_trained_on(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    """The coordinator refuses a report of more examples than were declared."""
    declared: list[int] = []

    def note(context: Any) -> None:
        declared.append(peer.joins[-1].train_examples)
        if len(declared) == 1:
            write_data(data, 120)
            peer.orders.append(order(bundle, 2))

    peer.before_verdict = note
    peer.orders.append(order(bundle, 1))
    started(peer, max_rounds=2).end()
    assert [peer.read(index).examples for index in (0, 1)] == [81, 120]
    assert declared == [81, 120]
    assert [peer.read(index).embedded for index in (0, 1)] == [81, 39], "only what is new"
    assert len({card.session for card in peer.joins}) == 1, "it is the same device, with another card"


def test_a_refused_report_brings_a_card_that_is_true_and_the_order_is_done_again(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path
) -> None:
    def refuse_the_first(context: Any) -> None:
        peer.verdict = pb.VERDICT_REJECTED if len(peer.reports) == 1 else pb.VERDICT_ACCEPTED
        if len(peer.reports) == 1:
            write_data(data, 60)

    peer.before_verdict = refuse_the_first
    peer.orders.extend([order(bundle, 1), order(bundle, 1)])
    started(peer, max_rounds=2).end()
    assert [peer.read(index).examples for index in (0, 1)] == [81, 60]
    assert peer.joins[-1].train_examples == 60


def test_a_decline_is_said_once_and_tried_again_ever_more_rarely(
    peer: PeerCoordinator, started: Start, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    peer.orders.extend([order(bundle, inputs={"rat": 0.1})] * 3)
    running = started(peer)
    peer.until(lambda: len(peer.leaves) == 3)
    running.stop()
    said = [
        record for record in caplog.records if "cannot be done" in record.getMessage() and record.levelname == "ERROR"
    ]
    assert len(said) == 1


# ------------------------------------------------------------ a full disk


def test_a_full_disk_at_the_start_is_waited_for(
    peer: PeerCoordinator, started: Start, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = StateFolder.__init__, iter(range(2))

    def full(self: StateFolder, path: Path) -> None:
        if next(failures, None) is not None:
            raise StoreError("cannot be written", where=str(path)) from OSError(errno.ENOSPC, "no space")
        real(self, path)

    monkeypatch.setattr(StateFolder, "__init__", full)
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1).end()
    assert peer.read().steps_done == 12


# ------------------------------------------------------------ what is kept


def test_what_is_in_use_stays_when_the_clock_goes_back(tmp_path: Path, bundle: Bundle) -> None:
    root = tmp_path / "embeddings"
    for number in range(4):
        EmbeddingCache(root, bundle, f"data-{number}", 5, "engine")
    future_s = time.time() + 2 * 365 * 86400
    for path in root.iterdir():
        os.utime(path, (future_s, future_s))
    newest = EmbeddingCache(root, bundle, "data-4", 5, "engine")
    assert newest.folder.is_dir()
    assert (newest.folder / "embeddings.npy").is_file()
    assert len(list(root.iterdir())) == 4
    assert not EmbeddingCache(root, bundle, "data-1", 5, "engine").complete


def test_the_order_of_use_is_counted_and_survives_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "heads"
    folder.mkdir()
    for name in "abcde":
        (folder / name).touch()
        used(folder / name)
        os.utime(folder / name, (10_000 - ord(name), 10_000 - ord(name)))
    used(folder / "a")
    assert [path.name for path in by_use(folder)] == ["b", "c", "d", "e", "a"]
    keep_newest(folder, 2, in_use=[folder / "b"])
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_what_killed_writes_left_is_swept_at_the_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    StateFolder(state).close()
    left = [state / ".costs.json.x.part", state / "outbox" / ".a.report.y.part", state / "memory" / "b.room"]
    for path in left:
        path.write_bytes(b"half")
    half = state / "bundles" / ".part-abc"
    half.mkdir()
    (half / "backbone.tflite").write_bytes(b"half")
    report = state / "outbox" / "00000001-abc.report"
    report.write_bytes(b"whole")
    StateFolder(state).close()
    assert not any(path.exists() for path in (*left, half))
    assert report.read_bytes() == b"whole"


# ------------------------------------------------------------ who it is


def machine(root: Path, number: str, serial: str = "") -> Path:
    for name, text in (("etc/machine-id", f"{number * 32}\n"), ("proc/device-tree/serial-number", f"{serial}\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_two_machines_of_one_host_name_have_two_names(tmp_path: Path) -> None:
    one, other = machine(tmp_path / "1", "a"), machine(tmp_path / "2", "b")
    assert default_device_id(one) != default_device_id(other)
    assert default_device_id(one) == default_device_id(one)
    copied = machine(tmp_path / "3", "a", serial="10000000abcdef01")
    assert machine_hash(copied) != machine_hash(one), "a copied card, on another board"
    assert "a" * 32 not in default_device_id(one)
    bare = default_device_id(tmp_path / "nothing")
    assert bare
    assert default_device_id(one).startswith(f"{bare}-")


def test_a_state_remembers_its_machine_and_a_copy_is_another_instance(tmp_path: Path) -> None:
    first = take_instance(tmp_path, "machine-1")
    assert take_instance(tmp_path, "machine-1") == first
    assert take_instance(tmp_path, "") == first, "a machine that does not say who it is proves nothing"
    copy = take_instance(tmp_path, "machine-2")
    assert copy.copied
    assert copy.name != first.name
    assert take_instance(tmp_path, "machine-2").name == copy.name
    (tmp_path / "instance.json").write_bytes(b"\xff{")
    assert take_instance(tmp_path, "machine-2").name != copy.name


def test_a_copied_state_owes_nothing_of_the_other_machine(
    settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Device(settings(sensor="none")).close()
    owed = tmp_path / "state" / "memory" / "x.tree"
    owed.write_bytes(b"owed")
    before = Device(settings(sensor="none"))
    before.close()
    assert owed.exists()
    monkeypatch.setattr("edge_runtime.daemon.device.machine_hash", lambda *_: "another")
    after = Device(settings(sensor="none"))
    after.close()
    assert not owed.exists()
    assert after.card().instance not in ("", before.card().instance)


# ------------------------------------------------------------ signals and lines


def test_a_hang_up_is_a_request_to_stop_unless_it_was_ignored_before() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    stopping, immune = Stopping(), Stopping()
    try:
        # Whoever runs the tests under nohup has it ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stopping.catch_signals()
        signal.raise_signal(signal.SIGHUP)
        assert (stopping.requested, stopping.reason) == (True, "SIGHUP")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        immune.catch_signals()
        signal.raise_signal(signal.SIGHUP)
        assert not immune.requested, "as under nohup"
        immune.request("memory limit")
        signal.raise_signal(signal.SIGTERM)
        immune.withdraw()
        assert (immune.requested, immune.reason) == (True, "SIGTERM"), "a signal is not forgotten with another reason"
        stopping.withdraw()
        assert stopping.requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stopping.close()
        immune.close()


def test_sensors_log_where_and_as_the_daemon_does(capsys: pytest.CaptureFixture[str]) -> None:
    loggers = [logging.getLogger(name) for name in (LOGGER, "edge_runtime")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        start_logging("warning")
        sensor = logging.getLogger("edge_runtime.power.bridge.link")
        sensor.warning("port\nlost")
        sensor.info("not this")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("WARNING port lost")
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


# ------------------------------------------------------------ starts


def test_a_service_that_fails_again_and_again_starts_ever_more_slowly(tmp_path: Path) -> None:
    boot, now_s = tmp_path / "boot", [1000.0]
    boot.write_text("boot-1\n")

    def start() -> float:
        rest_s = pause_s(tmp_path, boot_id=boot, now_s=lambda: now_s[0])
        now_s[0] += rest_s + 1.0
        return rest_s

    assert [start() for _ in range(8)] == [0.0, 0.0, 0.0, 5.0, 10.0, 20.0, 40.0, 80.0]
    assert [start() for _ in range(4)] == [160.0, 300.0, 300.0, MOST_S]
    now_s[0] += SOON_S
    assert start() == 0.0, "it had worked for a while"
    for _ in range(3):
        start()
    worked(tmp_path)
    assert start() == 0.0, "it was stopped, and did not fail"
    boot.write_text("boot-2\n")
    assert start() == 0.0
