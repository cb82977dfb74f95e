"""The command line of the device: ``run``, ``doctor``, ``measure``, ``recording``, ``calibrate-board``, ``service``,
``predict``, ``bench``, ``data`` and ``completion``.

Exit codes: 0 when stopped by SIGTERM, SIGINT, ``--max-rounds`` or ``--exit-when-idle``; else the code of the error
(see ``protos.errors``). A second SIGTERM or SIGINT ends the process at once (143 or 130 in a shell).
``measure`` leaves with the exit code of the command it measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_runtime import calibrate_board
from edge_runtime.config import KEYS, OPTIONS, Resolved, as_json, misspelt, resolve
from edge_runtime.data import command_line as data_words
from edge_runtime.identity import command as identity_command
from edge_runtime.measure import command as measure_command
from edge_runtime.measure import recording_command
from edge_runtime.model import command_line as model_words
from edge_runtime.service import command as service_command
from protos.commands.command_line import conduct
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter, add_completion, program, run_completion
from protos.systems import LINUX, require_system

_RUN_EXAMPLE = """example:
  edge-runtime run --coordinator 127.0.0.1:50461 --device-id pi-1 --data digits.npz --shard 1/4 \\
      --sensor serial:/dev/ttyUSB0 --state /var/lib/edgejoule

Each setting is also a key of the file given with --config, and a variable such as EDGEJOULE_DEVICE_ID.
Flags win over variables, variables over the file. SIGTERM and SIGINT end training at the next step, send what was
trained, and leave with exit code 0; a second signal ends at once."""
_DOCTOR_EXAMPLE = """example:
  edge-runtime doctor --json --sensor serial:/dev/ttyUSB0 --data digits.npz --bundle BUNDLE/

Exit code 0 when no check failed (warnings are allowed), 3 when one did."""


def parser() -> argparse.ArgumentParser:
    """The command line, made from the table of settings."""
    example = "example:\n  edge-runtime run --config /etc/edgejoule/device.toml"
    top = program("edge-runtime", "Federated fine-tuning on this device.", example)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="join a coordinator and work for it", epilog=_RUN_EXAMPLE,
                              formatter_class=HelpFormatter)  # fmt: skip
    run.add_argument("--json", action="store_true", help="print one JSON object per round on stdout")
    doctor = commands.add_parser("doctor", help="check this machine and say how to mend it", epilog=_DOCTOR_EXAMPLE,
                                 formatter_class=HelpFormatter)  # fmt: skip
    doctor.add_argument("--json", action="store_true", help="print JSON on stdout")
    measure = commands.add_parser("measure", help="joules of a period, a command or a recording",
                                  epilog=measure_command.EXAMPLE,
                                  formatter_class=HelpFormatter)  # fmt: skip
    measure_command.add_arguments(measure)
    recording = commands.add_parser("recording", help="what is in a recording; its samples as a table",
                                    epilog=recording_command.EXAMPLE,
                                    formatter_class=HelpFormatter)  # fmt: skip
    recording_command.add_arguments(recording)
    calibrate = commands.add_parser("calibrate-board", help="fit the watts of this kind of board to its sensor",
                                    epilog=calibrate_board.EXAMPLE,
                                    formatter_class=HelpFormatter)  # fmt: skip
    calibrate_board.add_arguments(calibrate)
    service = commands.add_parser("service", help="run as a service of systemd", epilog=service_command.EXAMPLE,
                                  formatter_class=HelpFormatter)  # fmt: skip
    service_command.add_arguments(service)
    enroll = commands.add_parser("enroll", help="make this board one of a fleet, with a one-time token",
                                 epilog=identity_command.ENROLL_EXAMPLE,
                                 formatter_class=HelpFormatter)  # fmt: skip
    identity_command.add_enroll(enroll)
    identity = commands.add_parser("identity", help="who this board is in its fleet, and until when",
                                   epilog=identity_command.IDENTITY_EXAMPLE,
                                   formatter_class=HelpFormatter)  # fmt: skip
    identity_command.add_identity(identity)
    predict = commands.add_parser("predict", help="the classes of images or examples, by the model at work",
                                  epilog=model_words.PREDICT_EXAMPLE,
                                  formatter_class=HelpFormatter)  # fmt: skip
    model_words.add_predict(predict)
    bench = commands.add_parser("bench", help="latency and joules of one prediction on this board",
                                epilog=model_words.BENCH_EXAMPLE,
                                formatter_class=HelpFormatter)  # fmt: skip
    model_words.add_bench(bench)
    data = commands.add_parser("data", help="the store of own examples: add, list, label, drop, stats, keep",
                               epilog=data_words.EXAMPLE,
                               formatter_class=HelpFormatter)  # fmt: skip
    data_words.add_arguments(data)
    add_completion(commands, "edge-runtime")
    for command in (run, doctor):
        command.add_argument("--config", metavar="FILE", type=Path, help="TOML file (or EDGEJOULE_CONFIG)")
        command.add_argument("--show-config", action="store_true", help="print every setting with its origin, and end")
        for option in OPTIONS:
            command.add_argument(option.flag, dest=option.key, metavar=option.metavar, help=option.meaning,
                                 default=argparse.SUPPRESS)  # fmt: skip
    return top


def resolved_from(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Resolved:
    """Settings of a parsed command line."""
    flags = {key: value for key, value in vars(arguments).items() if key in KEYS}
    config = arguments.config or (Path(environ["EDGEJOULE_CONFIG"]) if environ.get("EDGEJOULE_CONFIG") else None)
    return resolve(flags, environ, config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    return conduct(lambda: "edge-runtime", lambda: _command(parser().parse_args(arguments)))


def _command(given: argparse.Namespace) -> int:
    if given.command == "completion":
        return run_completion(parser(), given.shell)
    if given.command != "recording":
        require_system("a device", LINUX)
    if given.command == "measure":
        return measure_command.run(given, os.environ)
    if given.command == "recording":
        return recording_command.run(given)
    if given.command == "calibrate-board":
        return calibrate_board.run(given)
    if given.command == "service":
        return service_command.run(given)
    if given.command == "data":
        from edge_runtime.data.command import run as run_data

        return run_data(given)
    if given.command == "predict":
        from edge_runtime.model.predict_command import run as run_predict

        return run_predict(given)
    if given.command == "bench":
        from edge_runtime.model.bench_command import run as run_bench

        return run_bench(given)
    if given.command == "enroll":
        return identity_command.run_enroll(given)
    if given.command == "identity":
        return identity_command.run_identity(given)
    resolved = resolved_from(given, os.environ)
    if given.show_config:
        print(
            json.dumps(document("settings", as_json(resolved)), indent=2) if given.json else "\n".join(resolved.lines())
        )
        return 0
    return _doctor(resolved, as_json=given.json) if given.command == "doctor" else _run(resolved, rows=given.json)


def _run(resolved: Resolved, *, rows: bool) -> int:
    from edge_runtime.daemon.stopping import Stopping
    from edge_runtime.systemd.logging_setup import log, start_logging

    stopping = Stopping()
    stopping.catch_signals()
    start_logging(resolved.settings.log_level)
    for line in misspelt(os.environ):
        log().warning("%s", line)
    from edge_runtime.daemon import process as daemon

    daemon.run(resolved.settings, stopping=stopping, rows=rows)
    return 0


def _doctor(resolved: Resolved, *, as_json: bool) -> int:
    from edge_runtime.doctor.examination import examine, print_findings

    return print_findings(examine(resolved.settings), as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
