"""A small PyTorch classifier by litert-torch to a float .tflite, in an environment of its own; `convert` takes that.

    ENVIRONMENT/bin/pip install litert-torch
    ENVIRONMENT/bin/python benchmarks/foreign_models/from_torch.py FOLDER
    firmware-tools convert FOLDER/torch.tflite --preprocess unit --eval FOLDER/image.npz -o BUNDLE

PyTorch keeps channels first; ``to_channel_last_io`` makes the file take pictures as all readers here give them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

_EXAMPLES, _TRAINED, _STEPS = 400, 300, 40


def main(folder: Path) -> int:
    """Train on pictures whose class is a bright corner; write `image.npz` and `torch.tflite`."""
    torch: Any = importlib.import_module("torch")
    litert_torch: Any = importlib.import_module("litert_torch")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, _EXAMPLES).astype(np.int32)
    x = rng.integers(0, 120, (_EXAMPLES, 12, 12, 3)).astype(np.uint8)
    for at, label in enumerate(y):
        row, column = 6 * (label // 2), 6 * (label % 2)
        x[at, row : row + 6, column : column + 6] += 110
    np.savez(folder / "image.npz", x=x, y=y, is_test=np.arange(_EXAMPLES) >= _TRAINED)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 4),
    )  # fmt: skip
    images = torch.tensor(x.transpose(0, 3, 1, 2)).float() / 255
    labels = torch.tensor(y).long()
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images[:_TRAINED]), labels[:_TRAINED]).backward()
        optimiser.step()
    net.eval()
    right = float((net(images[_TRAINED:]).argmax(1) == labels[_TRAINED:]).float().mean())
    print(f"torch: {100 * right:.2f} % of {_EXAMPLES - _TRAINED} examples")
    last = litert_torch.to_channel_last_io(net, args=[0])
    litert_torch.convert(last, (torch.randn(1, 12, 12, 3),)).export(str(folder / "torch.tflite"))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
