"""Emulated boards: what is needed is fetched once, and what was found is printed as one table at the end.

``--arm-json FILE`` writes the table as JSON. Without network or emulator the tests skip, and the last lines say so.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import arm_machine
import arm_package
import arm_trial
import pytest
from arm_debian import Unavailable
from arm_figures import Figures
from arm_userland import Userland, armv7_userland, userland

_FIGURES = pytest.StashKey[Figures]()
ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--arm-json", metavar="FILE", default=None, help="write what the emulated boards showed, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = Figures()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    here = str(Path(__file__).parent.relative_to(config.rootpath))
    reports = [one for one in terminalreporter.stats.get("skipped", []) if one.nodeid.startswith(here)]
    reasons = sorted(
        {str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in reports}
    )
    if figures.rows:
        terminalreporter.section("emulated boards")
        for line in figures.lines():
            terminalreporter.write_line(line)
    for reason in reasons:
        terminalreporter.write_line(f"SKIPPED, nothing was shown: {reason.removeprefix('Skipped: ')}", yellow=True)
    if path := config.getoption("--arm-json", default=None):
        figures.write(Path(path), skipped=reasons)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash[_FIGURES]


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """``workload(examples)``: a folder with a bundle of 1,024-wide embeddings and data for it."""
    made: dict[int, Path] = {}

    def make(examples: int) -> Path:
        if examples not in made:
            pytest.importorskip("keras", reason="needs TensorFlow: the workshop extra")
            folder = tmp_path_factory.mktemp(f"wide-{examples}")
            command = [sys.executable, ROOT / "benchmarks/inputs/wide_bundle.py", folder, "--examples", examples]
            done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made[examples] = folder
        return made[examples]

    return make


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Userland:
    """Programs for aarch64, emulated one by one."""
    try:
        return userland(tmp_path_factory.mktemp("userland"))
    except Unavailable as error:
        pytest.skip(f"aarch64 programs: {error}")


@pytest.fixture(scope="session")
def old_board(tmp_path_factory: pytest.TempPathFactory) -> Userland:
    """Programs for armv7, emulated one by one."""
    try:
        return armv7_userland(tmp_path_factory.mktemp("userland-armv7"))
    except Unavailable as error:
        pytest.skip(f"armv7 programs: {error}")


@pytest.fixture(scope="session")
def shown(workload: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> arm_trial.Shown:
    """A whole machine's life: one boot for all tests that ask for it."""
    try:
        parts, package = arm_machine.parts(), arm_package.package()
    except Unavailable as error:
        pytest.skip(f"emulated machine: {error}")
    return arm_trial.show(parts, workload(arm_trial.EXAMPLES), package, tmp_path_factory.mktemp("arm-vm"))
