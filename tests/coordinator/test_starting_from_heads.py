"""A run may begin from the head of another, and names mean the run that people have in mind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from protos.errors import PlanError
from protos.model.bundle import open_bundle
from protos.orders import Holding
from protos.plan.plan import parse

Fleet = Callable[..., Any]


def _plan(tools: Any, bundle: Path, start_from: str = "", *, rounds: int = 1) -> str:
    more = f'start_from = "{start_from}"\n' if start_from else ""
    return str(tools.plan(bundle, rounds=rounds)).replace('name = "test"\n', f'name = "test"\n{more}')


def _play(operator: Operator, fleet: Fleet, address: str, tools: Any, text: str, tmp_path: Path, by: float) -> Any:
    run_id = operator.start_run(text, tmp_path)
    a = fleet(address, "a")
    a.join()
    a.send(a.answer(a.order(), by))
    return tools.finished(operator, run_id)


def _bias(tmp_path: Path, version: str) -> float:
    db = Database(sqlite_url(tmp_path / "state/coordinator.db"))
    with db.reading() as connection:
        head = heads.get(connection, version)
    db.close()
    return float(head["out_bias"][0])


def test_a_run_continues_from_a_run_or_a_head(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        first = _play(operator, fleet, address, tools, _plan(tools, plain_bundle), tmp_path, 1.0)
        reached = first.rounds[1].head_version
        for start in (first.run_id, "test", reached):
            # The newest run of the name is the one before, which began from the first one's head as well.
            found = _play(operator, fleet, address, tools, _plan(tools, plain_bundle, start), tmp_path, 0.0)
            assert found.rounds[0].head_version == reached
        assert _bias(tmp_path, reached) == 1.0


def test_a_run_begins_with_a_head_out_of_a_file(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    head = open_bundle(plain_bundle).initial_head()
    head["out_bias"] = head["out_bias"] + np.float32(3.0)
    np.savez(tmp_path / "distilled.npz", **head)
    np.savez(tmp_path / "other.npz", out_bias=head["out_bias"])
    with Operator(address) as operator:
        found = _play(operator, fleet, address, tools, _plan(tools, plain_bundle, "distilled.npz"), tmp_path, 1.0)
        assert _bias(tmp_path, found.rounds[0].head_version) == head["out_bias"][0]
        assert _bias(tmp_path, found.rounds[1].head_version) == head["out_bias"][0] + 1.0
        for name in ("missing.npz", "other.npz"):
            with pytest.raises(PlanError, match=r"start_from.*out_kernel"):
                operator.start_run(_plan(tools, plain_bundle, name), tmp_path)


def test_a_device_that_makes_heads_is_not_sent_the_bundles_in_place_of_the_one_begun_from(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        first = _play(operator, fleet, address, tools, _plan(tools, plain_bundle), tmp_path, 1.0)
        operator.start_run(_plan(tools, plain_bundle, first.run_id), tmp_path)
        order = fleet(address, "a").order(holding=Holding("", rebuilds=True))
        sent = {one.name: one for one in order.head}
        assert sent, "a bundle does not hold it: it travels whole"
        assert order.head_version == first.rounds[1].head_version
        assert np.any(open_bundle(plain_bundle).initial_head()["out_bias"] == 0.0)


def test_what_is_no_head_for_this_bundle_is_refused_with_the_reason(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    wide = tools.bundle(tmp_path / "wide", width=9)
    with Operator(address) as operator:
        first = _play(operator, fleet, address, tools, _plan(tools, plain_bundle), tmp_path, 1.0)
        with pytest.raises(PlanError, match="other shapes"):
            operator.start_run(_plan(tools, wide, first.run_id), tmp_path)
        with pytest.raises(PlanError, match="no run and no head is called 'nosuch'"):
            operator.start_run(_plan(tools, plain_bundle, "nosuch"), tmp_path)


def test_a_name_means_the_running_run_and_else_the_newest(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        ids = [operator.start_run(_plan(tools, plain_bundle), tmp_path) for _ in range(3)]
        assert operator.status("test")[0].run_id == ids[2], "the newest, while none runs"
        fleet(address, "a").join()
        for run_id in ids:
            tools.until(lambda run=run_id: operator.status(run)[0].state == "running", "its turn")
            assert operator.status("test")[0].run_id == run_id
            operator.stop_run("test")
        assert operator.status("test")[0].run_id == ids[2]


def test_plans_that_start_from_nothing_keep_their_names(plain_bundle: Path, tools: Any) -> None:
    plain, other = parse(_plan(tools, plain_bundle)), parse(_plan(tools, plain_bundle, "run-1"))
    assert plain.run.start_from is None
    assert plain.plan_id != other.plan_id
