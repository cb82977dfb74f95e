"""``edge_runtime.api``: joules of pieces of a program, over a simulated bridge, a model, a recording, and nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from edge_runtime import api
from edge_runtime.api import EnergyWarning, Meter, UsageError, measure
from edge_runtime.cli import main
from protos.errors import DataError, SensorError, StoreError


def spin(seconds: float) -> None:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        sum(range(1000))


def test_a_window_has_its_joules_with_their_interval(plug_in):
    bridge = plug_in(load="square:2,6,0.1", profile="transient", seed=3)
    with Meter(f"serial:{bridge.spec.link}") as meter:
        with meter.window("round") as outer:
            with meter.window("infer") as window:
                time.sleep(0.2)
            time.sleep(0.1)
        entry = window._entry
        low_j, high_j = window.interval_j
        truth_j = bridge.truth_j(entry.start_s, entry.stop_s)
        assert low_j <= truth_j <= high_j
        assert window.energy_j == pytest.approx((low_j + high_j) / 2)
        assert (window.method, window.flags, window.sensor) == ("measured", (), f"ina219:{bridge.spec.link}#0")
        assert 5.9 < window.peak_w < 6.2
        assert window.uncertainty_j < window.worst_case_j
        assert window.duration_s == pytest.approx(entry.stop_s - entry.start_s)
        assert outer.energy_j > window.energy_j
    # They keep their figures when the meter is closed.
    document = window.as_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == "edgejoule.window/1"
    assert document["energy_j"] == window.energy_j
    assert str(window).startswith("infer: ")


def test_threads_have_windows_of_their_own(plug_in):
    bridge = plug_in(load="square:2,6,0.05", profile="transient", seed=9)
    windows: list[api.Window] = []

    def work(number: int) -> None:
        for _ in range(3):
            with meter.window(f"thread-{number % 2}") as window:
                time.sleep(0.03 + 0.01 * number)
            assert window.energy_j is not None
            windows.append(window)

    with Meter(f"serial:{bridge.spec.link}") as meter:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        totals = meter.totals()
    assert len(windows) == 18
    for window in windows:
        entry = window._entry
        assert window.energy_j == pytest.approx(bridge.truth_j(entry.start_s, entry.stop_s), abs=window.worst_case_j)
    assert {name: total.windows for name, total in totals.items()} == {"thread-0": 9, "thread-1": 9}
    assert "overlapping" in totals["thread-0"].flags


def test_a_total_adds_up_and_its_interval_is_that_of_the_sum(plug_in):
    bridge = plug_in(load="constant:4", profile="transient", seed=4)
    with Meter(f"serial:{bridge.spec.link}") as meter:
        windows = []
        for _ in range(20):
            with meter.window("infer") as window:
                time.sleep(0.03)
            windows.append(window)
        total = meter.total("infer")
    assert total.windows == 20
    assert total.energy_j == pytest.approx(sum(window.energy_j for window in windows))
    assert total.mean_j == pytest.approx(total.energy_j / 20)
    spreads = [window.uncertainty_j for window in windows]
    # Less than all errors in one direction, more than all of them independent: the scale's is the same in each.
    assert sum(spread**2 for spread in spreads) ** 0.5 < total.uncertainty_j < sum(spreads)
    low_j, high_j = total.interval_j
    assert low_j <= sum(bridge.truth_j(w._entry.start_s, w._entry.stop_s) for w in windows) <= high_j
    assert (total.unknown, total.flags) == (0, ())


def test_the_board_at_rest_is_taken_away(plug_in):
    bridge = plug_in(load="constant:3", seed=2)
    with Meter(f"serial:{bridge.spec.link}") as meter:
        with meter.window("rest") as before:
            time.sleep(0.3)
        with meter.window("nothing") as window:
            time.sleep(0.3)
        with meter.window("rest") as after:
            time.sleep(0.3)
        net, rough = window.net(before, after), window.net(before)
    assert before.mean_w == pytest.approx(3.0, rel=0.01)
    assert net.energy_j == pytest.approx(0.0, abs=max(net.uncertainty_j, 1e-3))
    assert net.uncertainty_j < window.uncertainty_j
    assert net.idle_j == pytest.approx(window.energy_j, rel=0.01)
    assert rough.flags == ("one-baseline",)


def test_an_unknown_energy_is_none_and_is_said(plug_in):
    bridge = plug_in()
    with Meter(f"serial:{bridge.spec.link}") as meter:
        with meter.window("seen") as before:
            time.sleep(0.1)
        assert before.energy_j is not None
        bridge.unplug()
        with meter.window("seen") as window:
            time.sleep(0.3)
        with pytest.warns(EnergyWarning, match="window 'seen': energy unknown") as warned:
            assert window.energy_j is None
        # At the line that asked, and once for the same trouble.
        assert [warning.filename for warning in warned] == [__file__]
        assert window.interval_j is None
        assert "degraded" in window.flags
        assert "energy unknown (degraded" in str(window)
        total = meter.total("seen")
    assert (total.windows, total.unknown, total.energy_j, total.interval_j) == (2, 1, None, None)
    assert total.known_j > 0


def test_a_recorded_program_runs_again_on_its_recording_to_the_same_joules(plug_in, tmp_path):
    bridge, file = plug_in(load="square:2,6,0.1", profile="transient", seed=3), tmp_path / "run.ejr"

    def program(meter: Meter) -> list[api.Window]:
        windows = []
        for _ in range(2):
            with meter.window("round") as outer:
                with meter.window("infer") as inner:
                    time.sleep(0.1)
                time.sleep(0.05)
            windows += [outer, inner]
        return windows

    with Meter(f"serial:{bridge.spec.link}", record=file) as meter:
        live = program(meter)
        with meter.window("once"):
            time.sleep(0.05)
    with Meter(f"replay:{file}") as meter:
        again = program(meter)
        with meter.window("never") as never:
            pass
        recorded = meter.recorded()
        assert meter.total("infer").energy_j == live[1].energy_j + live[3].energy_j
    assert [window.energy_j for window in again] == [window.energy_j for window in live]
    assert [window.uncertainty_j for window in again] == [window.uncertainty_j for window in live]
    assert [window.name for window in recorded] == ["round", "infer", "round", "infer", "once"]
    assert all(window.flags == ("replayed",) for window in recorded)
    with pytest.warns(EnergyWarning, match="not-recorded"):
        assert never.energy_j is None
    with pytest.raises(StoreError, match="never overwritten"):
        Meter(f"serial:{bridge.spec.link}", record=file).open()


def test_a_recording_of_the_command_is_replayed_as_well(plug_in, tmp_path, capsys):
    bridge, file = plug_in(load="constant:4"), tmp_path / "run.ejr"
    words = ["measure", "--sensor", f"serial:{bridge.spec.link}", "--record", str(file), "--json"]
    assert main([*words, "--baseline", "0.1s", "--for", "0.2s"]) == 0
    figures = json.loads(capsys.readouterr().out)
    with Meter(f"replay:{file}") as meter:
        before, window, after = meter.recorded()
    assert [each_window.name for each_window in (before, window, after)] == ["idle-before", "measured", "idle-after"]
    assert window.energy_j == pytest.approx(figures["energy_j"], rel=1e-9)
    assert window.net(before, after).energy_j == pytest.approx(figures["baseline"]["net_j"], abs=1e-9)


def test_a_recording_that_was_cut_says_so(plug_in, tmp_path):
    bridge, file = plug_in(load="constant:4", profile="transient"), tmp_path / "run.ejr"
    with Meter(f"serial:{bridge.spec.link}", record=file) as meter:
        for name, seconds in (("first", 0.3), ("second", 4.0)):
            with meter.window(name) as window:
                time.sleep(seconds)
            assert window.energy_j is not None
    # A power cut: the last blocks are not there, and the one before them is half there.
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 4 // 5])
    with Meter(f"replay:{file}") as meter:
        first, second = meter.recorded()
    assert first.flags == ("replayed",)
    with pytest.warns(EnergyWarning, match="recording-cut"):
        assert first.energy_j < second.energy_j < window.energy_j
    with pytest.raises(DataError):
        Meter(f"replay:{tmp_path / 'none.ejr'}").open()


def test_an_estimate_says_that_it_is_one():
    with Meter("estimate:pi4") as meter:
        with meter.window("sleep") as asleep:
            time.sleep(0.05)
        with meter.window("spin") as busy:
            spin(0.05)
    assert asleep.method == busy.method == "estimated"
    assert busy.mean_w > asleep.mean_w > 0
    low_j, high_j = busy.interval_j
    assert low_j < 0.6 * busy.energy_j
    assert high_j > 1.4 * busy.energy_j
    assert busy.peak_w is None
    assert busy.as_dict()["quality"] == "model"
    assert "estimated" in str(busy)
    with pytest.raises(UsageError, match="no samples to record"):
        Meter("estimate:pi4", record="run.ejr").open()


def test_without_a_sensor_energies_are_unknown(monkeypatch, tmp_path):
    with Meter("none") as meter, meter.window("infer") as window:
        pass
    assert (window.energy_j, window.method, window.flags) == (None, "unknown", ("no-sensor", "degraded"))
    monkeypatch.delenv("EDGEJOULE_SENSOR", raising=False)
    monkeypatch.setattr("edge_runtime.config.SERVICE_CONFIG", tmp_path / "none.toml")
    with pytest.warns(EnergyWarning, match="no sensor is named") as warned:
        Meter().open().close()
    assert [warning.filename for warning in warned] == [__file__]
    monkeypatch.setenv("EDGEJOULE_SENSOR", "estimate:pi5")
    with Meter() as meter:
        assert meter.identity.sensor == "estimate:pi5"
    with pytest.raises(SensorError):
        Meter(f"serial:{tmp_path / 'ttyUSB9'}").open()


def test_a_decorator_makes_each_call_a_window():
    meter, seen = Meter("estimate:pi4"), []

    class Model:
        @measure(meter, "infer", on_window=seen.append)
        def infer(self, value: int) -> int:
            if value < 0:
                raise ValueError("negative")
            return value + 1

    @measure(meter)
    async def later() -> str:
        await asyncio.sleep(0.05)
        return "done"

    with pytest.raises(UsageError, match="is not open"):
        Model().infer(1)
    with meter:
        assert [Model().infer(value) for value in range(3)] == [1, 2, 3]
        with pytest.raises(ValueError, match="negative"):
            Model().infer(-1)
        assert asyncio.run(later()) == "done"
        name = later.__qualname__
        assert meter.last(name).duration_s >= 0.05
        assert meter.total("infer").windows == 4
    assert [window.name for window in seen] == ["infer"] * 4
    assert Model.infer.__name__ == "infer"
    with pytest.raises(UsageError, match="outlives the call"):
        measure("estimate:pi4")(spin)

    def numbers():
        yield 1

    with pytest.raises(UsageError, match="generator"):
        measure(meter)(numbers)


def test_one_block_needs_no_meter():
    with measure("estimate:pi4", "block") as window:
        spin(0.01)
    assert window.energy_j > 0
    with pytest.raises(RuntimeError), measure("none") as window:
        raise RuntimeError
    assert window.energy_j is None


def test_what_cannot_be_read_yet_is_refused_with_what_to_do():
    with Meter("none") as meter:
        window = meter.window("w")
        with pytest.raises(UsageError, match="has not begun"):
            _ = window.energy_j
        with window, pytest.raises(UsageError, match="is still open"):
            _ = window.energy_j
        with pytest.raises(UsageError, match="has begun before"):
            window.begin()
        left_open = meter.window("left").begin()
    assert "meter-closed" in left_open.flags
    with pytest.raises(UsageError, match="is closed"):
        meter.window("late").begin()
    with pytest.raises(UsageError, match="was opened before"):
        meter.open()


def test_a_meter_does_not_go_through_a_fork():
    script = """
import os
from edge_runtime.api import Meter
with Meter("estimate:pi4") as meter:
    if (child := os.fork()) == 0:
        try:
            meter.window("w").begin()
        except ValueError as error:
            os._exit(7 if "fork" in str(error) else 1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["7"]


def test_the_face_brings_in_nothing_heavy():
    script = (
        "import sys, edge_runtime.api\n"
        "print(*({'grpc', 'google.protobuf', 'serial', 'ai_edge_litert', 'importlib.metadata'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == []
