"""What coding the way down costs in accuracy, and saves in bytes.

    .venv/bin/python benchmarks/downlink.py --json OUT            # some minutes on 2 cores
    .venv/bin/python benchmarks/downlink.py --json OUT --quick    # under a minute

Twenty devices with unlike classes (Dirichlet, 0.3) train a linear head on MNIST pixels (7,850 coordinates; the 8 x 8
digits of scikit-learn, 650 coordinates, where the reference data are not there); ten of them, drawn anew, take part in
a round. Codecs, chains of differences, serialised heads and aggregation are the project's own; local steps are plain
gradient descent on the cross-entropy in numpy. The way up is not coded, so that only the way down differs.

`scheme` says what the mean change of a round is added to: "apart", the coordinator's own head H, so that what a coding
lost is in the next difference, as in `coordinator/run/downlink.py`; "never scaled", the same without the scale that a
code of much error has there; "together", the head D that devices hold, so that what a coding lost is gone. `bytes_down`
are the serialised heads that devices received in all rounds, beyond the bundle that brings the first one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from benchmarks.inputs import reference_data
from coordinator.aggregate.rules import RULES
from coordinator.run.downlink import Downlink
from protos.convert.head_transfers import head_to
from protos.datafiles.dataset import load
from protos.errors import EdgejouleError
from protos.orders import Holding
from protos.plan.plan import RunPlan, parse
from protos.update import codecs, trees
from protos.update.codecs import generator
from protos.update.downlink import rebuild, step_towards
from protos.update.trees import Tree

Floats = npt.NDArray[np.float32]
DEVICES, PER_ROUND, STEPS, BATCH, RATE = 20, 10, 20, 32, 0.1
WAYS: list[tuple[str, float]] = [
    ("float16", 16), ("uniform_stochastic", 2), ("bucket_uniform", 2), ("entropy_coded", 2), ("entropy_coded", 1),
    ("entropy_coded", 0.5), ("entropy_coded_mmse", 2), ("entropy_coded_mmse", 1), ("entropy_coded_mmse", 0.5),
    ("sign", 1),
]  # fmt: skip
SCHEMES = ("apart", "never scaled", "together")


@dataclass(frozen=True)
class Row:
    """One way down. ``accuracy_ci95`` is half of the interval over seeds (Student's t); ``away`` is ||H - D|| / ||H||
    at the end."""

    dataset: str
    scheme: str
    codec: str
    bits: float
    accuracy_mean: float
    accuracy_ci95: float
    bytes_down: float
    share_of_whole: float
    away: float
    seeds: int


@dataclass(frozen=True)
class Data:
    """Pixels float32 [N, D] from 0 to 1 and labels of both parts."""

    name: str
    x: Floats
    y: npt.NDArray[np.int32]
    test_x: Floats
    test_y: npt.NDArray[np.int32]


def data() -> Data:
    """MNIST, or the digits of scikit-learn."""
    try:
        found = load(reference_data.root() / "mnist")
        x, y, name = found.x.reshape(len(found.y), -1) / np.float32(255), found.y, "mnist"
        test = found.is_test
    except EdgejouleError as error:
        print(f"{error}; using the digits of scikit-learn", file=sys.stderr)
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y, name = digits.data.astype(np.float32) / np.float32(16), digits.target.astype(np.int32), "digits"
        test = np.arange(len(y)) % 5 == 0
    return Data(name, x[~test].astype(np.float32), y[~test], x[test].astype(np.float32), y[test])


def shards(y: npt.NDArray[np.int32], random: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Rows of each device: classes are spread by a Dirichlet distribution of 0.3."""
    rows: list[list[int]] = [[] for _ in range(DEVICES)]
    for label in range(10):
        mine = random.permutation(np.flatnonzero(y == label))
        cuts = (np.cumsum(random.dirichlet([0.3] * DEVICES))[:-1] * len(mine)).astype(int)
        for device, part in enumerate(np.split(mine, cuts)):
            rows[device].extend(part.tolist())
    return [np.array(sorted(row), np.int64) for row in rows]


def local(head: Tree, x: Floats, y: npt.NDArray[np.int32], random: np.random.Generator) -> Tree:
    """The change that plain steps make of a softmax head."""
    kernel, bias = head["out_kernel"].copy(), head["out_bias"].copy()
    for _ in range(STEPS):
        rows = random.integers(len(y), size=BATCH)
        logits = x[rows] @ kernel + bias
        logits -= logits.max(axis=1, keepdims=True)
        slope = np.exp(logits)
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(BATCH), y[rows]] -= 1
        kernel -= np.float32(RATE / BATCH) * (x[rows].T @ slope)
        bias -= np.float32(RATE / BATCH) * slope.sum(axis=0)
    return {"out_bias": bias - head["out_bias"], "out_kernel": kernel - head["out_kernel"]}


def accuracy(head: Tree, one: Data) -> float:
    """Share of held-out examples whose class is right."""
    return float(np.mean(np.argmax(one.test_x @ head["out_kernel"] + head["out_bias"], axis=1) == one.test_y))


def moved(now: Downlink, head: Tree, number: int, plan: RunPlan, *, scaled: bool) -> Downlink:
    """What devices hold after a round."""
    after = now.after(head, number, plan)
    if scaled or not after.links or after is now:
        return after
    codec = codecs.build(plan.downlink.codec, plan.downlink.parameters)
    found = step_towards(head, now.shown, codec, generator(plan.run.seed, "downlink", number))
    assert found is not None
    plain = dataclasses.replace(found[0], scale=1.0)
    shown = rebuild(now.shown, [plain], trees.shapes(head))
    newest = dataclasses.replace(after.links[-1], difference=plain, after=trees.version(shown))
    return Downlink(shown, now.start, (*after.links[:-1], newest))


def run(one: Data, plan: RunPlan, scheme: str, rounds: int) -> tuple[float, int, float]:
    """Accuracy at the end, bytes down, and how far devices are from the head then."""
    seed = plan.run.seed
    mine = shards(one.y, generator(seed, "shards"))
    rule = RULES["fednova"]
    head: Tree = {"out_bias": np.zeros(10, np.float32), "out_kernel": np.zeros((one.x.shape[1], 10), np.float32)}
    now = Downlink(head, trees.version(head))
    holds = [""] * DEVICES
    bytes_down = 0
    for number in range(1, rounds + 1):
        state = rule.start(trees.shapes(head))
        for device in generator(seed, "who", number).permutation(DEVICES)[:PER_ROUND]:
            sent = now.head_for(Holding(holds[device], rebuilds=True))
            bytes_down += head_to(sent.version, sent.whole, sent.base, sent.differences).ByteSize()
            holds[device] = sent.version
            rows = mine[device]
            if not len(rows):
                continue
            change = local(now.shown, one.x[rows], one.y[rows], generator(seed, "steps", int(device), number))
            state = rule.add(state, change, float(len(rows)), float(STEPS))
        mean = rule.finish(state)
        assert mean is not None
        head = trees.add_scaled(now.shown if scheme == "together" else head, mean, 1.0)
        now = moved(now, head, number, plan, scaled=scheme == "apart")
    return accuracy(head, one), bytes_down, trees.norm(trees.subtract(head, now.shown)) / trees.norm(head)


# Student's t for a 95 % interval over n seeds.
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def measure(one: Data, scheme: str, codec: str, bits: float, rounds: int, seeds: int) -> tuple[Row, float]:
    """A row, and its bytes; `share_of_whole` is still to be filled in."""
    found = []
    for seed in range(seeds):
        rate = f"bits = {bits}\n" if "bits" in codecs.CODECS[codec].parameters else ""
        plan = parse(f'[run]\nbundle = "b"\nseed = {seed}\n[downlink]\ncodec = "{codec}"\n{rate}')
        found.append(run(one, plan, scheme, rounds))
    hits = np.array([hit for hit, _, _ in found])
    spread = float(_T[seeds] * hits.std(ddof=1) / seeds**0.5) if seeds > 1 else 0.0
    down = float(np.mean([size for _, size, _ in found]))
    away = float(np.mean([far for _, _, far in found]))
    return Row(one.name, scheme, codec, bits, float(hits.mean()), spread, down, 1.0, away, seeds), down


def main() -> int:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer rounds and codecs: under a minute")
    arguments = parser.parse_args()
    one = data()
    rounds, seeds = (15, 1) if arguments.quick else (40, 5)
    ways = [way for way in WAYS if way[1] in (2, 1)] if arguments.quick else WAYS
    whole, whole_bytes = measure(one, "apart", "float32", 32, rounds, seeds)
    rows = [whole]
    for codec, bits in ways:
        for scheme in SCHEMES:
            row, down = measure(one, scheme, codec, bits, rounds, seeds)
            rows.append(dataclasses.replace(row, share_of_whole=down / whole_bytes))
    print(f"{one.name}, {rounds} rounds, {seeds} seeds: accuracy of the coordinator's head at the end")
    for row in rows:
        print(
            f"{row.codec:20s} {row.bits:5g}  {row.scheme:13s} {100 * row.accuracy_mean:6.2f} % "
            f"+- {100 * row.accuracy_ci95:.2f}  {row.bytes_down / 1000:9.1f} kB  {100 * row.share_of_whole:6.2f} %  "
            f"away {row.away:.4f}"
        )
    arguments.json.write_text(json.dumps({"rounds": rounds, "rows": [asdict(row) for row in rows]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
