"""`coordinator export-results`: runs in the formats of other programs."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.operator import as_json
from protos.commands.json_document import document
from protos.errors import EdgejouleError, StoreError, UsageError
from protos.extras import require

_ORDER_S = 0.01
# By name: the module of coordinator.results and its function, and what must be installed.
FORMATS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "tensorboard": ("to_tensorboard", "write", ("tensorboardX",)),
    "mlflow": ("to_mlflow", "write", ("mlflow", "alembic")),
    "trackio": ("to_trackers", "write_trackio", ("trackio",)),
    "wandb": ("to_trackers", "write_wandb", ("wandb",)),
    "otlp": ("to_otlp", "write", ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.common")),
    "mlperf": ("to_mlperf", "write", ()),
    "colext": ("to_colext", "write", ()),
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export-results",
        help="write runs for TensorBoard, MLflow, trackio, wandb, OpenTelemetry, MLPerf, CoLExT",
        description="Figures of each closed round with the time at which it closed, and the plan. Nothing is sent "
        "anywhere. A run that still goes on is written as it is now.",
        **example("coordinator export-results digits --format tensorboard -o logs"),
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an id, the beginning of one, or a name")
    parser.add_argument("--format", required=True, choices=sorted(FORMATS), help="of which program")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER")
    add_json(parser)
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write runs; 0."""
    from coordinator.results.figures import figures_of

    module, function, needed = FORMATS[arguments.format]
    require(needed, "otel" if arguments.format == "otlp" else arguments.format)
    write = getattr(importlib.import_module(f"coordinator.results.{module}"), function)
    folder: Path = arguments.output
    files: list[Path] = []
    with operator(arguments) as connection:
        cards = {device.device_id: device for device in connection.devices()}
        found = []
        for name in arguments.runs:
            (status,) = connection.status(name)
            found.append(figures_of(status, connection.details(status.run_id), cards))
    twice = sorted(
        {figures.run.run_id for figures in found if sum(figures.run.run_id == other.run.run_id for other in found) > 1}
    )
    if twice:
        raise UsageError("is named twice", where=", ".join(twice), fix="name each run once")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Before anything is written: else those before it would be in the way when it is tried again.
        for figures in found:
            if arguments.format in ("tensorboard", "colext") and (folder / figures.run.run_id).exists():
                raise UsageError("is there already", where=str(folder / figures.run.run_id), fix="choose another -o")
        for figures in found:
            files += write(figures, folder)
            # A hundredth of a second is what disks and threads make of the order of two writes.
            if figures.moved_s > _ORDER_S:
                what = "the coordinator's clock went back while it went on; later times are moved on by"
                print(f"{figures.run.run_id}: {what} {figures.moved_s:.3g} s", file=sys.stderr)
    except EdgejouleError:
        raise  # some of ours are OSErrors as well
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise StoreError(what, where=str(folder), fix="choose another -o") from error
    paths = sorted({str(path) for path in files})
    if arguments.json:
        ids = [figures.run.run_id for figures in found]
        print(as_json.dump(document("exported-results", {"runs": ids, "format": arguments.format, "files": paths})))
        return 0
    for path in paths:
        print(path)
    return 0
