"""The head that a run ended with reaches every board, also one that was away; what boards say of heads is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus
from protos.errors import PlanError
from protos.model.bundle import open_bundle
from protos.orders import HeadEvaluation, Holding, Publication, Reception, WaitOrder
from protos.plan.plan import parse
from protos.update.tensors import decode
from protos.update.trees import version

Fleet = Callable[..., Any]


def finish(
    operator: Operator, device: Any, tools: Any, bundle: Path, folder: Path, changes: list[float], **plan: Any
) -> RunStatus:
    """A run in which this device adds these numbers to every coordinate, round by round."""
    text = tools.plan(bundle, rounds=len(changes), **plan)
    run_id = operator.start_run(text, folder)
    for number, change in enumerate(changes, 1):
        device.send(device.answer(device.order(number), change))
    found: RunStatus = tools.finished(operator, run_id)
    return found


def published(device: Any, tools: Any, held: str = "", bundle_id: str = "") -> Publication | None:
    """What a device is sent that has dealt with ``held``."""
    order = device.ask(holding=Holding(bundle_id=bundle_id, published=held))
    assert isinstance(order, WaitOrder)
    return order.publication


def test_the_final_head_goes_to_all_also_to_who_was_away_and_over_a_restart(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle = open_bundle(plain_bundle)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        device = fleet(address, "here")
        device.join()
        run = finish(operator, device, tools, plain_bundle, tmp_path, [0.5, 0.25])
        got = published(device, tools)
        assert got is not None
        assert (got.run_id, got.name, got.bundle_id, got.round) == (run.run_id, "test", bundle.bundle_id, 2)
        head = decode(got.head, bundle.manifest.head.shapes())
        assert version(head) == got.head_version == run.rounds[2].head_version
        start = bundle.initial_head()
        assert all(np.allclose(head[name], start[name] + 0.75) for name in start)
        assert published(device, tools, got.id) is None, "it has dealt with it"
    # A coordinator that begins anew, and a board that took no part.
    with tools.served(tmp_path / "state") as address:
        late = fleet(address, "was-away")
        late.join()
        again = published(late, tools, bundle_id=bundle.bundle_id)
        assert again is not None
        assert again.id == got.id
        assert published(late, tools, bundle_id="sha256:" + "0" * 64) is None, "another model's board"
        # A device of an earlier release says nothing of publications.
        order = late.ask()
        assert isinstance(order, WaitOrder)
        assert order.publication is None
        # Who holds the head already is sent only its name.
        order = late.ask(holding=Holding(head_version=got.head_version, published=""))
        assert isinstance(order, WaitOrder)
        assert order.publication is not None
        assert (order.publication.base, order.publication.head) == (got.head_version, ())


def test_a_held_call_ends_when_a_run_ends(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.server.run_scheduler.HOLD_S", 60.0)
    with Operator(address) as operator:
        works, waits = fleet(address, "works"), fleet(address, "waits", train_examples=40)
        works.join()
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        order = works.order()
        waits.join()
        # The call is open while the run ends.
        import threading

        heard: list[Any] = []
        asking = threading.Thread(
            target=lambda: heard.append(waits.ask(holding=Holding(published=""))), name="asks", daemon=True
        )
        asking.start()
        works.send(works.answer(order, 1.0))
        tools.finished(operator, run_id)
        asking.join(20)
    assert heard
    assert heard[0].publication.run_id == run_id


def test_the_plan_says_which_head_and_the_newest_run_of_a_bundle_counts(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        device = fleet(address, "a")
        device.join()
        first = finish(operator, device, tools, plain_bundle, tmp_path, [0.5])
        text = tools.plan(plain_bundle).replace("[run]\n", '[run]\ndeliver = "none"\n')
        run_id = operator.start_run(text, tmp_path)
        device.send(device.answer(device.order(), 9.0))
        tools.finished(operator, run_id)
        got = published(device, tools)
        assert got is not None
        assert got.run_id == first.run_id
        third = finish(operator, device, tools, plain_bundle, tmp_path, [0.125])
        got = published(device, tools, got.id)
        assert got is not None
        assert got.run_id == third.run_id
    with pytest.raises(PlanError, match="no head is called 'bets'"):
        parse('[run]\nbundle = "b"\ndeliver = "bets"\n')
    same = [parse(f'[run]\nbundle = "b"\n{more}').plan_id for more in ("", 'deliver = "last"\n', 'deliver = "best"\n')]
    assert same[0] == same[1] != same[2]


def test_what_devices_say_of_a_head_is_shown_weighted_by_counts(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        a, b = fleet(address, "a"), fleet(address, "b")
        for one in (a, b):
            one.join()
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=2, devices=2), tmp_path)
        for number in (1, 2):
            for one, of, right, loss in ((a, 30, 15, 1.0), (b, 10, 10, 0.2)):
                order = one.order(number)
                assert order.evaluate, "nobody else can say how good the head is"
                said = HeadEvaluation(order.head_version, of, right, loss, (of - 5, 5), (right - 5, 5))
                one.send(one.answer(order, 0.5, evaluation=said if number == 2 or one is a else None))
        run = tools.finished(operator, run_id)
        zero, first, last = run.rounds
        assert zero.federated is not None
        assert (zero.federated.devices, zero.federated.examples) == (1, 30)
        found = first.federated
        assert found is not None
        assert (found.devices, found.examples, found.correct, found.accuracy) == (2, 40, 25, 0.625)
        assert found.loss == pytest.approx((30 * 1.0 + 10 * 0.2) / 40)
        assert (found.class_examples, found.class_correct) == ((30, 10), (15, 10))
        assert last.federated is None
        assert first.accuracy is None, "devices' figures are not taken for the coordinator's own"
        # What they do with the head that the run ended with; the newest word of each counts.
        name = f"{run_id}/{last.head_version}"
        better = HeadEvaluation(last.head_version, 10, 9, 0.1)
        for one, taken in ((a, False), (a, True), (b, False)):
            one.ask(receptions=(Reception(name, taken, "why", better if one is a else None),))
        (run,) = operator.status(run_id)
        found = run.rounds[2].federated
        assert found is not None
        assert (found.devices, found.adopted, found.kept, found.accuracy) == (1, 1, 1, 0.9)
        # Of a run that nobody knows, nothing is kept.
        a.ask(receptions=(Reception("run-x/head-y", True, ""),))
