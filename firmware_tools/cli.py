"""``firmware-tools``: what is made on a workstation and put on a board."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from firmware_tools.bridge.commands.all import add_commands as add_bridge
from firmware_tools.compile.command import add_command as add_compile
from firmware_tools.convert.command import add_command as add_convert
from firmware_tools.inspect.command import add_command as add_inspect
from firmware_tools.pretrain.command import add_command as add_pretrain
from firmware_tools.prune.command import add_command as add_prune
from firmware_tools.sample.command import add_command as add_sample
from protos.commands.command_line import conduct
from protos.commands.program import add_completion, program, run_completion

_EPILOG = """\
examples:
  firmware-tools convert cnn.keras --calibrate digits.npz -o bundle/
  firmware-tools inspect bundle/
  firmware-tools COMMAND --help"""


def _parser() -> argparse.ArgumentParser:
    parser = program("firmware-tools", "The workshop of edgejoule: models and firmware for boards.", _EPILOG)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_convert(commands)
    add_prune(commands)
    add_inspect(commands)
    add_compile(commands)
    add_pretrain(commands)
    add_sample(commands)
    add_bridge(commands)
    completion = add_completion(commands, "firmware-tools")
    completion.set_defaults(run=lambda options: run_completion(parser, options.shell))
    return parser


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake is one line on stderr, never a traceback."""

    def body() -> int | None:
        options = _parser().parse_args(arguments)
        # Unwinds through every `finally`, so that temporary folders and children go when the command is told to.
        signal.signal(signal.SIGTERM, _terminated)
        code: int | None = options.run(options)
        return code

    code = conduct(lambda: "firmware-tools", body)
    if code == 130:
        print("firmware-tools: interrupted", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
