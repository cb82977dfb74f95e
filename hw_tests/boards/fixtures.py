"""A board, a coordinator for it, and edgejoule on it, as fixtures. The plugin of the bench loads this file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from coordinator.lab.processes import Children
from hw_tests.boards.board import Board, NoBoard
from hw_tests.boards.box import Box
from hw_tests.boards.deployed import Deployed
from hw_tests.boards.ssh import SshBoard
from hw_tests.boards.station import Station
from hw_tests.plugin.options import environment_of


@pytest.fixture(scope="session")
def board(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The bench's machine: a booted box on a simulated bench, else the board behind its ssh address."""
    environment = environment_of(pytestconfig)
    if environment is None:
        pytest.skip("no bench is named: give --hw-sim or --hw-env")
    try:
        if environment.host is not None:
            made: Board = SshBoard(environment.host)
        elif environment.simulated:
            made = Box(tmp_path_factory.mktemp("box"))
        else:
            pytest.skip(f"bench {environment.name} names no board to act on (x-edgejoule.board.ssh)")
    except NoBoard as reason:
        pytest.skip(f"no board: {reason}")
    with contextlib.closing(made):
        yield made


@pytest.fixture(scope="session")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A coordinator on this machine, for one device."""
    folder = tmp_path_factory.mktemp("station")
    with Children(folder / "logs") as children:
        try:
            yield Station(folder, children)
        except NoBoard as reason:
            pytest.skip(f"no model: {reason}")


@pytest.fixture(scope="session")
def deployed(board: Board, station: Station, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """This tree's base install on the board, in an ordinary virtual environment, with data; no service yet."""
    if not board.has_systemd:
        pytest.skip(f"{board.name} has no systemd")
    board.expose(station.port)
    try:
        made = Deployed(board, station, tmp_path_factory.mktemp("wheels"))
    except NoBoard as reason:
        pytest.skip(f"no wheels: {reason}")
    made.purge()
    return made


@pytest.fixture
def service(deployed: Deployed) -> Iterator[Deployed]:
    """The same with settings, and without a service; nothing of one stays."""
    deployed.configure()
    yield deployed
    deployed.purge()
