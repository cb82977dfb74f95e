"""Writes the golden files of `landed/`, with the code of commit dcb89ca, and runs with that code alone:

    git worktree add ../dcb89ca dcb89ca
    PYTHONPATH=../dcb89ca .venv/bin/python tests/golden/write_golden.py tests/golden/landed
    git worktree remove ../dcb89ca

It asks which code it runs on, and refuses any other. What no seed can fix differs from one writing to the next:
identities of runs, hashes of zip files, joules, times. So the files are written once and not again; a later version
gets a folder of its own, written by a copy of this script.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from edge_runtime.outbox import Outbox
from golden_values import said

import protos
from protos import manifest
from protos.convert.cards import card_to
from protos.convert.energy import settled_to
from protos.convert.head_transfers import serialise_difference
from protos.convert.orders import order_to
from protos.convert.reports import receipt_to, serialise_report
from protos.convert.tensors import tensors_to
from protos.energy import Phase, PhaseEnergy
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.orders import (
    CodecOrder,
    CostHint,
    DeviceCard,
    DeviceReport,
    Engine,
    MeterCard,
    Receipt,
    RejoinOrder,
    SettledEnergy,
    StopReason,
    Strain,
    TrainOrder,
    Verdict,
    WaitOrder,
)
from protos.update.codecs import CODECS, build, generator
from protos.update.downlink import Difference, rebuild, step_towards
from protos.update.tensors import decode
from protos.update.trees import Tree, shapes, version

COMMIT = "dcb89cafbd35f6ba03e8441279d5f56160fbde72"
CODE = Path(protos.__file__).resolve().parents[1]

_SETTINGS: list[tuple[str, dict[str, float]]] = [
    *((name, {}) for name in CODECS),
    ("uniform_stochastic", {"bits": 1, "bucket": 16}),
    ("entropy_coded", {"bits": 0.5}),
    ("entropy_coded", {"bits": 6, "per_tensor": 1}),
    ("entropy_coded_mmse", {"bits": 1.5, "per_tensor": 1}),
    ("eden", {"bits": 0.7, "chunk": 16}),
    ("bucket_uniform", {"bits": 3, "bucket": 16, "stochastic": 1}),
    ("bucket_quantile", {"bits": 2}),
    ("qsgd", {"bits": 2, "bucket": 16}),
    ("keep_largest", {"share": 0.3, "bits": 4}),
]

_MAKE_MODEL = """
import keras
import numpy as np
from sklearn.datasets import load_digits

data = load_digits()
x = np.round(data.images * 15.9375).astype(np.uint8)[..., None]
y = data.target.astype(np.int32)
np.savez("data.npz", x=x[:160], y=y[:160], is_test=np.arange(160) % 5 == 0)
keras.utils.set_random_seed(3)
stack = keras.Sequential([
    keras.Input((8, 8, 1)),
    keras.layers.Rescaling(1 / 255),
    keras.layers.Conv2D(4, 3, activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(8, activation="relu"),
    keras.layers.Dense(10, activation="softmax"),
])
stack.compile("adam", "sparse_categorical_crossentropy")
stack.fit(x[160:1000], y[160:1000], epochs=20, verbose=0)
stack.save("digits.keras")
"""


def main() -> int:
    """Write everything into the folder that is named."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CODE, capture_output=True, text=True, check=True).stdout
    if not found.startswith(COMMIT):
        print(f"this runs on commit {COMMIT[:7]}, and {CODE} is {found.strip()}: see the docstring", file=sys.stderr)
        return 2
    out = Path(sys.argv[1]).absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _write(out / "codecs.json", _codecs())
    _write(out / "downlink.json", _downlink())
    _write(out / "messages.json", _messages())
    with tempfile.TemporaryDirectory() as folder:
        _bundle(Path(folder), out)
        _recording(Path(folder), out)
        _state(Path(folder), out)
    return 0


def _write(path: Path, what: Any) -> None:
    """JSON with a line for each part."""
    if isinstance(what, dict):
        lines = [f"{json.dumps(key)}: {json.dumps(one, sort_keys=True)}" for key, one in sorted(what.items())]
        text = "{" + ",\n".join(lines) + "}"
    else:
        text = "[" + ",\n".join(json.dumps(one, sort_keys=True) for one in what) + "]"
    path.write_text(text + "\n")


def _tree() -> Tree:
    rng = np.random.default_rng(3)
    return {
        "out_kernel": rng.normal(size=(11, 7)).astype(np.float32),
        "out_bias": (1e-3 * rng.laplace(size=7)).astype(np.float32),
        "hidden_bias": np.zeros(5, np.float32),
        "nothing": np.zeros((0, 4), np.float32),
        "scalar": np.float32(2.5).reshape(()),
    }


def _codecs() -> list[dict[str, Any]]:
    """Every codec with its defaults and at other settings: the tensors on the wire, and the numbers in them."""
    tree, rows = _tree(), []
    for name, parameters in _SETTINGS:
        codec = build(name, parameters)
        tensors, _ = codec.encode(tree, codec.init(shapes(tree)), generator(5, "golden"))
        rows.append(
            {
                "codec": name,
                "parameters": parameters,
                "kinds": sorted({type(tensor.values).__name__ for tensor in tensors}),
                "wire": [tensor.SerializeToString(deterministic=True).hex() for tensor in tensors_to(tensors)],
                "values": said(decode(tensors, shapes(tree))),
            }
        )
    return rows


def _downlink() -> dict[str, Any]:
    """Two differences, the second one scaled, and the version of the head that they lead to."""
    rng = np.random.default_rng(4)
    base = {"out_bias": np.zeros(7, np.float32), "out_kernel": rng.normal(size=(11, 7)).astype(np.float32)}
    head = {name: array + rng.normal(size=array.shape).astype(np.float32) for name, array in base.items()}
    differences: list[Difference] = []
    held = base
    for codec, bits in (("entropy_coded_mmse", 2), ("entropy_coded", 0.5)):
        found = step_towards(head, held, build(codec, {"bits": bits}), generator(6, "golden", codec))
        assert found is not None
        differences.append(found[0])
        held = found[1]
    assert differences[1].scale != 1
    return {
        "base": said(base),
        "differences": [serialise_difference(difference).hex() for difference in differences],
        "version": version(rebuild(base, differences, shapes(base))),
    }


def _messages() -> dict[str, Any]:
    tree = {"out_bias": np.float32([0.5, -1, 2]), "out_kernel": np.arange(12, dtype=np.float32).reshape(4, 3)}
    codec = build("uniform_stochastic", {"bits": 4})
    tensors, _ = codec.encode(tree, codec.init(shapes(tree)), generator(5, "messages"))
    whole = TrainOrder(
        run_id="run-0001",
        round=3,
        plan_id="plan-0123456789abcdef",
        bundle_id="sha256:" + "a" * 64,
        head_version="head-0123456789ab",
        head=tensors,
        steps=50,
        inputs={"rate": 0.05, "momentum": 0.9},
        codec=CodecOrder("uniform_stochastic", {"bits": 4.0, "bucket": 1024.0}),
        budget_j=20.0,
        deadline_s=118.5,
        seed=2**63 - 1,
        costs=CostHint(0.06, 0.004, 0.2, 3.5),
    )
    made = TrainOrder(
        **{**vars(whole), "head": (), "base": "head-ba9876543210", "budget_j": None, "costs": None},
    )
    made = TrainOrder(**{**vars(made), "differences": (Difference(tensors), Difference(tensors, 0.75))})
    energy = (
        PhaseEnergy(Phase.EMBED, 1.5, 0.9, 0.01, "measured", "serial:0", 0.1, ("degraded",)),
        PhaseEnergy(Phase.TRAIN, None, 0.0, 2.0, "unknown", "", None, ("no-sensor",)),
        PhaseEnergy(Phase.ENCODE, 0.25, 0.1, 0.0, "estimated", "estimate:pi4", None, ()),
    )
    report = DeviceReport(
        run_id="run-0001",
        round=3,
        device_id="pi-1",
        plan_id="plan-0123456789abcdef",
        bundle_id="sha256:" + "a" * 64,
        head_version="head-0123456789ab",
        steps_planned=50,
        steps_done=48,
        examples=400,
        local_normaliser=48.0,
        stop_reason=StopReason.HEAT,
        loss_first=2.25,
        loss_last=0.5,
        engine=Engine("ai-edge-litert", "2.3.0", "xnnpack", "edgetpu"),
        energy=energy,
        update=tensors,
        embedded=400,
        train_s=2.25,
        strain=Strain(3.5, 1.25, 81.5, True, False),
    )
    plain = DeviceReport(
        **{**vars(report), "stop_reason": StopReason.COMPLETED, "strain": None, "loss_first": None, "loss_last": None}
    )
    card = DeviceCard(
        "pi-1",
        "pi-1-77",
        "pi4",
        "edgejoule 0.1.0",
        Engine("ai-edge-litert", "2.3.0", "xnnpack"),
        MeterCard("measured", "ina219:bench#0", "208.7 Hz", "00000001"),
        400,
        100,
        budget_j=25.0,
    )
    settled = SettledEnergy("run-0001", 3, (PhaseEnergy(Phase.SEND, 0.125, 0.5, 0.0, "measured", "serial:0", 0.01),))
    rows: dict[str, Any] = {}

    def add(name: str, data: bytes, value: Any) -> None:
        rows[name] = {"wire": data.hex(), "value": said(value)}

    for name, order in (
        ("order of a whole head", whole),
        ("order of differences", made),
        ("order to wait", WaitOrder(2.5, "the round is full")),
        ("order to join again", RejoinOrder()),
    ):
        add(name, order_to(order).SerializeToString(deterministic=True), order)
    add("report that was cut short", serialise_report(report), report)
    add("report without losses", serialise_report(plain), plain)
    for verdict in Verdict:
        receipt = Receipt(verdict, f"because {verdict.value}")
        add(f"receipt {verdict.value}", receipt_to(receipt).SerializeToString(deterministic=True), receipt)
    add("card", card_to(card, (1, 1)).SerializeToString(deterministic=True), card)
    add("settled energy", settled_to([settled])[0].SerializeToString(deterministic=True), settled)
    return rows


def _run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CODE), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def _bundle(folder: Path, out: Path) -> None:
    """A bundle of the converter, data that fit it, and embeddings of the first examples."""
    _run(folder, "-c", _MAKE_MODEL)
    _run(folder, "-m", "firmware_tools.cli", "convert", "digits.keras", "--eval", "data.npz", "-o", "bundle")
    shutil.copytree(folder / "bundle", out / "bundle")
    shutil.copy(folder / "data.npz", out / "data.npz")
    bundle = open_bundle(out / "bundle")
    text = (out / "bundle" / manifest.MANIFEST_FILE).read_text()
    x = np.load(out / "data.npz")["x"][:3]
    described = {
        "identity": bundle.bundle_id,
        "manifest": said(manifest.Manifest.from_json(text)),
        "head": said(bundle.initial_head()),
        "embeddings": said(Backbone(bundle).embed(x)),
    }
    _write(out / "bundle.json", described)


def _recording(folder: Path, out: Path) -> None:
    """Three seconds of a simulated bridge, and what this version measures in them."""
    sim = [sys.executable, "-m", "firmware_tools.cli", "bridge", "sim", "--link", "port", "--seed", "7"]
    bridge = subprocess.Popen([*sim, "--load", "square:2.0,5.0,0.37"], cwd=folder, env=_environment())
    try:
        _until((folder / "port").exists)
        measure = ("-m", "edge_runtime.cli", "measure")
        _run(folder, *measure, "--sensor", "serial:port", "--for", "3s", "--record", str(out / "recording.ejr"))
    finally:
        bridge.terminate()
        bridge.wait()
    replayed = json.loads(_run(folder, *measure, "--sensor", f"replay:{out / 'recording.ejr'}", "--json", "-"))
    del replayed["recording"]["file"]
    _write(out / "recording.json", replayed)


_PLAN = """[run]
bundle = "{bundle}"
name = "golden"
rounds = 3
seed = 7
[round]
devices = 1
deadline_s = 60
[train]
steps = 12
[update]
codec = "sign"
[downlink]
codec = "entropy_coded_mmse"
bits = 4
"""


def _state(folder: Path, out: Path) -> None:
    """The state folder of a device after three rounds, with a letter that was not answered."""
    plan = folder / "plan.toml"
    plan.write_text(_PLAN.format(bundle=folder / "bundle"))
    ready, state = folder / "ready", folder / "device"
    serve = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(folder / "coordinator")]
    server = subprocess.Popen(
        [*serve, "--listen", "127.0.0.1:0", "--ready-file", str(ready)], cwd=folder, env=_environment()
    )
    try:
        _until(ready.exists)
        address = ready.read_text().strip()
        started = json.loads(
            _run(folder, "-m", "coordinator.cli", "start", str(plan), "--coordinator", address, "--json")
        )
        run = ("-m", "edge_runtime.cli", "run", "--coordinator", address, "--state", str(state), "--max-rounds", "3")
        said_by_it = _run(folder, *run, "--json", "--device-id", "pi-1", "--data", str(folder / "data.npz"),
                          "--sensor", "estimate:pi4")  # fmt: skip
    finally:
        server.terminate()
        server.wait()
    outbox = Outbox(state / "outbox")
    outbox.put("run-0001", 3, bytes.fromhex(_messages()["report without losses"]["wire"]))
    energy = PhaseEnergy(Phase.SEND, 0.125, 0.5, 0.0, "measured", "serial:0", 0.01)
    outbox.add_settled(SettledEnergy("run-0001", 3, (energy,)))
    kept = out / "state"
    shutil.copytree(state, kept)
    (kept / "lock").unlink()
    # The bundle is here already, and what is known of the examples goes by the path and age of their file.
    shutil.rmtree(kept / "bundles")
    shutil.rmtree(kept / "examples")
    from edge_runtime.heads import HeldHeads
    from edge_runtime.stored_trees import read_tree

    (memory,) = (kept / "memory").glob("*.tree")
    (progress,) = (kept / "embeddings").glob("*/progress.json")
    described = {
        "run_id": started["run_id"],
        "bundle": os.listdir(state / "bundles"),
        "rounds": [json.loads(line) for line in said_by_it.splitlines()],
        "holding": said(HeldHeads(kept / "heads").holding()),
        "memory": said(read_tree(memory)),
        "embeddings": json.loads(progress.read_text()),
        "letters": [
            {"run_id": each_run.run_id, "round": each_run.round, "data": each_run.data.hex()}
            for each_run in outbox.pending()
        ],
        "settled": said(outbox.settled()),
        "costs": json.loads((kept / "costs.json").read_text()),
    }
    _write(out / "state.json", described)


def _until(check: Any) -> None:
    for _ in range(1000):
        if check():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


if __name__ == "__main__":
    sys.exit(main())
