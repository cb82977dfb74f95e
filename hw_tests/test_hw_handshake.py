"""The bridge says who it is: soon, whole, and to one reader alone."""

from __future__ import annotations

import pytest

from firmware_tools.bridge.client.port_client import BridgeClient
from protos.bridge.hello import PROTOCOL
from protos.errors import SensorError

pytestmark = pytest.mark.needs("ina219-bridge")


def test_the_bridge_says_who_it_is_soon_after_its_port_was_opened(bench, clock, measure):
    begun_s = clock.monotonic()
    hello = bench.hello()
    measure("seconds until HELLO", clock.monotonic() - begun_s, "s", limit=bench.tolerance("hello_s"))
    measure("sensors", len(hello.sensors), "1", limit=(bench.sensor + 1, 4))
    assert hello.protocol[0] == PROTOCOL[0]
    assert hello.sensors[bench.sensor].state == 0, "0 is working"
    assert any(hello.build), "an image that firmware-tools built has an id"


def test_it_answers_the_same_each_time(bench, bridge):
    first, again = (bridge.hello(bench.tolerance("hello_s")) for _ in range(2))
    assert (again.uid, again.build, again.boot) == (first.uid, first.build, first.boot)
    assert again.tick > first.tick
    assert again.sensors == first.sensors


def test_a_second_reader_is_refused_and_the_first_goes_on(bench, bridge):
    bridge.hello(bench.tolerance("hello_s"))
    with pytest.raises(SensorError, match="in use by another program"):
        BridgeClient(bench.port, opener=bench.wire.open)
    assert bridge.hello(bench.tolerance("hello_s"))
