"""Boards at work on a Ray cluster: the bits of one process, whatever is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.api import simulate
from coordinator.cli import main
from coordinator.simulation import ray_cluster
from coordinator.simulation.devices import EngineError
from coordinator.simulation.fleet import FleetSettings
from coordinator.simulation.results import Simulated
from protos.model.engine import engine_identity
from protos.orders import Engine

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


def test_a_node_with_another_runtime_is_refused() -> None:
    fleet = ray_cluster._Fleet(
        "key", Engine("ai-edge-litert", "1.0.0", "none"), {}, np.zeros((0, 0)), np.zeros(0), "", [],
        FleetSettings(devices=1, data="none.npz"),
    )  # fmt: skip
    with pytest.raises(EngineError, match=r"ai-edge-litert 1\.0\.0"):
        ray_cluster._Workshop(fleet)


def test_a_bundle_that_a_node_cannot_open_is_no_fault_of_a_board() -> None:
    one = engine_identity()
    fleet = ray_cluster._Fleet(
        uuid.uuid4().hex, Engine(one.name, one.version, one.delegate), {"manifest.json": b"{}"}, np.zeros((0, 0)),
        np.zeros(0), "", [], FleetSettings(devices=1, data="none.npz"),
    )  # fmt: skip
    with pytest.raises(EngineError, match="a node cannot open the fleet"):
        ray_cluster.opened(fleet)
    ray_cluster.sweep(fleet.key)
    assert not list(Path(tempfile.gettempdir()).glob(f"edgejoule-ray-{fleet.key[:12]}*"))


def test_folders_of_workers_that_are_gone_are_taken_away_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hold = (
        "import os, sys, time; from protos.file_lock import lock; os.mkdir(sys.argv[1]);"
        "lock(os.open(sys.argv[1] + '/held', os.O_RDWR | os.O_CREAT)); print('held', flush=True); time.sleep(600)"
    )
    folders = [tmp_path / f"edgejoule-ray-{name}-x" for name in ("one", "two")]
    workers = [subprocess.Popen([sys.executable, "-c", hold, folder], stdout=subprocess.PIPE) for folder in folders]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"held\n"
        (tmp_path / "edgejoule-ray-new").mkdir()
        (tmp_path / "thesis").mkdir()
        workers[0].kill()
        workers[0].wait()
        ray_cluster.sweep()
        kept = {"edgejoule-ray-new", "edgejoule-ray-two-x", "thesis"}
        assert {path.name for path in tmp_path.iterdir()} == kept
        workers[1].kill()
        ray_cluster.sweep("two", 20.0)
        assert {path.name for path in tmp_path.iterdir()} == kept - {"edgejoule-ray-two-x"}
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()


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


def _same(simulation: Simulated, other: Simulated) -> None:
    assert simulation.outcome == other.outcome
    assert all(np.array_equal(simulation.head[name], other.head[name]) for name in simulation.head)
    assert all(
        np.array_equal(simulation.arrays[name], other.arrays[name], equal_nan=True) for name in simulation.arrays
    )
    assert simulation.virtual_s == other.virtual_s


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
def test_a_node_that_cannot_open_the_bundle_ends_the_simulation_and_blames_no_board(
    run: Run, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ray_cluster._work

    def damaged(*given: Any) -> Any:
        from coordinator.simulation import ray_cluster as there
        from protos.errors import ModelError

        def refuse(path: Any) -> Any:
            raise ModelError("its disk is full of holes")

        there._here, there.open_bundle = None, refuse
        return work(*given)

    monkeypatch.setattr(ray_cluster, "_work", damaged)
    with pytest.raises(EngineError, match="full of holes"):
        run("ray", devices=1)


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


@pytest.mark.processes
def test_a_cluster_of_its_own_is_as_polite_as_it_and_leaves_nothing_in_the_temporary_folder(
    digits: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'edgejoule[ray]'")
    script = (
        "import os, sys, ray; from coordinator.api import simulate\n"
        "told = lambda status: print('niceness', ray.get(ray.remote(lambda: os.nice(0)).remote()) - os.nice(0))\n"
        "made = simulate({'run': {'rounds': 1}, 'train': {'epochs': 1}}, engine='ray', devices=2, data=sys.argv[1],"
        " bundle=sys.argv[2], on_round=told)\n"
        "print(made.outcome.run['state'])"
    )
    root = str(Path(__file__).resolve().parents[3])
    place = {**os.environ, "TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp", "PYTHONPATH": root}
    for name in ("RAY_ADDRESS", "RAY_worker_niceness"):
        place.pop(name, None)
    command = [sys.executable, "-c", script, str(digits / "digits.npz"), str(digits / "digits")]
    done = subprocess.run(command, capture_output=True, text=True, env=place, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["niceness 0", "finished"]
    assert not list(tmp_path.glob("edgejoule-ray-*"))
