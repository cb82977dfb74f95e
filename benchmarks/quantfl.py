"""QuantFL's comparison (arXiv:2603.17507): accuracy against all bits that travel, up and down.

    .venv/bin/python benchmarks/papers.py --paper quantfl --json OUT --table MD --plot PNG
    .venv/bin/python benchmarks/papers.py --paper quantfl --quick --json OUT       # under three minutes
    .venv/bin/python benchmarks/quantfl.py --json OUT --plot PNG    # the same runs, with the course of each
    .venv/bin/python benchmarks/quantfl.py --json OUT --quick

Devices train a head on a frozen backbone, pre-trained or random, and every codec is used both ways. Bits are those of
serialised messages, all headers and names included, summed over devices and rounds; every codec runs the same rounds.
QuantFL's own codecs are `bucket_uniform` and `bucket_quantile`. `closed_form` sends no update at all: sums of
embeddings, once, of which the coordinator solves for the head.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.paper_methods.rows import Asked, kept
from benchmarks.quantised.rounds import CLOSED, LOSSLESS, Course, Fleet, Run
from benchmarks.quantised.tasks import Task, tasks
from protos.errors import EdgejouleError

FULL = Fleet(devices=10, rounds=30, steps=60, inputs={"rate": 0.1, "weight_decay": 1e-4})
QUICK = Fleet(devices=5, rounds=8, steps=20, inputs={"rate": 0.1, "weight_decay": 1e-4})
RATES: dict[str, tuple[float, ...]] = {
    LOSSLESS: (32.0,),
    "bucket_uniform": (1, 2, 3),
    "bucket_quantile": (1, 2, 3),
    "eden": (0.5, 1, 2),
    "entropy_coded": (0.5, 0.75, 1, 1.25, 2),
    CLOSED: (0,),
}
# What `papers.py` compares: the rates at which codecs come near float32.
PAPER_RATES: dict[str, tuple[float, ...]] = {
    LOSSLESS: (32.0,),
    "bucket_uniform": (1, 2, 3),
    "bucket_quantile": (2,),
    "eden": (1,),
    "entropy_coded": (0.75, 1, 1.25),
    CLOSED: (0,),
}
QUICK_RATES: dict[str, tuple[float, ...]] = {
    LOSSLESS: (32.0,),
    "bucket_uniform": (1, 2),
    "bucket_quantile": (1, 2),
    "eden": (1,),
    "entropy_coded": (0.75, 1.25),
    CLOSED: (0,),
}


# Shares of float32's bits at which codecs are compared, each at its best rate.
BUDGETS = (0.01, 0.02, 0.03, 0.05, 0.1)
SETTLING = 5  # rounds over which accuracy is averaged: unlike shards make it swing from one to the next


@dataclass(frozen=True)
class Row:
    """One codec at one rate: means over seeds, after the last round.

    Attributes:
        bits_up, bits_down: of all devices in all rounds.
        accuracy_ci95: half the width of the 95 % interval of the mean, by Student's t.
        rate: bits a coordinate that the codec was asked for.
        saved: share of float32's bits, both ways, that did not travel; whole messages.
        saved_of_heads: the same of changes and heads alone, without ids, joules and names around them.
        below_float32: points of accuracy (0 to 100) that it lacks of float32 with the same seeds, and below_ci95 the
            half width of that.
        curve: for each round, mean bits so far and mean accuracy.
        joules: metered by the devices over WiFi, embedding left out; joules_ci95 the half width.

    Accuracies are means over the last rounds, see ``settled``.
    """

    dataset: str
    start: str
    codec: str
    bits_up: float
    bits_down: float
    accuracy_mean: float
    accuracy_ci95: float
    seeds: int
    rate: float
    saved: float
    below_float32: float
    below_ci95: float
    curve: list[tuple[float, float]]
    joules: float = math.nan
    joules_ci95: float = math.nan
    saved_of_heads: float = math.nan


def settled(accuracy: Sequence[float]) -> list[float]:
    """For each round the mean over it and those before: ``SETTLING`` of them, or a quarter of all that there were."""
    means = []
    for last in range(1, len(accuracy) + 1):
        window = max(1, min(SETTLING, last // 4))
        means.append(float(np.mean(accuracy[last - window : last])))
    return means


def within(rows: Sequence[Row], budget_bits: float) -> float | None:
    """The best accuracy of these rates when no more than so many bits may travel; None: not even for a round."""
    reached = [[share for bits, share in row.curve if bits <= budget_bits][-1:] for row in rows]
    return max((one[0] for one in reached if one), default=None)


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of a mean."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def compare(
    task: Task, fleet: Fleet, rates: dict[str, tuple[float, ...]], seeds: int, asked: Asked | None = None
) -> Iterator[Row]:
    """A row for every codec and rate; float32 first. Asked: to keep what was run."""
    plain: list[Course] = []
    for codec, own in rates.items():
        for rate in own:
            started = time.monotonic()
            courses = [_course(task, fleet, codec, rate, seed, asked) for seed in range(seeds)]
            plain = plain or courses
            row = _row(task, codec, rate, courses, plain)
            print(
                f"{row.dataset}, {row.start}: {codec} {rate:g}: {100 * row.accuracy_mean:.2f} %, "
                f"{100 * row.saved:.1f} % saved ({time.monotonic() - started:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
            yield row


def _course(task: Task, fleet: Fleet, codec: str, rate: float, seed: int, asked: Asked | None) -> Course:
    def made() -> dict[str, Any]:
        return asdict(Run(task, fleet, codec, rate, seed).course())

    name = f"quantfl-{task.dataset}-{task.start}-{fleet.rounds}-rounds-{codec}-{rate:g}-seed-{seed}"
    return Course(**(made() if asked is None else kept(asked, name, made)))


def _row(task: Task, codec: str, rate: float, courses: Sequence[Course], plain: Sequence[Course]) -> Row:
    each = [settled(course.accuracy) for course in courses]
    last = [one[-1] for one in each]
    short = [100 * (settled(other.accuracy)[-1] - own) for own, other in zip(last, plain, strict=True)]
    up, down = (np.mean([getattr(course, way) for course in courses], axis=0) for way in ("bits_up", "bits_down"))
    whole = float(np.mean([course.bits_up[-1] + course.bits_down[-1] for course in plain]))
    heads, plain_heads = (
        sum(course.change_bits_up[-1] + course.head_bits_down[-1] for course in some) for some in (courses, plain)
    )
    accuracy = np.mean(each, axis=0)
    curve = [(float(bits), float(share)) for bits, share in zip(up + down, accuracy, strict=True)]
    return Row(
        task.dataset,
        task.start,
        codec,
        float(up[-1]),
        float(down[-1]),
        float(np.mean(last)),
        half_width(last),
        len(courses),
        rate,
        1 - curve[-1][0] / whole,
        float(np.mean(short)),
        half_width(short),
        curve,
        float(np.mean([course.joules[-1] for course in courses])),
        half_width([course.joules[-1] for course in courses]),
        1 - heads / plain_heads,
    )


def compared(
    folder: Path, seeds: int, *, quick: bool, only: Sequence[str] = (), few: bool = False, asked: Asked | None = None
) -> list[Row]:
    """Every data set from every start.

    Args:
        folder: for bundles and data.
        only: data sets; empty for all.
        few: the rates of `papers.py`.
        asked: what its command line asks, to keep what was run.
    """
    fleet, rates = (QUICK, QUICK_RATES) if quick else (FULL, PAPER_RATES if few else RATES)
    rows = [row for task in tasks(folder, quick=quick, only=only) for row in compare(task, fleet, rates, seeds, asked)]
    return sorted(rows, key=lambda row: (row.dataset, row.start))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown, one table for each data set and start."""
    for dataset, start in dict.fromkeys((row.dataset, row.start) for row in rows):
        yield f"\n{dataset}, {start} start:\n"
        line = "| codec | bits asked | kB up | kB down | bits saved | of heads alone | J, WiFi | accuracy, % "
        yield line + "| points below float32 |"
        yield "|---" * 9 + "|"
        for row in rows:
            if (row.dataset, row.start) == (dataset, start):
                below = "" if row.codec == LOSSLESS else f"{row.below_float32:.2f} ± {row.below_ci95:.2f}"
                travelled = f"{row.bits_up / 8e3:.1f} | {row.bits_down / 8e3:.1f} | {100 * row.saved:.1f} %"
                travelled += f" | {100 * row.saved_of_heads:.1f} % | {row.joules:.1f}"
                accuracy = f"{100 * row.accuracy_mean:.2f} ± {100 * row.accuracy_ci95:.2f}"
                yield f"| {row.codec} | {row.rate:g} | {travelled} | {accuracy} | {below} |"


def budgets(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: accuracy within the same budget of bits, each codec at its best rate."""
    yield "\n| data set, start | codec | " + " | ".join(f"{100 * share:g} %" for share in BUDGETS) + " |"
    yield "|---|---" + "|---" * len(BUDGETS) + "|"
    for dataset, start in dict.fromkeys((row.dataset, row.start) for row in rows):
        own = [row for row in rows if (row.dataset, row.start) == (dataset, start)]
        whole = next(row.curve[-1][0] for row in own if row.codec == LOSSLESS)
        for codec in dict.fromkeys(row.codec for row in own):
            found = [within([row for row in own if row.codec == codec], share * whole) for share in BUDGETS]
            cells = ["" if value is None else f"{100 * value:.2f}" for value in found]
            yield f"| {dataset}, {start} | {codec} | " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw them (needs the extra `plots`)")
    parser.add_argument("--seeds", type=int, help="runs of each codec and rate (default: 5, quick: 2)")
    parser.add_argument("--quick", action="store_true", help="few examples, rounds, rates and seeds: under a minute")
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 2:
        parser.error("--seeds: an interval needs 2 or more")
    seeds = options.seeds or (2 if options.quick else 5)
    fleet = QUICK if options.quick else FULL
    try:
        with tempfile.TemporaryDirectory(prefix="edgejoule-quantfl-") as folder:
            rows = compared(Path(folder), seeds, quick=options.quick)
    except EdgejouleError as error:
        print(f"quantfl: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(table(rows)))
    print(
        "\naccuracy, %, when all bits that travel are at most a share of those of float32; each codec at its best rate"
    )
    print("\n".join(budgets(rows)))
    if options.json:
        document: dict[str, Any] = {"rows": [asdict(row) for row in rows], "fleet": asdict(fleet)}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        from benchmarks.quantised.plot import draw

        draw(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
