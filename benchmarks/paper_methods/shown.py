"""The figures of `papers.py` for people: tables in Markdown, and joules by method as a picture.

.venv/bin/python benchmarks/paper_methods/shown.py figures.json one_pass --table one_pass.md --plot one_pass.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_COMPARED = (
    ("accuracy", "accuracy, %", 100.0, 2),
    ("accuracy of the last head", "last head, %", 100.0, 2),
    ("round to within one point", "rounds", 1.0, 1),
    ("wifi_j to within one point", "J, WiFi", 1.0, 2),
    ("lte_j to within one point", "J, LTE", 1.0, 0),
    ("bytes_up to within one point", "kB up", 1e-3, 1),
    ("bytes_down to within one point", "kB down", 1e-3, 1),
)
_COST = (
    ("bytes_up of one round", "kB up", 1e-3, 2),
    ("wifi_j of one round", "J, WiFi", 1.0, 3),
    ("lte_j of one round", "J, LTE", 1.0, 2),
)


def tables(rows: Sequence[Any], paper: str = "one_pass") -> str:
    """All rows as Markdown."""
    return _TABLES.get(paper, joule_tables)(rows)


def joule_tables(rows: Sequence[Any]) -> str:
    """Accuracies, and what it took to come near the central refit."""
    found = {(row.setting, row.method, row.quantity): row for row in rows}
    settings = list(dict.fromkeys(row.setting for row in rows))
    lines = []
    for setting in settings:
        methods = list(dict.fromkeys(row.method for row in rows if row.setting == setting))
        if (setting, "statistics", "bytes_up of one round") in found:
            continue
        central = found[setting, "central refit", "accuracy"].mean
        embedding = found[setting, "every method", "joules of embedding once"].mean
        lines += [
            f"**{setting}**: central refit {100 * central:.2f} %; embedding every example once takes {embedding:.0f} J",
            "",
            "| method | " + " | ".join(heading for _, heading, _, _ in _COMPARED) + " |",
            "|---" * (len(_COMPARED) + 1) + "|",
        ]
        for method in methods:
            if (setting, method, "accuracy of the last head") in found:
                cells = [_cell(found.get((setting, method, key)), *how) for key, _, *how in _COMPARED]
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
        for quantity in ("flat, tree and any order", "subtracted equals never there"):
            if (one := found.get((setting, "closed_form", quantity))) is not None:
                lines += ["", f"Bit for bit, {quantity}: {'yes' if one.mean == 1.0 else 'NO'} ({one.seeds} seeds)."]
        lines.append("")
    costs = [setting for setting in settings if (setting, "statistics", "bytes_up of one round") in found]
    if costs:
        lines += ["| statistics of one device | " + " | ".join(heading for _, heading, _, _ in _COST) + " |"]
        lines += ["|---" * (len(_COST) + 1) + "|"]
        for setting in costs:
            cells = [_cell(found.get((setting, "statistics", key)), *how) for key, _, *how in _COST]
            lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines).rstrip() + "\n"


def _cell(one: Any, factor: float = 1.0, digits: int = 2) -> str:
    if one is None or one.mean is None:
        return "not in each seed" if one is not None else ""
    half = "" if one.ci95 is None else f" ± {factor * one.ci95:.{digits}f}"
    return f"{factor * one.mean:.{digits}f}{half}"


def draw(rows: Sequence[Any], path: Path, paper: str = "one_pass") -> None:
    """A PNG of what the paper is about."""
    _PLOTS.get(paper, joule_plot)(rows, path)


def joule_plot(rows: Sequence[Any], path: Path) -> None:
    """A PNG: joules to within one point of the central refit, by data set and method; hollow where not reached."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    key = "wifi_j to within one point"
    settings = list(dict.fromkeys(row.setting for row in rows if row.quantity == key))
    methods = list(dict.fromkeys(row.method for row in rows if row.quantity == key))
    found = {(row.setting, row.method): row for row in rows if row.quantity == key}
    figure, axis = pyplot.subplots(figsize=(2.2 * len(settings) + 3, 4.6))
    width = 0.8 / len(methods)
    for at, method in enumerate(methods):
        places = [place + width * at for place in range(len(settings))]
        values = [getattr(found.get((setting, method)), "mean", None) for setting in settings]
        halves = [getattr(found.get((setting, method)), "ci95", None) or 0.0 for setting in settings]
        shown = [(p, max(v, 0.01), h) for p, v, h in zip(places, values, halves, strict=True) if v is not None]
        if shown:
            places, heights, errors = zip(*shown, strict=True)
            axis.bar(places, heights, width, yerr=errors, label=method, capsize=2)
        else:
            axis.bar([0], [0], width, label=f"{method} (never)")
    axis.set_yscale("log")
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(settings))], settings, fontsize=8)
    axis.set_ylabel("joules to within one point of the central refit, WiFi")
    axis.legend(fontsize=8, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


_WIDTHS = (32, 8, 6, 4, 3, 2)
_RANGES = ("minmax, tensor", "minmax, channel", "mse, tensor", "mse, channel")


def width_tables(rows: Sequence[Any]) -> str:
    """Accuracy by width of the weights, a table for each kind of range; and points over FedAvg with the same seeds."""
    found = {(row.setting, row.method, row.quantity): row for row in rows}
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        methods = list(dict.fromkeys(row.method for row in rows if row.setting == setting))
        seeds = max(row.seeds for row in rows if row.setting == setting)
        for kind in _RANGES:
            lines += [
                f"**{setting}**, ranges {kind}, accuracy in %, {seeds} seeds; [points over fedavg]:",
                "",
            ]
            lines += ["| method | " + " | ".join(f"{bits} bits" for bits in _WIDTHS) + " |"]
            lines += ["|---" * (len(_WIDTHS) + 1) + "|"]
            for method in methods:
                cells = []
                for bits in _WIDTHS:
                    at = f"at {bits} bits" + ("" if bits == 32 else f", {kind}")
                    over = found.get((setting, method, f"points over fedavg {at}"))
                    cell = _cell(found.get((setting, method, f"accuracy {at}")), 100.0, 2)
                    cells.append(cell if over is None else f"{cell} [{over.mean:+.2f} ± {over.ci95 or 0:.2f}]")
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
            lines.append("")
        lines += ["| method | kB up | kB down | J, WiFi |", "|---|---|---|---|"]
        for method in methods:
            cost = (("bytes_up", 1e-3, 1), ("bytes_down", 1e-3, 1), ("wifi_j", 1.0, 2))
            cells = [_cell(found.get((setting, method, key)), *how) for key, *how in cost]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def width_plot(rows: Sequence[Any], path: Path) -> None:
    """A PNG: accuracy against width, by data set and method, with ranges from least to largest for the tensor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = list(dict.fromkeys(row.setting for row in rows))
    found = {(row.setting, row.method, row.quantity): row for row in rows}
    figure, axes = pyplot.subplots(1, len(settings), figsize=(5 * len(settings), 4), squeeze=False)
    for axis, setting in zip(axes[0], settings, strict=True):
        for method in dict.fromkeys(row.method for row in rows if row.setting == setting):
            shown = [
                found[setting, method, f"accuracy at {bits} bits" + ("" if bits == 32 else ", minmax, tensor")]
                for bits in _WIDTHS
            ]
            axis.errorbar(
                range(len(_WIDTHS)), [100 * one.mean for one in shown], [100 * (one.ci95 or 0) for one in shown],
                label=method, capsize=2, marker="o", markersize=3,
            )  # fmt: skip
        axis.set_xticks(range(len(_WIDTHS)), [str(bits) for bits in _WIDTHS])
        axis.set_xlabel("bits of the weights, min-max ranges of the tensor")
        axis.set_ylabel("accuracy, %")
        axis.set_title(setting, fontsize=9)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plain_tables(rows: Sequence[Any]) -> str:
    """A table for each setting: methods by quantities, as they are."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        own = [row for row in rows if row.setting == setting]
        found = {(one.method, one.quantity): one for one in own}
        quantities = list(dict.fromkeys(one.quantity for one in own))
        lines += [f"**{setting}**, {max(one.seeds for one in own)} seeds", ""]
        lines += ["| method | " + " | ".join(quantities) + " |", "|---" * (len(quantities) + 1) + "|"]
        for method in dict.fromkeys(one.method for one in own):
            cells = []
            for quantity in quantities:
                one = found.get((method, quantity))
                cells.append(_cell(one, 1.0, 4 if one is not None and (one.mean or 0) < 10 else 1))
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def quantfl_plot(rows: Sequence[Any], path: Path) -> None:
    """A PNG: accuracy against megabytes."""
    from benchmarks.paper_methods import quantfl

    quantfl.draw(rows, path)


def sample_sheets(rows: Sequence[Any], path: Path) -> None:
    """PNGs: samples of each class, by method."""
    from benchmarks.paper_methods import diffusion

    diffusion.draw(rows, path)


def long_tables(rows: Sequence[Any]) -> str:
    """A line for each method and quantity: for methods whose quantities differ. Accuracies in %."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        own = [row for row in rows if row.setting == setting]
        lines += [
            f"**{setting}**, {max(one.seeds for one in own)} seeds",
            "",
            "| method | quantity | |",
            "|---|---|---|",
        ]
        for one in sorted(own, key=lambda one: [other.method for other in own].index(one.method)):
            percent = "accuracy" in one.quantity
            name = one.quantity + (", %" if percent else "")
            lines.append(f"| {one.method} | {name} | {_cell(one, 100.0 if percent else 1.0)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def bar_plot(quantities: Mapping[str, tuple[str, float]]) -> Callable[[Sequence[Any], Path], None]:
    """Bars by method, a field for each quantity: its heading, and what to multiply it with."""

    def drawn(rows: Sequence[Any], path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, len(quantities), figsize=(4.6 * len(quantities), 4), squeeze=False)
        for axis, (quantity, (heading, factor)) in zip(axes[0], quantities.items(), strict=True):
            shown = [row for row in rows if row.quantity == quantity and row.mean is not None]
            places = range(len(shown))
            axis.barh(places, [factor * one.mean for one in shown], xerr=[factor * (one.ci95 or 0) for one in shown],
                      capsize=2, height=0.7)  # fmt: skip
            axis.set_yticks(places, [one.method for one in shown], fontsize=8)
            axis.invert_yaxis()
            low = min((factor * one.mean for one in shown), default=0.0)
            if factor == 100.0 and low > 30:
                axis.set_xlim(left=max(0.0, low - 5))
            axis.set_xlabel(heading, fontsize=8)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)

    return drawn


_TABLES = {
    "robust": width_tables,
    "fl_pqsu": plain_tables,
    "personal": plain_tables,
    "koala": long_tables,
    "quantfl": plain_tables,
    "diffusion": plain_tables,
}
_PLOTS = {
    "robust": width_plot,
    "quantfl": quantfl_plot,
    "diffusion": sample_sheets,
    "personal": bar_plot({
        "points over fleet": ("points over the fleet's head", 1.0),
        "share of writers who lose": ("writers who lose, %", 100.0),
    }),
    "fl_pqsu": bar_plot({
        "accuracy": ("accuracy, %", 100.0),
        "wifi_j and embedding": ("joules, WiFi, with embedding", 1.0),
        "bytes_up": ("kB up", 1e-3),
    }),
    "koala": bar_plot({
        "large, accuracy": ("large model, accuracy, %", 100.0),
        "plain, accuracy": ("small model, plain, %", 100.0),
        "separable, accuracy": ("small model, separable, %", 100.0),
    }),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, nargs="+", help="what papers.py wrote, in parts")
    parser.add_argument("--paper", default="one_pass", help="which paper they are of (default one_pass)")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = [SimpleNamespace(**load) for file in options.figures for load in json.loads(file.read_text())]
    if options.table:
        options.table.write_text(tables(rows, options.paper))
    if options.plot:
        draw(rows, options.plot, options.paper)
    return 0


if __name__ == "__main__":
    sys.exit(main())
