"""The bench, and what is on it, as fixtures."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from firmware_tools.bridge.client.port_client import BridgeClient
from hw_tests.bench.bench import Bench, environment_facts
from hw_tests.bench.bench_factory import NO_BENCH, make_bench
from hw_tests.bench.flasher import Flasher
from hw_tests.bench.host_clock import HostClock
from hw_tests.bench.live_meter import LiveMeter
from hw_tests.bench.load import Load
from hw_tests.bench.lock import BenchLock, lock_path
from hw_tests.bench.power import Power
from hw_tests.measurements import file_name
from hw_tests.plugin.keeping import has_failed, keeps_of
from hw_tests.plugin.options import artifacts_folder, environment_of
from hw_tests.plugin.report import add_facts
from protos.errors import EdgejouleError

__all__ = ["MakeMeter"]

MakeMeter = Callable[..., LiveMeter]


@pytest.fixture(scope="session", autouse=True)
def reserved(request: pytest.FixtureRequest) -> Iterator[None]:
    """The bench is this session's alone, before the first test that uses any part of it."""
    config = request.config
    environment = environment_of(config)
    if environment is None:
        yield
        return
    folder = artifacts_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    # A simulated bench belongs to the folder that it writes to; a real one to everybody on this host.
    path = folder / ".bench.lock" if environment.simulated else lock_path(environment.name)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(BenchLock(path, what=environment.name, wait_s=config.getoption("--hw-wait")))
        except EdgejouleError as error:
            pytest.exit(f"{error}", returncode=error.exit_code)
        # A signal to end must not leave the power on: it unwinds like Ctrl-C.
        stack.enter_context(_ended_in_order())
        add_facts(config, environment_facts(environment))
        yield


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config, reserved: None) -> Iterator[Bench]:
    """The bench, switched on, with a bridge that answers; off at the session's end."""
    environment = environment_of(pytestconfig)
    if environment is None:
        pytest.skip(NO_BENCH)
    made = make_bench(environment)
    keeps, log = keeps_of(pytestconfig), artifacts_folder(pytestconfig) / "bench.log"
    try:
        made.open()
    except EdgejouleError as error:
        made.diary.save(log)
        still_on = made.power is not None and made.power.is_on is not False
        pytest.exit(f"{error}{'; the supply may still be on' if still_on else ''}", returncode=error.exit_code)
    keeps.bench = made
    add_facts(pytestconfig, made.facts())
    try:
        yield made
    finally:
        made.diary.note("the session ends")
        keeps.bench = None
        try:
            with _undisturbed():
                made.close(keep_power=pytestconfig.getoption("--hw-keep") and has_failed(pytestconfig))
        finally:
            made.diary.save(log)


@pytest.fixture(scope="session", autouse=True)
def supplied(request: pytest.FixtureRequest, reserved: None) -> None:
    """A bench whose supply is switched is switched on for every test, also for those of its board alone."""
    environment = environment_of(request.config)
    if environment is not None and not environment.simulated and "power-switch" in environment.features:
        request.getfixturevalue("bench")


@pytest.fixture(autouse=True)
def calmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test has broken, the next one does not find; after its failure was written down."""
    yield
    bench = keeps_of(request.config).bench
    if bench is not None:
        bench.calm()


def _ended_in_order() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP become KeyboardInterrupt, after which pytest runs every finaliser."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(f"signal {number}")

    return _handled(end, signal.SIGTERM, signal.SIGHUP)


def _undisturbed() -> AbstractContextManager[None]:
    """Signals to end change nothing: another Ctrl-C must not keep the power on. What runs within is bounded."""
    return _handled(lambda number, frame: None, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


@pytest.fixture
def bench_files(bench: Bench, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for what this test writes of the bench; of the first test that fails it is kept."""
    keeps_of(request.config).files = tmp_path
    return tmp_path


@pytest.fixture
def clock(bench: Bench) -> HostClock:
    """The host's clock, and waiting."""
    return bench.clock


@pytest.fixture
def load(bench: Bench) -> Load:
    """What the bench draws. Needs ``known-load``."""
    if bench.load is None:
        pytest.skip(f"bench {bench.name} lacks a load")
    return bench.load


@pytest.fixture
def power(bench: Bench) -> Iterator[Power]:
    """The switch in the supply; on at the beginning, and on again afterwards. Needs ``power-switch``."""
    if bench.power is None:
        pytest.skip(f"bench {bench.name} lacks a power switch")
    yield bench.power
    if bench.power.is_on is not True:
        bench.power.on()
        bench.hello()


@pytest.fixture
def bridge(bench: Bench) -> Iterator[BridgeClient]:
    """The bridge's port, opened for this test alone; whoever needs it otherwise calls ``close()`` first."""
    with bench.bridge() as client:
        yield client


@pytest.fixture
def meter(bench: Bench, bench_files: Path, request: pytest.FixtureRequest) -> Iterator[MakeMeter]:
    """``meter(profile=None)``: the device's own meter on the bridge, recording; closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        made: list[LiveMeter] = []
        recordings: list[Path] = []

        def fresh() -> Path:
            recordings.append(bench_files / f"{file_name(request.node.nodeid)}-{len(recordings)}.ejr")
            return recordings[-1]

        def make(profile: str | None = None) -> LiveMeter:
            for earlier in made:
                earlier.close()
            made.append(LiveMeter(bench, profile=profile or bench.profile, record=fresh))
            stack.callback(made[-1].close)
            return made[-1]

        yield make


@pytest.fixture
def flasher(bench: Bench, bench_files: Path) -> Flasher:
    """Puts firmware onto the bridge. Needs ``flash``; its tests are ``destructive``."""
    return Flasher(bench, bench_files)
