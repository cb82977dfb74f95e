"""Reports that wait are read together: each counts as if it had come alone, and one that is damaged harms no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.run.run_driver import RunDriver
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from protos.model.bundle import open_bundle
from protos.orders import Verdict
from protos.update import codecs
from protos.update.entropy import rans, reader
from protos.update.tensors import decode
from protos.update.trees import shapes

Fleet = Callable[..., Any]
# One comes first, and while it is read all the others: one of them is damaged.
DEVICES = rans.SIDE_BY_SIDE + 4
MORE = '[aggregate]\nweight = []\nnormalise = "none"\n'


def test_reports_that_wait_are_read_together_and_count_as_if_each_had_come_alone(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    ahead: list[int] = []
    read, decoded = RunDriver._read, rans.decode_side_by_side

    async def gathers(self: RunDriver, waiting: Any) -> Any:
        together.append(len(waiting))
        while len(together) == 1 and len(self._reading._waiting) < DEVICES - 1:
            await asyncio.sleep(0.01)
        return await read(self, waiting)

    def counted(streams: Any) -> Any:
        found = decoded(streams)
        ahead.append(sum(one is not None for one in found))
        return found

    monkeypatch.setattr(RunDriver, "_read", gathers)
    monkeypatch.setattr(reader.rans, "decode_side_by_side", counted)
    codec = codecs.build("entropy_coded", codecs.resolve("entropy_coded", {}, where="test"), where="test")
    start = open_bundle(plain_bundle).initial_head()
    rng = np.random.default_rng(3)
    tree = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in start.items()}
    update = codec.encode(tree, codec.init(shapes(tree)), codecs.generator(5, "test"))[0]
    (tensor,) = update
    damaged = (replace(tensor, values=replace(tensor.values, codes=tensor.values.codes[:-2])),)  # type: ignore[union-attr]
    text = tools.plan(plain_bundle, rounds=1, devices=DEVICES, quorum=0.9, more=MORE)
    state, threads = tmp_path / "state", ThreadPoolExecutor(DEVICES)
    with threads, tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        with grpc.insecure_channel(address) as channel:
            devices = [fleet(address, f"pi-{number:02}", channel=channel) for number in range(DEVICES)]
            for device in devices:
                device.join()
            reports = [device.answer(device.order(1), 0.0, update=update) for device in devices]
            reports[7] = replace(reports[7], update=damaged)
            first = threads.submit(devices[0].send, reports[0])
            # The damaged one is among those that wait.
            while not together and not first.done():
                time.sleep(0.01)
            rest = threads.map(lambda pair: pair[0].send(pair[1]), zip(devices[1:], reports[1:], strict=True))
            receipts = [*rest]
            receipts.insert(0, first.result())
            status = tools.finished(operator, run_id)
    assert together == [1, DEVICES - 1]
    assert ahead == [DEVICES - 2]
    verdicts = [receipt.verdict for receipt in receipts]
    assert verdicts[7] is Verdict.REJECTED
    assert "bad_update" in receipts[7].reason
    assert verdicts.count(Verdict.ACCEPTED) == DEVICES - 1
    db = Database(sqlite_url(state / "coordinator.db"))
    with db.reading() as connection:
        head = heads.get(connection, status.rounds[1].head_version or "")
    db.close()
    for name, value in decode(update, shapes(start)).items():
        np.testing.assert_allclose(head[name], start[name] + value, atol=1e-5)
