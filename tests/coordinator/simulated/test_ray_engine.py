"""Boards at work on a Ray cluster: the bits of one process, whatever is lost on the way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.api import simulate
from coordinator.cli import main
from coordinator.simulation import ray_cluster
from coordinator.simulation.results import Simulated

# Budgets cut, boards lose power, a codec remembers on disk, heads travel as differences.
PLAN = {
    "run": {"name": "spread", "rounds": 3, "seed": 3},
    "round": {"quorum": 0.3, "deadline_s": 20.0},
    "train": {"rate": 0.05, "epochs": 40},
    "update": {"codec": "sign"},
    "budget": {"per_round_j": 1.5},
}
HARD: dict[str, Any] = {"dropout": 0.4, "stragglers": 0.25, "away_s": 2.0, "seed": 4, "spread": 0.5}
Run = Callable[..., Simulated]


@pytest.fixture
def run(digits: Path) -> Run:
    def made(engine: str, **more: Any) -> Simulated:
        given: dict[str, Any] = {"devices": 6, "data": str(digits / "digits.npz"), "bundle": digits / "digits"}
        return simulate(PLAN, engine=engine, **(given | HARD | more))

    return made


def test_without_ray_one_line_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        words = ["simulate", str(tmp_path / "plan.toml"), "--devices", "2", "--data", "x.npz", "--engine", "ray"]
        assert main(words) == 2
        assert "edgejoule[ray]" in capsys.readouterr().err
    else:
        pytest.skip("Ray is installed")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes on this machine, which this process has joined; a second node that can be taken away."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'edgejoule[ray]'")
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).resolve().parents[3])
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before["PYTHONPATH"])))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, cluster.add_node(num_cpus=1, **memory)
    finally:
        ray.shutdown()
        cluster.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _same(one: Simulated, other: Simulated) -> None:
    assert one.outcome == other.outcome
    assert all(np.array_equal(one.head[name], other.head[name]) for name in one.head)
    assert all(np.array_equal(one.arrays[name], other.arrays[name], equal_nan=True) for name in one.arrays)
    assert one.virtual_s == other.virtual_s


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_bits_of_one_process_though_a_worker_and_a_node_are_lost(
    run: Run, nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, second = nodes
    flag, work = str(tmp_path / "died"), ray_cluster._work

    def dies_once(*given: Any) -> Any:
        if given[2] == 2 and not os.path.exists(flag):
            with open(flag, "w"):
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*given)

    monkeypatch.setattr(ray_cluster, "_work", dies_once)
    told: list[int] = []

    def on_round(status: Any) -> None:
        told.append(status.round)
        if status.round == 1:
            cluster.remove_node(second)

    spread = run("ray", on_round=on_round)
    assert Path(flag).exists()
    assert told == [1, 2, 3]
    assert spread.engine == "ray"
    alone = run("exact")
    assert alone.arrays["cut"].any()
    # What a board spent before its power went was told by nobody.
    assert alone.arrays["true_j"].sum() > np.nansum(alone.arrays["energy_j"][..., 1:]) + 0.01
    _same(alone, spread)


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_whoever_stops_it_leaves_nothing_at_work_on_the_cluster(run: Run, nodes: Any) -> None:
    import ray

    def stop(status: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("ray", on_round=stop)
    # The cluster is the caller's, and stays; its processors come free.
    for _ in range(600):
        if ray.available_resources().get("CPU") == ray.cluster_resources().get("CPU"):
            break
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_an_order_that_kills_every_worker_ends_the_simulation_in_words(
    run: Run, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ray_cluster, "_work", dies)
    monkeypatch.setattr(ray_cluster, "_AGAIN", 1)
    with pytest.raises(ray_cluster.ClusterError, match="begun up to 2 times"):
        run("ray", devices=1)
    assert "ray" in sys.modules
