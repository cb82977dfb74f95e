"""The plans that come with the package run as they are, on the bundle and data that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusion_models import diffusion_models
from warm_tensorflow import WarmTensorFlow

from coordinator.operator.client import Operator
from protos.model.head_kinds.denoiser import Denoiser
from protos.plan.plan import parse

PLANS = sorted((Path(__file__).parents[2] / "plans").glob("*.toml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_is_named_after_its_file_and_says_how_to_start_it(path: Path) -> None:
    text = path.read_text()
    assert parse(text, where=path.name).run.name == path.stem
    assert f"coordinator start plans/{path.name}" in text


def _robust(tensorflow: WarmTensorFlow, digits: Path, bundle: Path) -> Path:
    """The bundle that the plan says how to make, of the same model."""
    words = [digits / "digits.keras", "--calibrate", digits / "digits.npz", "--hidden", "32"]
    tensorflow.converted(*words, "--fresh-head", "--objective", "apqn", "-o", bundle)
    return bundle


@pytest.mark.workshop
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_runs_for_one_round(
    path: Path,
    digits: Path,
    address: str,
    fleet: Callable[..., Any],
    tools: Any,
    tmp_path: Path,
    tensorflow: WarmTensorFlow,
) -> None:
    text = path.read_text().replace("../demo-output/bundle", "digits").replace("../demo-output/data/held-out", "digits")
    if "../demo-output/robust-bundle" in text:
        text = text.replace("../demo-output/robust-bundle", str(_robust(tensorflow, digits, tmp_path / "robust")))
    if "../demo-output/diffusion-bundle" in text:
        (tmp_path / "models").mkdir()
        text = text.replace("../demo-output/diffusion-bundle", str(diffusion_models(tmp_path / "models") / "bundle"))
    # A pruned backbone makes embeddings like any other; how it is made is tests/firmware_tools/prune.
    text = text.replace("../demo-output/pruned-bundle", "digits")
    text = text.replace("rounds = 6", "rounds = 1")
    with Operator(address) as operator:
        run_id = operator.start_run(text, digits)
        devices = [fleet(address, f"pi-{number}") for number in range(4)]
        for device in devices:
            device.join()
        for device in devices:
            order = device.order()
            steps = 1  # whatever momentum and pull are, FedNova's normaliser of one step is 1
            receipt = device.send(device.answer(order, 0.01, steps_done=steps, local_normaliser=1.0))
            assert receipt.verdict == "accepted", receipt.reason
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
        status = operator.status(run_id)[0]
        if path.stem == "diffusion":
            denoiser = tmp_path / "denoiser.npz"
            assert "firmware-tools sample" in operator.export(run_id, denoiser).note
            assert len(Denoiser.from_file(denoiser).classes) == 10
    assert status.state == "finished"
    last = status.rounds[1]
    assert (last.r2 if path.stem == "diffusion" else last.accuracy) is not None
