"""A denoiser trained by the device's own round function, and sampled: real bundle, codec, meter and planner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusion_models import called, diffusion_models

from benchmarks.one_pass.fleet import Task
from benchmarks.one_pass.metered import MeteredFleet
from benchmarks.one_pass.methods import averaged, plan_of
from benchmarks.paper_methods import diffusion as papers_diffusion
from coordinator.run.evaluation import Evaluator
from protos.datafiles.dataset import load
from protos.errors import UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.head import Head
from protos.model.head_kinds import diffusion
from protos.model.head_kinds.denoiser import Denoiser

pytestmark = pytest.mark.workshop
ROUNDS = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_models(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def task(models: Path) -> Task:
    bundle, data = open_bundle(models / "bundle"), load(models / "fleet.npz")
    embedded, y = Backbone(bundle).embed(data.x), data.y.astype(np.int32)
    test = data.is_test
    return Task("digits", bundle, embedded[~test], y[~test], embedded[test], y[test], None, 3, "iid", float("nan"))


def _fleet(task: Task, home: Path, update: str) -> MeteredFleet:
    text = f"[train]\nepochs = 4\nrate = 0.005\n{update}{papers_diffusion._EXAMPLES}"
    return MeteredFleet(task, plan_of(text, 3, ROUNDS), 3, home, papers_diffusion.LINKS)


def _trained(task: Task, home: Path, name: str) -> MeteredFleet:
    fleet = _fleet(task, home, papers_diffusion.UPDATES[name])
    course = papers_diffusion._OnDemand(fleet).rounds(ROUNDS) if name == "on_demand" else averaged(fleet, 1, ROUNDS)
    for _ in course:
        pass
    return fleet


def test_the_compiled_head_is_its_formula_and_says_nothing_of_an_example(task: Task) -> None:
    head, random = Head(task.bundle), np.random.default_rng(0)
    tree = {name: random.normal(size=array.shape, scale=0.3) for name, array in task.bundle.initial_head().items()}
    head.write(tree)
    z, moments = random.normal(size=(50, 8)).astype(np.float32), random.integers(0, diffusion.STEPS, 50, np.int32)
    y = random.integers(0, 10, 50, np.int32)
    found = head.denoise(z, y, moments)
    expected = diffusion.guess({name: value.astype(np.float32) for name, value in tree.items()}, z, y, moments)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="makes new examples"):
        head.infer(z)
    with pytest.raises(UsageError, match="nothing to draw from"):
        head.train_step(z[:8], y[:8])


def test_one_step_goes_down_the_slope_of_the_mean_squared_error_of_the_noise(task: Task) -> None:
    """Against differences of the numpy reference, with the noise that the step draws."""
    head, random = Head(task.bundle), np.random.default_rng(1)
    start = {name: random.normal(size=array.shape, scale=0.3) for name, array in task.bundle.initial_head().items()}
    x = random.normal(size=(head.batch_size, 8)).astype(np.float32)
    y = random.integers(0, 10, head.batch_size, np.int32)
    noise, moments = diffusion.draws(np.random.default_rng(7), head.batch_size, 8)
    z = diffusion.noised(diffusion.latents_of(x, *task.bundle.feature_affine()), noise, moments)

    def loss(tree: dict) -> float:
        exact = {name: np.asarray(value, np.float64) for name, value in tree.items()}
        return float(np.mean((diffusion.guess(exact, z.astype(np.float64), y, moments) - noise) ** 2))

    head.write(start)
    head.draw_from(np.random.default_rng(7))
    told = head.train_step(x, y, rate=1e-3, beta1=0.0, beta2=0.0)
    assert told == pytest.approx(loss(start), rel=1e-3)
    moved = head.read()
    # Without memory Adam's step is the rate times the sign of the gradient.
    for name in start:
        place = tuple(np.array(start[name].shape) // 2)
        ends = []
        for nudge in (1e-3, -1e-3):
            nudged = {key: np.array(value) for key, value in start.items()}
            nudged[name][place] += nudge
            ends.append(loss(nudged))
        slope = (ends[0] - ends[1]) / 2e-3
        if abs(slope) > 1e-4:
            assert np.sign(start[name][place] - moved[name][place]) == np.sign(slope), name


def test_a_fleet_learns_to_denoise_in_a_few_bits_and_for_fewer_joules(task: Task, tmp_path: Path) -> None:
    found = {name: _trained(task, tmp_path / name, name) for name in papers_diffusion.UPDATES}
    referee = Evaluator(task.bundle, task.test, task.test_labels)
    before = referee.evaluate(task.bundle.initial_head()).accuracy
    after = {name: referee.evaluate(fleet.head).accuracy for name, fleet in found.items()}
    assert all(value > before + 0.04 for value in after.values()), (before, after)
    assert after["on_demand"] > after["unquantised"] - 0.03
    plain, fixed, asked = (found[name] for name in ("unquantised", "fixed 8 bits", "on_demand"))
    assert asked.bytes_up < 0.3 * plain.bytes_up
    assert asked.joules_metered < fixed.joules_metered < plain.joules_metered
    assert asked.metered["train"] == pytest.approx(fixed.metered["train"]), "the same steps"
    assert found["unquantised"].devices[0].bench.meter.identity.method == "estimated"


def test_the_same_order_draws_the_same_noise(task: Task, tmp_path: Path) -> None:
    updates = []
    for home in ("one", "two"):
        fleet = _fleet(task, tmp_path / home, papers_diffusion.UPDATES["unquantised"])
        device = fleet.devices[0]
        updates.append(fleet.ask(device, 1, steps=5).update)
    assert updates[0] == updates[1]
    assert fleet.ask(device, 2, steps=5).update != updates[0]


def test_the_workstation_samples_what_a_run_ended_with(task: Task, models: Path, tmp_path: Path) -> None:
    (tmp_path / "denoiser.npz").write_bytes(Denoiser.of(task.bundle, task.bundle.initial_head()).to_bytes())
    sample = ("-m", "firmware_tools.cli", "sample", "denoiser.npz", "--count", "3")
    done = called(tmp_path, *sample, "-o", "made.npz", "--json")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "made.npz") as made:
        assert made["x"].shape == (30, 8)
        assert made["y"].tolist() == [digit for digit in range(10) for _ in range(3)]
    done = called(tmp_path, *sample, "-o", "sheet.png", "--decoder", models / "coder" / "decoder.keras")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for words, said in (
        (("-o", "sheet.jpg"), "neither .npz nor .png"),
        (("-o", "other.png"), "embeddings alone are no images"),
        (("-o", "made.npz"), "is there already"),
        (("-o", "other.png", "--decoder", models / "coder" / "encoder.keras"), "an embedding has 8 numbers"),
    ):
        refused = called(tmp_path, *sample, *words)
        assert refused.returncode != 0
        assert said in refused.stderr
        assert len([line for line in refused.stderr.splitlines() if line.startswith("firmware-tools: ")]) == 1
