"""A program's commands as one JSON document: for agents and scripts, which need not read help texts.

Made from the parsers themselves, so it says what this version takes. ``--schema`` prints it.
"""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from protos import errors
from protos.commands.program import children, walk

__all__ = ["JSON_KINDS", "described"]

JSON_KINDS: dict[str, tuple[str, ...]] = {
    "edge-runtime run": ("round", "settings"),
    "edge-runtime doctor": ("doctor",),
    "edge-runtime measure": ("measurement", "replay"),
    "edge-runtime recording info": ("recording-info",),
    "edge-runtime recording export": ("sample",),
    "edge-runtime calibrate-board": ("board",),
    "edge-runtime service status": ("service",),
    "edge-runtime service check": ("service-check",),
    "edge-runtime service upgrade": ("service-change",),
    "edge-runtime service rollback": ("service-change",),
    "edge-runtime identity": ("identity",),
    "edge-runtime predict": ("prediction",),
    "edge-runtime bench": ("bench",),
    "edge-runtime data list": ("stored-example",),
    "edge-runtime data stats": ("data",),
    "coordinator enroll": ("tokens",),
    "coordinator identities": ("identities",),
    "coordinator audit": ("audit",),
    "coordinator sign": ("signatures",),
    "coordinator upgrade": ("upgrade", "upgrades"),
    "coordinator signers": ("signers",),
    "coordinator delegate": ("delegation", "heads_key"),
    "coordinator status": ("runs", "run"),
    "coordinator start": ("started", "run"),
    "coordinator stop": ("stopped",),
    "coordinator pause": ("paused",),
    "coordinator resume": ("resumed",),
    "coordinator devices": ("devices",),
    "coordinator budgets": ("budgets",),
    "coordinator check-plan": ("plan-check",),
    "coordinator export": ("export",),
    "coordinator evaluate": ("evaluation",),
    "coordinator forget": ("forgotten",),
    "coordinator prune": ("pruned",),
    "coordinator report": ("report",),
    "coordinator export-results": ("exported-results",),
    "coordinator demo": ("outcome",),
    "coordinator wait": ("run",),
    "coordinator plan": ("plan",),
    "coordinator partition": ("partition",),
    "coordinator sweep": ("sweep", "sweep-plan", "sweep-run"),
    "coordinator compare": ("comparison",),
    "coordinator testbed": ("testbed", "collected"),
    "coordinator simulate": ("outcome",),
    "firmware-tools convert": ("convert",),
    "firmware-tools prune": ("prune",),
    "firmware-tools inspect": ("inspect",),
    "firmware-tools compile": ("compile",),
    "firmware-tools pretrain": ("pretrain",),
    "firmware-tools sample": ("sampled",),
    "firmware-tools bridge ports": ("bridge-ports",),
    "firmware-tools bridge flash": ("bridge-flash",),
    "firmware-tools bridge verify": ("bridge-verify",),
    "firmware-tools bridge info": ("bridge-info",),
    "firmware-tools bridge config": ("bridge-config",),
    "firmware-tools bridge calibrate": ("bridge-calibration", "bridge-bus"),
    "firmware-tools bridge selftest": ("bridge-selftest",),
    "firmware-tools bridge monitor": ("bridge-monitor",),
    "firmware-tools bridge decode": ("bridge-message",),
    "firmware-tools bridge sim": ("bridge-sim",),
    "firmware-tools bridge machine": ("bridge-machine", "bridge-machine-status"),
    "firmware-tools bridge build": ("bridge-build",),
}
"""What a command prints with ``--json``, or writes, by the words that lead to it; those of one with verbs are those of
each verb of it that is not named by itself."""

_SIGNALS = {130: "ended by SIGINT", 141: "the reader of stdout has gone", 143: "ended by SIGTERM"}


def described(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """A parser and every verb below it: their arguments, what they print as JSON, and all exit codes."""
    commands = []
    for path, one in walk(parser):
        words = " ".join((parser.prog, *path))
        row: dict[str, Any] = {
            "command": words,
            "about": (one.description or "").strip(),
            "usage": " ".join(one.format_usage().removeprefix("usage: ").split()),
            "arguments": [_argument(action, one) for action in one._actions if _is_shown(action)],
            "json": [f"edgejoule.{kind}/1" for kind in _kinds(words)],
            "commands": [f"{words} {name}" for name in children(one)],
        }
        commands.append(row)
    kinds = {error.exit_code: error for error in vars(errors).values() if _is_error(error)}
    codes = [
        {"code": code, "error": error.__name__, "meaning": (inspect.getdoc(error) or "").splitlines()[0]}
        for code, error in sorted(kinds.items())
    ]
    done = {"code": 0, "error": None, "meaning": "done"}
    signals = [{"code": code, "error": None, "meaning": meaning} for code, meaning in _SIGNALS.items()]
    return {"program": parser.prog.split()[0], "commands": commands, "exit_codes": [done, *codes, *signals]}


def _kinds(words: str) -> tuple[str, ...]:
    while words:
        if words in JSON_KINDS:
            return JSON_KINDS[words]
        words = words.rpartition(" ")[0]
    return ()


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)


def _argument(action: argparse.Action, parser: argparse.ArgumentParser) -> dict[str, Any]:
    takes = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else None
    default = action.default if isinstance(action.default, str | int | float | bool) else None
    words = {**vars(action), "prog": parser.prog}
    return {
        "names": list(action.option_strings),
        "value": (metavar or action.dest.upper()) if takes else None,
        "required": action.required,
        "many": action.nargs in ("+", "*", argparse.REMAINDER) or isinstance(action, argparse._AppendAction),
        "choices": None if action.choices is None else [str(choice) for choice in action.choices],
        "default": None if default is argparse.SUPPRESS else default,
        "help": (action.help or "") % words if action.help else "",
    }


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.EdgejouleError)
