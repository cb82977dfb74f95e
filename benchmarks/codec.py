"""Error of every codec against the bits that it really sends, and its speed.

    .venv/bin/python benchmarks/codec.py --json OUT            # a few minutes on 2 cores
    .venv/bin/python benchmarks/codec.py --json OUT --quick    # under a minute

`measured_bits` are those of the serialised protobuf tensors per coordinate: headers, scales, tables, names and all.
`vnmse` is E ||decoded - x||^2 / ||x||^2. `bias` is what stays of it in the mean of many codings of one vector, beyond
1/n of the error of one: 0 within the noise for an unbiased codec. Rows named `limit:...` are no codecs but theory for
white Gaussian values: 1 / (4**b - 1) is the least error of any unbiased code, and a scalar quantiser with an ideal
entropy coder, rescaled, has the error of `limit:entropy_coded_scalar`. A source that is not Gaussian can go below.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.inputs import reference_data
from protos.convert.tensors import tensors_to
from protos.errors import EdgejouleError
from protos.update import codecs
from protos.update.tensors import EncodedTensor, decode
from protos.update.trees import Tree, coordinates, shapes, subtract
from protos.v1 import edgejoule_pb2 as pb

RATES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
ANY_RATE = ("entropy_coded", "entropy_coded_mmse", "eden")
WHOLE_BITS = ("uniform_stochastic", "bucket_uniform", "bucket_quantile", "qsgd")
SCALAR_LIMIT = {1: 0.5345, 2: 0.0976, 3: 0.02274, 4: 5.591e-3, 5: 1.392e-3, 6: 3.476e-4, 8: 2.172e-5}
UNBIASED = ("float32", "uniform_stochastic", "entropy_coded", "eden", "qsgd")


@dataclass(frozen=True)
class Row:
    """One codec at one rate on one source. ``bias`` is None where it was not measured."""

    source: str
    codec: str
    d: int
    target_bits: float
    measured_bits: float
    vnmse: float
    bias: float | None


@dataclass(frozen=True)
class Speed:
    """Coordinates per second, best of a few runs."""

    codec: str
    d: int
    encode_coords_per_s: float
    decode_coords_per_s: float
    memcpy_coords_per_s: float
    float32_protobuf_coords_per_s: float


def layered(d: int, rng: np.random.Generator) -> Tree:
    """64 layers of d / 64 Gaussian coordinates, scales log-uniform over 1.5 decades."""
    scales = rng.permutation(10 ** np.linspace(-1.5, 0, 64))
    return {f"l{i:02d}": (scale * rng.normal(size=d // 64)).astype(np.float32) for i, scale in enumerate(scales)}


SOURCES: dict[str, Callable[[int, np.random.Generator], Tree]] = {
    "gaussian": lambda d, rng: {"w": rng.normal(size=d).astype(np.float32)},
    "laplace": lambda d, rng: {"w": rng.laplace(size=d).astype(np.float32)},
    "student_t3": lambda d, rng: {"w": rng.standard_t(3, size=d).astype(np.float32)},
    "layered": layered,
}


def head_update() -> Tree:
    """The change that five epochs on 500 photos of flowers make of a linear head on 1,024 real embeddings: softmax
    regression by plain SGD in batches of 16 from zeros."""
    path = reference_data.root() / "flowers_embeddings" / "flowers_mobilenet_v1_emb.npz"
    with np.load(path, allow_pickle=False) as stored:
        chosen = np.random.default_rng(1).permutation(np.flatnonzero(stored["split"] == "train"))[:500]
        x, y = stored["emb"][chosen].astype(np.float32), stored["y"][chosen].astype(np.int64)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    classes = int(y.max()) + 1
    kernel, bias = np.zeros((x.shape[1], classes), np.float32), np.zeros(classes, np.float32)
    rng = np.random.default_rng(0)
    start: Tree = {"out_bias": bias.copy(), "out_kernel": kernel.copy()}
    for _ in range(5):
        for batch in np.array_split(rng.permutation(len(x)), len(x) // 16):
            logits = x[batch] @ kernel + bias
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            share[np.arange(len(batch)), y[batch]] -= 1
            kernel -= 0.01 * (x[batch].T @ share) / len(batch)
            bias -= 0.01 * share.mean(axis=0)
    return subtract({"out_bias": bias, "out_kernel": kernel}, start)


def coded(codec: codecs.Codec, tree: Tree, *purpose: int) -> tuple[EncodedTensor, ...]:
    tensors, _ = codec.encode(tree, codec.init(shapes(tree)), codecs.generator(1, codec.name, *purpose))
    return tensors


def power(tree: Tree) -> float:
    return sum(float(np.sum(np.square(array, dtype=np.float64))) for array in tree.values())


def settings() -> Iterator[tuple[str, dict[str, float], float]]:
    """Codec, parameters, and the bits that these ask for."""
    yield "float32", {}, 32
    yield "float16", {}, 16
    for rate in RATES:
        for name in ANY_RATE:
            yield name, {"bits": rate}, rate
    for bits in (1, 2, 3, 4, 8):
        for name in WHOLE_BITS:
            if bits >= codecs.CODECS[name].parameters["bits"].minimum:
                yield name, {"bits": bits}, bits
    yield "affine8_weights", {}, 8
    yield "sign", {}, 1
    yield "keep_largest", {"share": 0.1}, 0.1 * 8


def measure(source: str, tree: Tree, codings: int) -> Iterator[Row]:
    """A row for every codec."""
    d = coordinates(tree)
    whole = power(tree)
    for name, parameters, target in settings():
        codec = codecs.build(name, parameters)
        errors, sent = [], []
        for number in range(codings):
            tensors = coded(codec, tree, number)
            sent.append(sum(len(message.SerializeToString()) for message in tensors_to(tensors)))
            errors.append(power(subtract(tree, decode(tensors, shapes(tree)))) / whole)
        yield Row(source, name, d, target, 8 * float(np.mean(sent)) / d, float(np.mean(errors)), None)
    for bits in sorted({1, 2, 3, 4, 8, *RATES}):
        yield Row(source, "limit:gaussian_unbiased", d, bits, bits, 1 / (4**bits - 1), None)
        if bits in SCALAR_LIMIT:
            yield Row(source, "limit:entropy_coded_scalar", d, bits, bits, SCALAR_LIMIT[int(bits)], None)


def biases(codings: int) -> Iterator[Row]:
    """What stays in the mean of many codings of one Laplacian vector of 4,096 coordinates."""
    tree = SOURCES["laplace"](4096, np.random.default_rng(5))
    whole = power(tree)
    for name in UNBIASED:
        for bits in (1, 2, 4) if name != "float32" else (32,):
            given = {"bits": float(bits)} if name != "float32" else {}
            if name == "qsgd" and bits == 1:
                continue
            codec = codecs.build(name, given)
            mean, once, sent = np.zeros(4096), 0.0, 0
            for number in range(codings):
                tensors = coded(codec, tree, number)
                back = decode(tensors, shapes(tree))
                sent = sum(len(message.SerializeToString()) for message in tensors_to(tensors))
                mean += back["w"].astype(np.float64) / codings
                once += power(subtract(tree, back)) / whole / codings
            left = float(np.sum((mean - tree["w"]) ** 2)) / whole - once / codings
            yield Row("laplace", name, 4096, bits, 8 * sent / 4096, once, left)


def best_of(action: Callable[[], Any], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def speeds(d: int, runs: int) -> Iterator[Speed]:
    tree = SOURCES["gaussian"](d, np.random.default_rng(6))
    plain = d / best_of(lambda: tree["w"].copy(), 20)
    proto = d / best_of(lambda: pb.Tensor(float32=tree["w"].tobytes()).SerializeToString(), 5)
    for name, given in (
        ("float32", {}),
        ("uniform_stochastic", {"bits": 8.0}),
        *((name, {"bits": bits}) for name in ANY_RATE for bits in (1.0, 2.0, 4.0)),
    ):
        codec = codecs.build(name, given)
        tensors = coded(codec, tree)
        encode_s = best_of(lambda codec=codec: coded(codec, tree), runs)  # type: ignore[misc]
        decode_s = best_of(lambda tensors=tensors: decode(tensors, shapes(tree)), runs)  # type: ignore[misc]
        label = f"{name}@{given['bits']:g}" if given else name
        yield Speed(label, d, d / encode_s, d / decode_s, plain, proto)


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: for each source and size the error at each rate, with the measured bits."""
    for source, d in dict.fromkeys((row.source, row.d) for row in rows if row.bias is None):
        own = [row for row in rows if (row.source, row.d) == (source, d) and row.bias is None]
        yield f"\n{source}, d = {d}: vNMSE (measured bits)\n"
        rates = [rate for rate in RATES if rate != 6]
        yield "| codec | " + " | ".join(f"{rate:g}" for rate in rates) + " |"
        yield "|---" * (len(rates) + 1) + "|"
        for codec in dict.fromkeys(row.codec for row in own):
            at = {row.target_bits: row for row in own if row.codec == codec}
            cells = [f"{at[r].vnmse:.3g} ({at[r].measured_bits:.3f})" if r in at else "" for r in rates]
            if any(cells):
                yield f"| {codec} | " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: under a minute")
    given = parser.parse_args()
    rows: list[Row] = []
    for exponent in (14, 18) if given.quick else (14, 18, 20):
        for name, draw in SOURCES.items():
            if given.quick and name == "layered" and exponent > 14:
                continue
            tree = draw(1 << exponent, np.random.default_rng(exponent))
            rows += measure(name, tree, 1 if given.quick else 1 << max(0, 18 - exponent) // 2)
            print(f"{name}, 2^{exponent}: done", file=sys.stderr, flush=True)
    try:
        rows += measure("head_update", head_update(), 1 if given.quick else 4)
    except EdgejouleError as error:
        print(f"head_update: left out: {error}", file=sys.stderr)
    rows += biases(60 if given.quick else 1000)
    speed = list(speeds(1 << 20, 2 if given.quick else 5))
    print("\n".join(table(rows)))
    print("\nbias of the mean of many codings, laplace, d = 4096\n")
    print("| codec | bits | one coding | left |\n|---|---|---|---|")
    for row in rows:
        if row.bias is not None:
            print(f"| {row.codec} | {row.measured_bits:.3f} | {row.vnmse:.3g} | {row.bias:.1e} |")
    print("\nspeed, d = 2^20, million coordinates a second\n\n| codec | encode | decode |\n|---|---|---|")
    for one in speed:
        print(f"| {one.codec} | {one.encode_coords_per_s / 1e6:.1f} | {one.decode_coords_per_s / 1e6:.1f} |")
    print(f"| numpy copy | {speed[0].memcpy_coords_per_s / 1e6:.0f} | |")
    print(f"| float32 protobuf | {speed[0].float32_protobuf_coords_per_s / 1e6:.0f} | |")
    if given.json:
        assert all(math.isfinite(row.vnmse) for row in rows)
        document = {"rows": [asdict(row) for row in rows], "speed": [asdict(each_speed) for each_speed in speed]}
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
