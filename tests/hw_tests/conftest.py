"""Benches for the plugin's own tests: environment files, and a "real" bench whose port leads to a simulated machine."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.images.manifest import IMAGES, image_of
from firmware_tools.bridge.machine.build import APT, cache_folder, missing
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from hw_tests.bench.lock import lock_path
from hw_tests.bench.simulated import urgent
from protos.bridge.commands import calibration_command
from protos.energy.ina219 import Calibration

ROOT = Path(__file__).resolve().parents[2]
# Before pytester gives the tests another HOME.
CACHE = cache_folder().parent
TRUE_W = 2.5

REAL = """
targets:
  main:
    features: [{features}]
    resources:
      RawSerialPort: {{port: "{port}", speed: 500000}}
    drivers:
      SerialDriver: {{}}
x-edgejoule:
  version: 1
  bench: {name}
  bridge: {{shunt_ohm: 0.02}}
  load: {{kind: fixed}}
  reference: {{instrument: the simulated load itself, power_w: {watts}, uncertainty_w: 0.001}}
  power:
    on: {switch} on
    off: {switch} off
    off_s: 0.1
    ready_s: 5
  durations: {{phase_s: 0.5}}
  tolerances:
    hello_s: 30
    rate_relative: 0.12
    lost_batches: 0
    clock_limit_s: 0.02
    clock_drift_ppm: 5000
    recovery_s: 30
    constant_relative: 0.5
    round_relative: 0.05
"""


@pytest.fixture
def environment_file(tmp_path: Path) -> Callable[..., Path]:
    """Write an environment file of a real bench; each pair of texts is replaced in it."""

    def write(
        *changes: tuple[str, str],
        port: str = "/dev/ttyBENCH",
        features: str = "ina219-bridge, known-load, power-switch",
        name: str = "bench-1",
        switch: str = "true",
        watts: float = TRUE_W,
    ) -> Path:
        text = REAL.format(features=features, port=port, name=name, switch=switch, watts=watts)
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} must stand there once"
            text = text.replace(old, new)
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def bench_name() -> Iterator[str]:
    """Locks of real benches are shared by the host: this one is nobody else's, and does not stay."""
    name = f"test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    lock_path(name).unlink(missing_ok=True)


@pytest.fixture
def inner(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Write a test file and run pytest with our plugin on it, as a program of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    for name in ("HW_ENV", "LG_ENV", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    lines = ["addopts = --strict-markers", "filterwarnings = error", "junit_family = xunit1", "markers = slow: long"]
    pytester.makeini("\n".join(["[pytest]", *lines]))
    pytester.makeconftest('pytest_plugins = ["hw_tests.conftest"]')

    def run(source: str, *options: object) -> pytest.RunResult:
        pytester.makepyfile(test_inner=textwrap.dedent(source))
        artifacts = ["--hw-artifacts", str(pytester.path / "artifacts")]
        # The path is needed: pytest looks there for the plugin before it knows that --hw-env takes a value.
        words = [
            sys.executable,
            "-m",
            "pytest",
            "test_inner.py",
            "-rs",
            "-p",
            "no:cacheprovider",
            *artifacts,
            *map(str, options),
        ]
        return pytester.run(*words, timeout=120)

    return run


@pytest.fixture
def switch(tmp_path: Path) -> tuple[str, Path]:
    """A command that notes what a power switch was told, and the file that it writes to."""
    told = tmp_path / "switched.txt"
    told.touch()
    script = tmp_path / "switch.sh"
    script.write_text(f'#!/bin/sh\necho "$1" >> "{told}"\n')
    return f"sh {script}", told


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FirmwareMachine]]:
    """Start the bridge's real firmware in the simulated machine behind a port, with a constant load, calibrated."""
    if what := missing():
        pytest.skip(f"{what}: {APT}")
    with contextlib.ExitStack() as stack:

        def begin(**fields: float) -> FirmwareMachine:
            sensor = SensorSpec(f"constant:{TRUE_W}", **fields)
            spec = MachineSpec(IMAGES / image_of("atmega328p").file, (sensor,), usb="frames")
            with urgent():
                machine = stack.enter_context(FirmwareMachine.serve_pty(spec, tmp_path / "ttyBENCH"))
            _calibrate(str(machine.link))
            return machine

        yield begin


@pytest.fixture
def port(serve: Callable[..., FirmwareMachine]) -> str:
    """A port behind which all is well."""
    return str(serve().link)


def _calibrate(path: str) -> None:
    with BridgeClient(path) as client:
        client.hello(30.0)
        client.tell(calibration_command(0, Calibration(9, 20_000)))
