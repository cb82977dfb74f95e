"""A simulated RP2040 that runs the committed image; without node or rp2040js the tests skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rp2040_rig import Pico, missing

from firmware_tools.bridge.images import uf2
from firmware_tools.bridge.images.manifest import image_of, verified_bytes


@pytest.fixture
def pico(tmp_path) -> Iterator[Pico]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    _, image = uf2.unpack(verified_bytes(image_of("rp2040")))
    path = tmp_path / "image.bin"
    path.write_bytes(image)
    machine = Pico(path)
    yield machine
    machine.close()
