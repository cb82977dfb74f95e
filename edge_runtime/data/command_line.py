"""The words of `edge-runtime data`, apart from what they do."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_runtime.model.command_line import add_place
from protos.commands.program import HelpFormatter

__all__ = ["EXAMPLE", "add_arguments"]

EXAMPLE = """examples:
  edge-runtime data add --label cat photo.jpg
  edge-runtime data stats

The store is a folder, and the device's `data` names it. Files may also be put into its inbox, as
STORE/inbox/LABEL/FILE."""
_ADD = """examples:
  edge-runtime data add --store /var/lib/edgejoule/own --label cat cats/*.jpg
  edge-runtime data add --store /var/lib/edgejoule/own examples.npz

An .npz file brings its own labels (y) and held-out examples (is_test). Without --label an image waits for one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the verbs of ``data`` on a parser."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    raw = HelpFormatter

    def verb(name: str, help: str, example: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help, epilog=example, formatter_class=raw)
        made.add_argument("--store", metavar="DIR", type=Path, help="the store; `data` of the settings if not given")
        add_place(made)
        return made

    add = verb("add", "take examples up", _ADD)
    add.add_argument("files", nargs="+", metavar="FILE", help="images, .npy of one example, or .npz of many")
    add.add_argument("--label", metavar="NAME", help="the class of all of them")
    add.add_argument("--held-out", action="store_true", help="for evaluation alone: never trained on")
    listing = verb("list", "what is there, a line each", "example:\n  edge-runtime data list --unlabelled")
    listing.add_argument("--unlabelled", action="store_true", help="only what waits for a label")
    listing.add_argument("--json", action="store_true", help="print one JSON object for each on stdout")
    label = verb("label", "give examples a label",
                 "example:\n  edge-runtime data label --label cat 0000000012-9f86d081")  # fmt: skip
    label.add_argument("names", nargs="+", metavar="NAME")
    label.add_argument("--label", metavar="NAME", required=True, help="the class of all of them")
    drop = verb("drop", "delete examples", "example:\n  edge-runtime data drop 0000000012-9f86d081")
    drop.add_argument("names", nargs="+", metavar="NAME")
    stats = verb("stats", "how many of which class, and how large", "example:\n  edge-runtime data stats --json")
    stats.add_argument("--json", action="store_true", help="print JSON on stdout")
    keep = verb("keep", "bound what is kept",
                "example:\n  edge-runtime data keep --count 5000 --days 365 --mb 2000 --reservoir on")  # fmt: skip
    keep.add_argument("--count", metavar="N", type=int, help="most training examples; -1: without a limit")
    keep.add_argument("--days", metavar="N", type=float, help="longest age; -1: without a limit")
    keep.add_argument("--mb", metavar="N", type=float, help="most bytes of all files, 10^6; -1: without a limit")
    keep.add_argument("--reservoir", choices=("on", "off"), help="on: keep a fair sample of all that ever came")
