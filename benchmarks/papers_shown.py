"""The figures of `papers.py` for people: tables in Markdown, and joules by method as a picture.

.venv/bin/python benchmarks/papers_shown.py figures.json one_pass --table one_pass.md --plot one_pass.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def tables(rows: Sequence[Any]) -> str:
    """All rows as Markdown."""
    found = {(one.setting, one.method, one.quantity): one for one in rows}
    settings = list(dict.fromkeys(one.setting for one in rows))
    lines = []
    for setting in settings:
        methods = list(dict.fromkeys(one.method for one in rows if one.setting == setting))
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
    costs = [one for one in settings if (one, "statistics", "bytes_up of one round") in found]
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


def draw(rows: Sequence[Any], path: Path) -> None:
    """A PNG: joules to within one point of the central refit, by data set and method; hollow where not reached."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    key = "wifi_j to within one point"
    settings = list(dict.fromkeys(one.setting for one in rows if one.quantity == key))
    methods = list(dict.fromkeys(one.method for one in rows if one.quantity == key))
    found = {(one.setting, one.method): one for one in rows if one.quantity == key}
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, nargs="+", help="what papers.py wrote, in parts")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = [SimpleNamespace(**one) for file in options.figures for one in json.loads(file.read_text())]
    if options.table:
        options.table.write_text(tables(rows))
    if options.plot:
        draw(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
