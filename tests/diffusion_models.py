"""An encoder of scikit-learn's digits, its decoder, and the bundle of a denoiser behind it, made by the commands."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kept_models import kept

_ROOT = str(Path(__file__).parents[1])
_DATA = (
    "import sys; from firmware_tools.pretrain.digits import split; from protos.datafiles.dataset import save; "
    "[save(part, f'{sys.argv[1]}/{name}.npz') for name, part in zip(('workshop', 'fleet'), split(0))]"
)


def called(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": _ROOT}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def _make(folder: Path) -> None:
    tools = ("-m", "firmware_tools.cli")
    for words in (
        ("-c", _DATA, "."),
        (*tools, "pretrain", "autoencoder", "--data", "workshop.npz", "-o", "coder", "--latent", "8", "--epochs", "12"),
        (*tools, "convert", "coder/encoder.keras", "--objective", "diffusion", "--cut", "latent", "--hidden", "24",
         "--optimizer", "adam", "--calibrate", "workshop.npz", "-o", "bundle"),
    ):  # fmt: skip
        done = called(folder, *words)
        assert done.returncode == 0, done.stderr[-2000:]


def diffusion_models(folder: Path) -> Path:
    """A folder with workshop.npz, fleet.npz, coder/encoder.keras, coder/decoder.keras and bundle/."""
    if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs TensorFlow and scikit-learn: the workshop extra")
    return kept("diffusion", folder, _make)
