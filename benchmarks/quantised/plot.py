"""The picture of `quantfl.py`: accuracy against the bits that travelled, for each data set and start.

Lines: the best accuracy that any rate of a codec has reached with so many bits. Marks: its rates after the last round,
with 95 % intervals. The grey band is 0.3 points around float32.

.venv/bin/python benchmarks/quantised/plot.py figures.json quantfl.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

COLOURS = {
    "float32": "#444444",
    "bucket_uniform": "#d1495b",
    "bucket_quantile": "#edae49",
    "eden": "#00798c",
    "entropy_coded": "#2b59c3",
    "closed_form": "#6a994e",
}
MARKS = {
    "float32": "s",
    "bucket_uniform": "v",
    "bucket_quantile": "^",
    "eden": "D",
    "entropy_coded": "o",
    "closed_form": "*",
}
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "digits": "digits"}
STARTS = {"pretrained": "pre-trained start", "random": "random start"}


def draw(rows: Sequence[Any], path: Path) -> None:
    """A PNG with a panel for each data set and start.

    Args:
        rows: like those of `quantfl.py`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((row.dataset, row.start) for row in rows))
    columns = 2 if len(panels) > 1 else 1
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(6.2 * columns, 4.3 * lines), squeeze=False)
    figure.set_facecolor("white")
    for axis, (dataset, start) in zip(axes.ravel(), panels, strict=False):
        own = [row for row in rows if (row.dataset, row.start) == (dataset, start)]
        _panel(axis, own)
        axis.set_title(f"{NAMES.get(dataset, dataset)}, {STARTS.get(start, start)}", fontsize=12)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=11, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _reached(rows: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Bits and the accuracy that some rate of a codec has reached with them, rising."""
    points = sorted(((bits, share) for row in rows for bits, share in row.curve), key=lambda point: point[0])
    bits, best = [], []
    for at, share in points:
        if not best or share > best[-1]:
            bits.append(at)
            best.append(share)
    last = max(row.curve[-1][0] for row in rows)
    return [*bits, last], [*best, best[-1]]


def _panel(axis: Any, rows: Sequence[Any]) -> None:
    plain = next(row for row in rows if row.codec == "float32")
    whole, accuracy = plain.curve[-1][0] / 8e6, 100 * plain.accuracy_mean
    axis.axhspan(accuracy - 0.3, accuracy + 0.3, color="#bbbbbb", alpha=0.4, linewidth=0)
    axis.axvline(0.05 * whole, color="#777777", linestyle=":", linewidth=1.3)
    for codec in COLOURS:
        own = [row for row in rows if row.codec == codec]
        if not own:
            continue
        bits, share = _reached(own)
        axis.step([bit / 8e6 for bit in bits], [100 * value for value in share], where="post", color=COLOURS[codec],
                  linewidth=1.8)  # fmt: skip
        axis.errorbar(
            [row.curve[-1][0] / 8e6 for row in own],
            [100 * row.accuracy_mean for row in own],
            yerr=[100 * row.accuracy_ci95 for row in own],
            label=codec,
            color=COLOURS[codec],
            marker=MARKS[codec],
            markersize=6,
            linestyle="none",
            capsize=3,
        )
    axis.set_xscale("log")
    least = min(accuracy - 12, *(100 * row.accuracy_mean - 2 for row in rows))
    axis.set_ylim(max(0, least), accuracy + 2)
    axis.text(0.05 * whole, max(0, least), " 95 % saved", fontsize=9, color="#555555", va="bottom")
    axis.set_facecolor("white")
    axis.grid(True, which="both", color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.set_xlabel("megabytes of all devices so far, up and down", fontsize=10)
    axis.set_ylabel("accuracy, %", fontsize=10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="what quantfl.py --json wrote")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    draw([SimpleNamespace(**row) for row in json.loads(options.figures.read_text())["rows"]], options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
