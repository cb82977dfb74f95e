"""Is every prediction the work of one model, while heads are switched under it?

Clients ask a real socket for predictions while another thread takes head after head to work. What each head says of
the example is worked out beforehand, beside the product: an answer is torn when its scores are not those of the version
that it names.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.client import Client
from edge_runtime.model.current import About, take
from edge_runtime.model.gate import Gate
from edge_runtime.model.service import ModelService
from edge_runtime.model.socket_server import SocketServer
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.model.head_algebra import logits_of
from protos.update import trees

__all__ = ["measure", "switched"]

PREDICTIONS, SWITCHES, CLIENTS = 10_000, 50, 4


def measure(folder: Path, bundle: Bundle, quick: bool) -> dict[str, int]:
    """The part of ``field.py``."""
    return switched(folder, bundle, 2000 if quick else PREDICTIONS, 10 if quick else SWITCHES)


def switched(folder: Path, bundle: Bundle, predictions: int, switches: int) -> dict[str, int]:
    """Predictions, switches, answers that were torn, and how many versions answered."""
    state = folder / "state"
    state.mkdir(parents=True)
    random = np.random.default_rng(11)
    x = random.integers(0, 255, (1, *bundle.manifest.backbone.input_shape)).astype(np.uint8)
    heads, expected = [], {}
    backbone, (mean, scale) = Backbone(bundle), bundle.feature_affine()
    features = (backbone.dequantise(backbone.embed(x)) - mean) * scale
    for _ in range(switches + 1):
        head = {
            name: random.normal(0, 0.3, value.shape).astype(np.float32) for name, value in bundle.initial_head().items()
        }
        heads.append(head)
        z = logits_of(head, features).astype(np.float64)[0]
        expected[trees.version(head)] = np.exp(z - z.max()) / np.exp(z - z.max()).sum()

    def model_of(index: int) -> Any:
        version = trees.version(heads[index])
        about = About(version, version, bundle.bundle_id, f"run-{index}", "switching", 1)
        return take(state, bundle, heads[index], about)

    service = ModelService(state, Gate())
    model_of(0)
    server = SocketServer(state / "model.sock", service)
    # A disk that is slow to switch must not let the predictions be over before the switches are.
    each, made = predictions // (switches + 2), 0
    asked = [0] * CLIENTS
    torn = [0] * CLIENTS
    seen: list[set[str]] = [set() for _ in range(CLIENTS)]

    def ask(number: int) -> None:
        with Client(state / "model.sock") as client:
            for _ in range(number, predictions, CLIENTS):
                while made < switches and sum(asked) >= (made + 2) * each:
                    time.sleep(0.001)
                answer = client.predict(x)
                asked[number] += 1
                seen[number].add(answer["version"])
                if np.abs(np.array(answer["scores"][0]) - expected[answer["version"]]).max() > 1e-5:
                    torn[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        while made < switches:
            before = sum(asked)
            while sum(asked) < before + each // 2:
                time.sleep(0.001)
            service.switch(model_of(made + 1))
            made += 1
        for thread in threads:
            thread.join()
    finally:
        service.close()
        server.close()
    return {
        "predictions": sum(asked),
        "switches": made,
        "torn": sum(torn),
        "versions": len(set().union(*seen)),
    }
