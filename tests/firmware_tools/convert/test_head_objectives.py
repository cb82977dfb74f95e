"""Every objective with every optimiser compiles to TFLite builtins, trains, and is what its formula says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from warm_tensorflow import WarmTensorFlow

from firmware_tools.convert.command import OBJECTIVE_NAMES, OPTIMISER_NAMES
from firmware_tools.inspect.model import read_model
from protos.model.engine import open_interpreter, try_in_subprocess
from protos.model.head_algebra import logits_of, untrained_head
from protos.model.head_kinds.weight_grids import Rounding, round_kernel

pytestmark = pytest.mark.workshop
WIDTH, CLASSES, BATCH = 6, 3, 8
_CASES = list(itertools.product(OBJECTIVE_NAMES, OPTIMISER_NAMES, (None, 5)))
_COMPILE = """
import itertools, json, sys
import numpy as np
from firmware_tools.convert.head_model import HeadDesign, compile_head
from firmware_tools.convert.objectives import OBJECTIVES
from firmware_tools.convert.optimisers import OPTIMISERS
mean, scale = np.full(6, 0.5, np.float32), np.full(6, 2.0, np.float32)
for objective, optimiser, hidden in itertools.product(OBJECTIVES, OPTIMISERS, (None, 5)):
    design = HeadDesign(mean, scale, 3, hidden, 8, objective, optimiser)
    name = f"{sys.argv[1]}/{objective}-{optimiser}-{hidden}.tflite"
    open(name, "wb").write(compile_head(design))
json.dump({"objectives": list(OBJECTIVES), "optimisers": list(OPTIMISERS)}, open(f"{sys.argv[1]}/tables.json", "w"))
"""


@pytest.fixture(scope="module")
def compiled(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    tensorflow.script(_COMPILE, folder, folder)
    return folder


class _Runner:
    def __init__(self, path: Path) -> None:
        self.interpreter = open_interpreter(path)
        self.run = {name: self.interpreter.get_signature_runner(name) for name in self.interpreter.get_signature_list()}

    def train(self, tree: dict, x: np.ndarray, y: np.ndarray, steps: int = 1, **inputs: float) -> list[float]:
        self.run["write"](**tree)
        names = set(self.run["train"].get_input_details()) - {"x", "y", "weight"}
        values = {"rate": 0.05, "momentum": 0.0, "beta1": 0.9, "beta2": 0.999, "proximal_mu": 0.0,
                  "weight_decay": 0.0, "correction": 0.0, "kurtosis_weight": 0.01, "weight_bits": 4.0, "bits_low": 16.0,
                  "bits_high": 16.0, "full_share": 0.0, "rounded_weight": 0.5}  # fmt: skip
        values |= inputs
        given = {name: np.array([values[name]], np.float32) for name in names}
        ones = np.ones(len(x), np.float32)
        return [float(self.run["train"](x=x, y=y, weight=ones, **given)["loss"][0]) for _ in range(steps)]


def _example(hidden: int | None) -> tuple[dict, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"out_kernel": (hidden or WIDTH, CLASSES), "out_bias": (CLASSES,)}
    if hidden:
        shapes |= {"hidden_kernel": (WIDTH, hidden), "hidden_bias": (hidden,)}
    tree = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tree, rng.normal(size=(BATCH, WIDTH)).astype(np.float32), (np.arange(BATCH) % CLASSES).astype(np.int32)


def _cross_entropy(tree: dict, x: np.ndarray, y: np.ndarray) -> float:
    logits = logits_of(tree, (x - 0.5) * 2.0).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]).mean())


def _objective(name: str, tree: dict, x: np.ndarray, y: np.ndarray, weight: float, bits: int) -> float:
    """The objectives again, in numpy and float64."""
    kernels = [key for key in tree if key.endswith("_kernel")]
    if name in ("kure", "paired"):
        kurtosis = [np.mean((tree[k] - tree[k].mean()) ** 4) / np.var(tree[k]) ** 2 for k in kernels]
        return _cross_entropy(tree, x, y) + weight * float(np.mean((np.array(kurtosis) - 1.8) ** 2))
    if name in ("kure_scaled", "apqn"):
        kurtosis = [np.mean((tree[k] - tree[k].mean()) ** 4) / np.var(tree[k]) ** 2 for k in kernels]
        lengths = np.array([tree[k].size * np.var(tree[k]) for k in kernels])
        pulls = lengths * (np.array(kurtosis) - 1.8) ** 2
        return _cross_entropy(tree, x, y) + weight * float(np.mean(pulls))
    if name == "qat":
        steps = {k: np.abs(tree[k]).max() / (2 ** (bits - 1) - 1) for k in kernels}
        tree = tree | {k: np.round(tree[k] / steps[k]) * steps[k] for k in kernels}
    return _cross_entropy(tree, x, y)


def test_the_names_of_the_command_are_those_of_the_tables(compiled: Path) -> None:
    tables = json.loads((compiled / "tables.json").read_text())
    assert tables == {"objectives": list(OBJECTIVE_NAMES), "optimisers": list(OPTIMISER_NAMES)}


@pytest.mark.parametrize(("objective", "optimiser", "hidden"), _CASES)
def test_the_objective_is_its_formula_and_training_lowers_it(
    compiled: Path, objective: str, optimiser: str, hidden: int | None
) -> None:
    path = compiled / f"{objective}-{optimiser}-{hidden}.tflite"
    tree, x, y = _example(hidden)
    losses = _Runner(path).train(tree, x, y, 60, kurtosis_weight=0.3, weight_bits=3)
    assert losses[0] == pytest.approx(_objective(objective, tree, x, y, 0.3, 3), rel=1e-3)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("objective", "optimiser", "hidden"), _CASES)
def test_no_input_is_a_scalar_and_no_operator_is_foreign(
    compiled: Path, objective: str, optimiser: str, hidden: int | None
) -> None:
    path = compiled / f"{objective}-{optimiser}-{hidden}.tflite"
    facts = read_model(path)
    assert facts.zero_dimensional_inputs() == []
    assert all(
        len(tensor.shape) >= 1 for signature in facts.signatures.values() for tensor in signature.inputs.values()
    )
    assert not [name for name in facts.operator_counts() if name.startswith(("CUSTOM", "Flex"))]
    # The runtime itself says the same.
    interpreter = open_interpreter(path)
    for name in interpreter.get_signature_list():
        told = interpreter.get_signature_runner(name).get_input_details()
        assert all(len(row["shape"]) >= 1 for row in told.values()), name


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("objective", ["cross_entropy", "kure"])
def test_one_step_goes_down_the_slope_of_the_objective(compiled: Path, objective: str, hidden: int | None) -> None:
    # qat is left out: its straight-through gradient is by design not the slope of its loss.
    runner = _Runner(compiled / f"{objective}-sgd-{hidden}.tflite")
    tree, x, y = _example(hidden)
    runner.train(tree, x, y, rate=1.0, kurtosis_weight=0.3)
    moved = runner.run["read"]()
    double = {name: value.astype(np.float64) for name, value in tree.items()}
    for name, value in double.items():
        slope = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            ends = []
            for nudge in (1e-3, -1e-3):
                nudged = value.copy()
                nudged[place] += nudge
                ends.append(_objective(objective, double | {name: nudged}, x.astype(np.float64), y, 0.3, 3))
            slope[place] = (ends[0] - ends[1]) / 2e-3
        np.testing.assert_allclose(tree[name] - moved[name], slope, atol=4e-3)


def test_adam_takes_the_first_step_of_its_paper(compiled: Path) -> None:
    tree, x, y = _example(None)
    runner = _Runner(compiled / "cross_entropy-adam-None.tflite")
    runner.train(tree, x, y, rate=0.01)
    # With bias correction the first step is rate * g / (|g| + epsilon): the sign of the gradient.
    moves = np.abs(runner.run["read"]()["out_kernel"] - tree["out_kernel"])
    np.testing.assert_allclose(moves, 0.01, rtol=1e-2)


def test_quantised_forward_passes_depend_on_the_bits(compiled: Path) -> None:
    tree, x, y = _example(None)
    runner = _Runner(compiled / "qat-sgd-None.tflite")
    coarse, fine = (runner.train(tree, x, y, weight_bits=bits)[0] for bits in (2, 12))
    assert fine == pytest.approx(_cross_entropy(tree, x, y), rel=1e-3)
    assert abs(coarse - fine) > 0.01


def test_an_untrained_head_has_a_finite_first_step_under_every_objective(compiled: Path) -> None:
    _, x, y = _example(None)
    zeros = {"out_kernel": np.zeros((WIDTH, CLASSES), np.float32), "out_bias": np.zeros(CLASSES, np.float32)}
    for objective in OBJECTIVE_NAMES:
        runner = _Runner(compiled / f"{objective}-sgd-None.tflite")
        assert np.isfinite(runner.train(zeros, x, y, 20)).all()
        assert all(np.isfinite(one).all() for one in runner.run["read"]().values())


@pytest.mark.parametrize("hidden", [None, 5])
def test_drawn_widths_are_those_of_a_min_max_grid_and_none_else(compiled: Path, hidden: int | None) -> None:
    tree, x, y = _example(hidden)
    runner = _Runner(compiled / f"mqat-sgd-{hidden}.tflite")

    def rounded(bits: int) -> float:
        on_grid = {k: round_kernel(v, Rounding(bits)) if k.endswith("_kernel") else v for k, v in tree.items()}
        return _cross_entropy(on_grid, x, y)

    assert runner.train(tree, x, y, bits_low=2, bits_high=2)[0] == pytest.approx(rounded(2), rel=1e-3)
    # A rate of zero: the head stays, and only the width differs from step to step.
    losses = runner.train(tree, x, y, 60, rate=0.0, bits_low=2, bits_high=4, full_share=0.3)
    known = [rounded(2), rounded(3), rounded(4), _cross_entropy(tree, x, y)]
    nearest = [int(np.argmin([abs(loss - value) for value in known])) for loss in losses]
    assert all(abs(loss - known[at]) < 1e-3 for loss, at in zip(losses, nearest, strict=True))
    assert min(np.bincount(nearest, minlength=4)) >= 6, "each width, and none, is drawn again and again"


@pytest.mark.parametrize("hidden", [None, 5])
def test_paired_weighs_the_whole_head_and_the_rounded_one(compiled: Path, hidden: int | None) -> None:
    tree, x, y = _example(hidden)
    runner = _Runner(compiled / f"paired-sgd-{hidden}.tflite")
    on_grid = {k: round_kernel(v, Rounding(2)) if k.endswith("_kernel") else v for k, v in tree.items()}
    whole, rounded = _cross_entropy(tree, x, y), _cross_entropy(on_grid, x, y)
    given = {"bits_low": 2, "bits_high": 2, "kurtosis_weight": 0.0}
    assert runner.train(tree, x, y, **given, rounded_weight=0.5)[0] == pytest.approx(
        (whole + 0.5 * rounded) / 1.5, rel=1e-3
    )
    assert runner.train(tree, x, y, **given, rounded_weight=0.0)[0] == pytest.approx(whole, rel=1e-3)
    losses = runner.train(tree, x, y, 60, rate=0.05, **given, rounded_weight=0.7)
    assert losses[-1] < 0.7 * losses[0]


def test_a_uniform_start_has_the_same_variance_and_no_tails() -> None:
    normal, uniform = (untrained_head(64, 10, 32, seed=3, uniform=text)["hidden_kernel"] for text in (False, True))
    assert np.var(uniform) == pytest.approx(np.var(normal), rel=0.1)
    kurtosis = np.mean((uniform - uniform.mean()) ** 4) / np.var(uniform) ** 2
    assert kurtosis == pytest.approx(1.8, abs=0.1)
    assert (
        np.square(uniform - round_kernel(uniform, Rounding(2))).mean()
        < 0.5 * np.square(normal - round_kernel(normal, Rounding(2))).mean()
    )


def test_the_gradient_of_rounding_narrows_a_range_that_costs(compiled: Path) -> None:
    tree, x, y = _example(None)
    runner = _Runner(compiled / "mqat-sgd-None.tflite")
    first = runner.train(tree, x, y, rate=0.05, bits_low=2, bits_high=2)[0]
    losses = runner.train(tree, x, y, 60, rate=0.05, bits_low=2, bits_high=2)
    assert first == losses[0]
    assert min(losses[-10:]) < 0.7 * losses[0]


@pytest.mark.parametrize("hidden", [None, 5])
def test_noise_has_the_spread_of_rounding_and_differs_by_step_and_coordinate(
    compiled: Path, hidden: int | None
) -> None:
    """Seen through the losses of a head that stays: noise alone moves them."""
    tree, x, y = _example(hidden)
    runner = _Runner(compiled / f"apqn-sgd-{hidden}.tflite")
    spreads = {}
    for bits in (2, 4, 6):
        given = {"rate": 0.0, "kurtosis_weight": 0.0, "bits_low": bits, "bits_high": bits}
        losses = np.array(runner.train(tree, x, y, 200, **given))
        assert len(np.unique(losses.round(6))) > 150
        spreads[bits] = losses.std()
        assert runner.train(tree, x, y, 200, **given) == losses.tolist(), "the same order gives the same noise"
    # Half a step of 2, 4 and 6 bits is as 1/3, 1/15 and 1/63 of the range.
    assert spreads[2] / spreads[4] == pytest.approx(5, rel=0.4)
    assert spreads[4] / spreads[6] == pytest.approx(4.2, rel=0.3)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        noisy = dict(tree)
        for k in [text for text in tree if text.endswith("_kernel")]:
            noisy[k] = tree[k] + np.ptp(tree[k]) / 3 / 2 * rng.uniform(-1, 1, tree[k].shape)
        drawn.append(_cross_entropy(noisy, x, y))
    assert spreads[2] == pytest.approx(np.std(drawn), rel=0.35)


def test_a_compiled_head_runs_in_a_process_of_its_own(compiled: Path) -> None:
    try_in_subprocess(compiled / "kure-adam-5.tflite")
