"""The C core as a shared library, built once, and the bridges that one contract holds for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_rigs import CoreRig, MachineRig, Rig, TwinRig, compile_core


@pytest.fixture(scope="session")
def core_library(tmp_path_factory):
    return compile_core(tmp_path_factory.mktemp("core") / "core.so", "-O1", "-shared", "-fPIC")


@pytest.fixture
def core(core_library) -> CoreRig:
    """A freshly booted core with two sensors."""
    return CoreRig(core_library)


@pytest.fixture(params=["twin", "core", "image"])
def rig(request) -> Iterator[Rig]:
    if request.param == "twin":
        yield TwinRig()
    elif request.param == "core":
        yield CoreRig(request.getfixturevalue("core_library"))
    else:
        machine = MachineRig()
        yield machine
        machine.close()
