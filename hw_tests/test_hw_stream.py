"""The stream of samples: nothing lost, in order, at the rate of the sensor's setting, sums that agree."""

from __future__ import annotations

import itertools

import pytest

from firmware_tools.bridge.client.observation import Observation
from firmware_tools.bridge.client.selftest import nominal_rates
from protos.bridge.commands import Command, command
from protos.bridge.hello import Feature
from protos.energy.ina219 import PROFILES, Config

pytestmark = pytest.mark.needs("ina219-bridge")


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_is_lost_and_the_rate_is_right(bench, bridge, measure, profile):
    bridge.hello(bench.tolerance("hello_s"))
    hello = bridge.tell(command(Command.SET_PROFILE, PROFILES[profile].code))
    seen = Observation()
    bridge.observer = seen
    before = bridge.parser.drops.frames + bridge.malformed
    flush = command(Command.FLUSH, bench.sensor)
    # From one STATS to another, so that sums and samples can be compared.
    bridge.send(flush)
    for _ in bridge.listen(bench.duration_s("stream_s")):
        pass
    bridge.send(flush)
    for _ in bridge.listen(0.5):
        pass

    log = seen.log(bench.sensor)
    numbers = [batch.seq for batch in log.batches]
    steps = {(later - earlier) & 0xFFFF for earlier, later in itertools.pairwise(numbers)}
    damaged = bridge.parser.drops.frames + bridge.malformed - before
    allowed = bench.tolerance("lost_batches")
    measure("batches heard", len(numbers), "1", limit=(2, None))
    measure("batches lost", log.lost, "1", limit=allowed)
    measure("batches dropped by the bridge", log.dropped + log.increase("tx_dropped"), "1", limit=allowed)
    measure("damaged frames", damaged, "1", limit=allowed)
    assert steps == {1} or log.lost, "what is not lost comes in order"
    assert seen.restarts == 0

    config = Config.of(hello.sensors[bench.sensor].config)
    slowest_hz, fastest_hz = nominal_rates(config, dithered=bool(hello.features & Feature.DITHER))
    margin = bench.tolerance("rate_relative")
    seconds = log.increase("time") * 1e-6
    assert seconds > 0, "two sums with samples between them"
    limit = (slowest_hz * (1 - margin), fastest_hz * (1 + margin))
    measure("samples a second", log.increase("samples") / seconds, "Hz", limit=limit)
    measure("share of time covered", seconds / (log.increase("tick") * 1e-6), "1", limit=(1 - margin, 1 + margin))
    measure("errors on I2C", log.increase("i2c_errors"), "1", limit=0)
    assert log.sums_agree() is True, "the bridge's sums are those of its samples"
