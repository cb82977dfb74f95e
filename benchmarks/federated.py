"""The figures of a federated round: the demo, real models and data sets, and what a device process costs.

    .venv/bin/python benchmarks/federated.py --json OUT            # about three minutes on 2 cores
    .venv/bin/python benchmarks/federated.py --only digits,device  # what needs no reference data

Every figure comes from a command of the project, printed beside it. Parts that need the reference data are left out,
with the reason, where `EDGEJOULE_REFERENCE_DATA` (or `../shared/data`) is not there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.inputs import pretrain, reference_data
from protos.errors import EdgejouleError

BIN = Path(sys.executable).parent
PHASES = ("embed", "train", "encode", "send")


@dataclass(frozen=True)
class Row:
    """One figure. ``target`` is in words; ``met`` is None where there is nothing to meet."""

    part: str
    figure: str
    value: Any
    target: str = ""
    met: bool | None = None
    command: str = ""


def call(*words: str | Path) -> str:
    """Run one of our commands; returns the line as one would type it."""
    program, *arguments = map(str, words)
    line = shlex.join([program, *arguments])
    print(f"$ {line}", file=sys.stderr, flush=True)
    done = subprocess.run([BIN / program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{line}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return line


def read(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def digits(folder: Path) -> list[Row]:
    """The demo as `make demo` runs it."""
    out = folder / "digits.json"
    command = call("coordinator", "demo", "--output", folder / "digits", "--json", out)
    result = read(out)
    first, last = result["initial_accuracy"], result["final_accuracy"]
    least = min(min(by_phase.values()) for by_phase in result["coverage"].values())
    known = all(by_phase.get(p) is not None for by_phase in result["joules"].values() for p in PHASES)
    budgets = result["settings"]["budgets_j"]
    poorest = sorted(result["joules"])[budgets.index(min(budgets))]
    cut = result["cut_short"].get(poorest, 0)
    steps = sum(r["devices"][poorest]["steps_done"] for r in result["rounds"] if r["devices"])
    return [
        Row("digits", "accuracy at round 0", first, command=command),
        Row("digits", "final accuracy", last, ">= 10 points above round 0", last - first >= 0.10, command),
        Row("digits", "exported accuracy", result["exported_accuracy"], "within 1 point of the float head",
            result["exported_accuracy"] >= result["exported_float_accuracy"] - 0.01, command),
        Row("digits", "joules known for every device and phase", known, "all", known, command),
        Row("digits", "least coverage of a phase", least, ">= 0.99", least >= 0.99, command),
        Row("digits", f"rounds in which {poorest} (least budget) was cut short", cut, ">= 1", cut >= 1, command),
        Row("digits", f"steps that {poorest} contributed", steps, ">= 1", steps >= 1, command),
        Row("digits", "bytes up", result["bytes_up"], command=command),
        Row("digits", "wall_s", round(result["wall_s"], 1), command=command),
    ]  # fmt: skip


def cifar10(folder: Path) -> list[Row]:
    """ResNet8 of MLPerf Tiny on CIFAR-10: conversion, and five unlike devices."""
    data, bundle, out = folder / "cifar10.npz", folder / "resnet8", folder / "cifar10.json"
    reference_data.save(reference_data.cifar10(), data)
    model = reference_data.root() / "models_mlperf_tiny" / "pretrainedResnet.h5"
    convert = call("firmware-tools", "convert", model, "-o", bundle, "--calibrate", data, "--eval", data, "--force")
    judged = read(bundle / "manifest.json")["provenance"]["accuracy"]
    float_accuracy, int8_accuracy = judged["float"], judged["int8"]
    rows = [
        Row("cifar10", "float accuracy on 2,000 test images", float_accuracy, command=convert),
        Row("cifar10", "int8 accuracy", int8_accuracy, "within 0.5 point of float",
            abs(int8_accuracy - float_accuracy) <= 0.005, convert),
    ]  # fmt: skip
    for seed in (0, 1, 2):
        command = call("coordinator", "demo", "--bundle", bundle, "--data", data, "--devices", "5", "--rounds", "20",
                       "--partition", "dirichlet:0.5", "--seed", str(seed), "--output", folder / "cifar10",
                       "--json", out)  # fmt: skip
        result = read(out)
        last, exported = result["final_accuracy"], result["exported_accuracy"]
        target = "within 1 point of the float head"
        close = exported >= result["exported_float_accuracy"] - 0.01
        rows += [
            Row("cifar10", f"seed {seed}: final accuracy", last, ">= 0.790", last >= 0.79, command),
            Row("cifar10", f"seed {seed}: exported accuracy", exported, target, close, command),
            Row("cifar10", f"seed {seed}: bytes up", result["bytes_up"], command=command),
        ]
    return rows


def flowers(folder: Path) -> list[Row]:
    """The Coral embedding extractor with photographs of flowers."""
    photos, bundle = folder / "photos", folder / "coral"
    reference_data.flowers(photos)
    name = "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
    model = reference_data.root() / "models_coral" / name
    command = call("firmware-tools", "convert", model, "-o", bundle, "--calibrate", photos, "--force")
    manifest = read(bundle / "manifest.json")
    classes, width = len(manifest["classes"]), manifest["backbone"]["embedding_width"]
    return [
        Row("flowers", "converted: classes", classes, "5", classes == 5, command),
        Row("flowers", "converted: width of the embedding", width, "1024", width == 1024, command),
    ]


def femnist(folder: Path) -> list[Row]:
    """A CNN pre-trained on 60 writers; the 45 others fine-tune its head, each on a device of its own."""
    made, bundle, out = folder / "femnist", folder / "femnist-bundle", folder / "femnist.json"
    subprocess.run(
        [sys.executable, pretrain.__file__, "-o", made],
        check=True,
        capture_output=True,
    )
    call("firmware-tools", "convert", made / "femnist_cnn.keras", "-o", bundle, "--calibrate",
         made / "pretrained_writers.npz", "--eval", made / "fleet_writers.npz", "--force")  # fmt: skip
    command = call("coordinator", "demo", "--bundle", bundle, "--data", made / "fleet_writers.npz", "--devices", "45",
                   "--rounds", "10", "--partition", "natural", "--seed", "0", "--output", folder / "femnist-run",
                   "--json", out)  # fmt: skip
    result = read(out)
    first, last = result["initial_accuracy"], result["final_accuracy"]
    least = min(min(by_phase.values()) for by_phase in result["coverage"].values())
    return [
        Row("femnist", "pre-trained head on the 45 writers' test images", first, command=command),
        Row("femnist", "after federated fine-tuning", last, "above the pre-trained head", last > first, command),
        Row("femnist", "exported accuracy", result["exported_accuracy"], command=command),
        Row("femnist", "least coverage of a phase, 45 sensors", least, ">= 0.99", least >= 0.99, command),
    ]


def device(folder: Path) -> list[Row]:
    """What a device process weighs, from its own doctor."""
    bundle, data = folder / "digits" / "bundle", folder / "digits" / "data" / "device-1.npz"
    if not bundle.exists():
        call("coordinator", "demo", "--output", folder / "digits", "--rounds", "1", "--again")
    arguments = ["doctor", "--json", "--bundle", str(bundle), "--data", str(data), "--state", str(folder / "doctor")]
    line = shlex.join(["edge-runtime", *arguments])
    print(f"$ {line}", file=sys.stderr, flush=True)
    done = subprocess.run([BIN / "edge-runtime", *arguments], capture_output=True, text=True)
    figures = json.loads(done.stdout)
    rss_mb, ready_s = figures["rss_mb"], figures["ready_s"]
    return [
        Row("device", "rss_mb after a round", rss_mb, "< 120", rss_mb < 120, line),
        Row("device", "ready_s after start", ready_s, "< 2", ready_s < 2, line),
    ]


PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "digits": digits,
    "device": device,
    "cifar10": cifar10,
    "flowers": flowers,
    "femnist": femnist,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PART[,PART...]", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows here")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgejoule-benchmark-") as folder:
        for name in names:
            try:
                rows += PARTS[name](Path(folder))
            except EdgejouleError as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
    for row in rows:
        mark = {True: "met", False: "MISSED", None: ""}[row.met]
        value = f"{row.value:.4f}" if isinstance(row.value, float) else str(row.value)
        print(f"{row.part:8}  {row.figure:58}  {value:>10}  {row.target:34}  {mark}".rstrip())
    if options.json:
        options.json.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
