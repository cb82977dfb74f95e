"""MLPerf's log of training: a line ``:::MLLOG {JSON}`` for each event, as MLCommons' checkers and plots read them.

Keys are those of mlperf_logging where it has one; joules and bytes, for which it has none, are named ``edgejoule_*``.
It is a log in that form, and no submission: MLPerf has no benchmark of such runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.results.figures import RunFigures
from protos.atomic import write_whole

__all__ = ["lines", "write"]

POINT, BEGIN, END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
_KNOWN = {"accuracy": "eval_accuracy", "loss": "eval_loss"}


def write(found: RunFigures, folder: Path) -> list[Path]:
    """Write ``RUN.mllog.txt`` into ``folder``; the path."""
    path = folder / f"{found.run.run_id}.mllog.txt"
    with write_whole(path) as file:
        for line in lines(found):
            file.write(f":::MLLOG {json.dumps(line, allow_nan=False)}\n".encode())
    return [path]


def lines(found: RunFigures) -> Iterator[dict[str, Any]]:
    """The events of a run, in the order of time."""
    run, settings = found.run, found.settings
    start_s = run.started_unix_s
    yield _line(start_s, POINT, "submission_benchmark", run.name)
    yield _line(start_s, POINT, "submission_platform", ", ".join(sorted({card.board for card in found.cards.values()})))
    yield _line(start_s, POINT, "seed", settings.get("run.seed", 0))
    for key, value in settings.items():
        yield _line(start_s, POINT, f"edgejoule_{key.replace('.', '_')}", value)
    yield _line(start_s, BEGIN, "run_start", None)
    opened = {this_round.round: this_round.opened_unix_s for this_round in run.rounds}
    for this_round in found.rounds:
        about = {"epoch_num": this_round.round}
        if this_round.round:
            yield _line(opened[this_round.round], BEGIN, "epoch_start", None, **about)
        for name, value in this_round.figures.items():
            yield _line(
                this_round.at_unix_s, POINT, _KNOWN.get(name, f"edgejoule_{name.replace('.', '_')}"), value, **about
            )
        if this_round.round:
            yield _line(this_round.at_unix_s, END, "epoch_stop", None, **about)
    if run.finished_unix_s is not None:
        status = "success" if run.state == "finished" else "aborted"
        yield _line(run.finished_unix_s, END, "run_stop", None, status=status)


def _line(unix_s: float, kind: str, key: str, value: object, **about: object) -> dict[str, Any]:
    return {
        "namespace": "",
        "time_ms": round(unix_s * 1000),
        "event_type": kind,
        "key": key,
        "value": value,
        "metadata": {"file": "edgejoule", "lineno": 0, **about},
    }
