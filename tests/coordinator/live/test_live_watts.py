"""The power of a board on its way from the bridge to who looks: real daemons and calls, and nothing for others."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from live.played_run import soon
from live.watched_daemon import HIGH_W, LOW_W, watched_daemon

from coordinator.live.trace_stream import event_of
from coordinator.operator.client import Operator
from coordinator.operator.watts import WattsSeen
from coordinator.server import run_scheduler, serving, traces
from coordinator.server.run_scheduler import RunScheduler
from protos.convert.cards import card_to
from protos.convert.watts import bins_to
from protos.energy.bins import BIN_S, PowerBins
from protos.errors import UnknownRunError
from protos.orders import PROTOCOL, DeviceCard, Engine, MeterCard
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

Fleet = Callable[..., Any]


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> list[RunScheduler]:
    """Of each coordinator that is served in the test; calls that wait are held for as long as in earnest."""
    monkeypatch.setattr(run_scheduler, "MOST_HOLD_S", 480.0)
    made: list[RunScheduler] = []

    class Noted(RunScheduler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(serving, "RunScheduler", Noted)
    return made


@pytest.fixture
def watched(schedulers: list[RunScheduler], tools: Any, tmp_path: Path) -> Iterator[tuple[str, RunScheduler]]:
    with tools.served(tmp_path / "watched") as address:
        yield address, schedulers[0]


def sending() -> bool:
    return any(thread.name == "live watts" for thread in threading.enumerate())


def held(scheduler: RunScheduler) -> int:
    return scheduler._held


def seen_until(call: Any, enough: Callable[[list[WattsSeen]], bool]) -> list[WattsSeen]:
    """What comes until it is enough; ends the call."""
    found: list[WattsSeen] = []
    for one in call:
        found.append(one)
        if enough(found):
            call.end()
    return found


def seconds(found: list[WattsSeen]) -> float:
    return sum(float(one.bins.covered_s.sum()) for one in found if one.bins is not None)


@pytest.mark.processes
def test_a_board_that_waits_sends_its_watts_while_somebody_looks_and_only_then(
    watched: tuple[str, RunScheduler], tmp_path: Path
) -> None:
    address, scheduler = watched
    with watched_daemon(tmp_path / "board", address), Operator(address) as operator:
        soon(lambda: held(scheduler) == 1, "a call that waits")
        assert not sending()
        assert scheduler.traces.messages == 0
        for _ in range(2):
            found = seen_until(operator.watch_watts("pi-watts"), lambda seen: seconds(seen) > 3)
            soon(lambda: not scheduler.traces.viewers and not sending(), "the end of it")
            parts = [one.bins for one in found if one.bins is not None and len(one.bins)]
            for one, after in itertools.pairwise(parts):
                # Each bin once, and none left out but what a machine that stood still was too slow for.
                gap_s = after.first_s - (one.first_s + len(one) * one.bin_s)
                assert gap_s == pytest.approx(0.0, abs=1e-6) if not found[-1].skipped else gap_s > -1e-6
            mean_w, low_w, high_w, covered_s = (
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("mean_w", "low_w", "high_w", "covered_s")
            )
            assert min(part.bin_s for part in parts) == BIN_S
            assert (low_w <= mean_w).all()
            assert (mean_w <= high_w).all()
            assert covered_s.sum() > 0.9 * sum(len(part) * part.bin_s for part in parts)
            # A few periods of the square, and what the sensor may be wrong by.
            assert mean_w @ covered_s / covered_s.sum() == pytest.approx((LOW_W + HIGH_W) / 2, rel=0.12)
            assert high_w.max() == pytest.approx(HIGH_W, rel=0.05)
            assert low_w[covered_s > 0].min() == pytest.approx(LOW_W, rel=0.1)
        messages = scheduler.traces.messages
        soon(lambda: held(scheduler) == 1, "a call that waits again")
        assert scheduler.traces.messages == messages, "nobody looks, and nothing is sent"


@pytest.mark.processes
def test_a_board_without_a_sensor_says_so_once(watched: tuple[str, RunScheduler], tmp_path: Path) -> None:
    address, scheduler = watched
    with watched_daemon(tmp_path / "board", address, sensor=False), Operator(address) as operator:
        soon(lambda: held(scheduler) == 1, "a call that waits")
        found = seen_until(operator.watch_watts("pi-watts"), lambda seen: "no sensor" in seen[-1].reason)
        assert found[-1].reason == "no sensor measures this board"
        assert scheduler.traces.messages == 1
        soon(lambda: not sending(), "the end of it")


def live(device: Any, bins: PowerBins, **more: Any) -> bool:
    card = device.card
    request = pb.LiveWattsRequest(device_id=card.device_id, session=card.session, bins=bins_to(bins), **more)
    return bool(device.stub.LiveWatts(request, timeout=20).wanted)


def bins(first: int, count: int = 25, watts: float = 3.0) -> PowerBins:
    each = np.full(count, watts)
    return PowerBins(first * BIN_S, BIN_S, each, each - 1, each + 4, np.full(count, BIN_S))


def test_a_board_at_work_is_asked_with_the_answer_that_its_order_waits_for(
    watched: tuple[str, RunScheduler], plain_bundle: Path, tools: Any, fleet: Fleet, tmp_path: Path
) -> None:
    address, scheduler = watched
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=1), tmp_path)
        device = fleet(address, "pi-a", meter=MeterCard("measured", "ina219:x"))
        device.join()
        device.order(round=1)
        request = pb.AwaitEndRequest(
            device_id="pi-a", session=device.card.session, run_id=run_id, round=1, waits_s=300.0
        )
        waiting = device.stub.AwaitEnd.future(request, timeout=120)
        call = operator.watch_watts("pi-a")
        try:
            answer = waiting.result()
            assert (answer.wanted, answer.watts) == (True, True)
            assert live(device, bins(0))
            # It sends: it is not asked again, and the next call waits as ever.
            again = device.stub.AwaitEnd.future(request, timeout=120)
            assert live(device, bins(25))
            found = seen_until(call, lambda seen: seconds(seen) > 0.9)
            assert [one.bins.first_s for one in found if one.bins is not None] == [0.0, 25 * BIN_S]
            assert not again.done()
            soon(lambda: not scheduler.traces.viewers, "the end of it")
            assert not live(device, bins(50)), "nobody looks: it is told to end"
            again.cancel()
        finally:
            call.end()


def joined_fleet(address: str, channels: list[grpc.Channel]) -> list[tuple[Any, DeviceCard]]:
    """Fifty boards at each connection: one holds a hundred calls."""
    found = []
    for number, channel in enumerate(channels):
        stub = rpc.DeviceServiceStub(channel)
        for at in range(50):
            name = f"pi-{50 * number + at:03d}"
            card = DeviceCard(
                name, f"of {name}", "0.1.0", "pi4", Engine("x", "1", "none"), MeterCard("measured", "x"), 9, 0
            )
            stub.Join(card_to(card, PROTOCOL), timeout=60, wait_for_ready=True)
            found.append((stub, card))
    return found


def test_of_two_hundred_boards_one_is_asked(watched: tuple[str, RunScheduler]) -> None:
    address, scheduler = watched
    alone = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=alone) for _ in range(4)]
    boards = joined_fleet(address, channels)
    waiting = []
    for stub, card in boards:
        request = pb.NextOrderRequest(device_id=card.device_id, session=card.session, waits_s=300.0)
        waiting.append(stub.NextOrder.future(request, timeout=200))
    soon(lambda: held(scheduler) == 200, "calls that wait")
    stub, card = boards[7]
    with Operator(address) as operator:
        call = operator.watch_watts(card.device_id)
        try:
            assert waiting[7].result().wait.watts
            for at in range(60):
                request = pb.LiveWattsRequest(
                    device_id=card.device_id, session=card.session, bins=bins_to(bins(25 * at))
                )
                assert stub.LiveWatts(request, timeout=20).wanted
                # 12 bytes of headings, names, and four figures of four bytes for each of 25 bins.
                assert request.ByteSize() < 450 + 20
            last_s = 59 * 25 * BIN_S
            found = seen_until(call, lambda seen: seen[-1].bins is not None and seen[-1].bins.first_s >= last_s)
            assert [at for at, one in enumerate(waiting) if one.done()] == [7], "nobody else was answered, or asked"
            assert (scheduler.traces.messages, scheduler.traces.bins) == (60, 60 * 25)
            # What was too much for a viewer is counted, and the oldest of it goes.
            assert len([one for one in found if one.bins is not None]) + found[-1].skipped == 60
            sizes = [len(event_of(one)) for one in found if one.bins is not None]
            assert max(sizes) < 600, "bytes of half a second, as the page is given it"
        finally:
            call.end()
    for one in waiting:
        one.cancel()
    for channel in channels:
        channel.close()


def test_what_no_board_can_measure_is_refused(watched: tuple[str, RunScheduler], fleet: Fleet) -> None:
    address, scheduler = watched
    device = fleet(address, "pi-a")
    device.join()
    names = ("mean_w", "low_w", "high_w", "covered_s")
    wrong = [
        pb.PowerBins(first_s=0, bin_s=0.02, mean_w=b"123"),
        pb.PowerBins(first_s=float("nan"), bin_s=0.02),
        pb.PowerBins(first_s=0, bin_s=0.0),
        pb.PowerBins(first_s=0, bin_s=0.02, mean_w=np.float32([np.nan]).tobytes()),
        pb.PowerBins(first_s=0, bin_s=0.02, mean_w=bytes(4), low_w=bytes(4), high_w=bytes(4), covered_s=bytes(8)),
        pb.PowerBins(first_s=0, bin_s=0.02, **dict.fromkeys(names, bytes(4 * 513))),
        pb.PowerBins(first_s=0, bin_s=0.02, mean_w=bytes(4), low_w=bytes(4), high_w=bytes(4),
                     covered_s=np.float32([0.03]).tobytes()),
    ]  # fmt: skip
    for each_bins in wrong:
        request = pb.LiveWattsRequest(device_id="pi-a", session=device.card.session, bins=each_bins)
        with pytest.raises(grpc.RpcError) as caught:
            device.stub.LiveWatts(request, timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert scheduler.traces.messages == 0
    strange = pb.LiveWattsRequest(device_id="pi-a", session="another", bins=bins_to(bins(0)))
    assert not device.stub.LiveWatts(strange, timeout=20).wanted


def test_a_name_that_no_board_has_is_refused_and_an_absent_board_is_told(
    watched: tuple[str, RunScheduler], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "SILENT_S", 0.05)
    address, _ = watched
    device = fleet(address, "pi-a")
    device.join()
    device.leave()
    with Operator(address) as operator:
        with pytest.raises(UnknownRunError, match="pi-a"):
            list(operator.watch_watts("pi-b"))
        found = seen_until(operator.watch_watts("pi-a"), lambda seen: len(seen) > 2)
        assert {one.reason for one in found} == {"pi-a has left"}
        device.join()
        # One that does not know the word is asked ever more rarely, and whoever looks is told.
        call = operator.watch_watts("pi-a")
        found = []
        for one in call:
            found.append(one)
            request = pb.NextOrderRequest(device_id="pi-a", session=device.card.session, waits_s=0.2)
            device.stub.NextOrder(request, timeout=20)
            if "too old" in one.reason:
                call.end()
        assert found[0].reason == "pi-a is asked"
