"""What a plan's values may be: the type and the limits of every key, and how a value is held against them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, cast

from protos.errors import PlanError
from protos.ranges import Range

# key -> (types, lowest, highest); None: not a number, or no limit.
Rule = tuple[tuple[type, ...], float | None, float | None]
NUMBER = (int, float)
# What a further input of a training step, or a budget of a device, may be.
_ANY = Range(-1e9, 1e9)
WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
RULES: dict[str, dict[str, Rule]] = {
    "run": {
        "bundle": ((str,), None, None),
        "name": ((str,), None, None),
        "rounds": ((int,), 1, 100_000),
        "seed": ((int,), 0, 2**63 - 1),
        "start_from": ((str,), None, None),
        "beside": ((bool,), None, None),
        "priority": ((int,), -100, 100),
        "share": (NUMBER, 0.001, 1000.0),
        "deliver": ((str,), None, None),
        "schedule": ((str,), None, None),
        "every": ((str,), None, None),
    },
    "round": {
        "devices": ((int,), 1, 1_000_000),
        "quorum": (NUMBER, 0.0, 1.0),
        "deadline_s": (NUMBER, 0.001, 1e7),
        "sample": ((int,), 1, 1_000_000),
        "enough": (NUMBER, 0.0, 1.0),
        "late": ((int,), 0, 1000),
        "buffer": ((int,), 1, 1_000_000),
    },
    "train": {
        "method": ((str,), None, None),
        "epochs": (NUMBER, 0.001, 100_000),
        "steps": ((int,), 1, 10_000_000),
        "rate": (NUMBER, 1e-9, 1e3),
        "rate_decay": (NUMBER, 0.01, 1.0),
        "momentum": (NUMBER, 0.0, 0.999),
        "proximal_mu": (NUMBER, 0.0, 1e6),
        "correction": ((str,), None, None),
        "inputs": ((dict,), None, None),
    },
    "update": {"codec": ((str,), None, None), "parameters": ((dict,), None, None)},
    "downlink": {"codec": ((str,), None, None), "parameters": ((dict,), None, None)},
    "aggregate": {
        "weight": ((list,), None, None),
        "normalise": ((str,), None, None),
        "server_rate": (NUMBER, 1e-6, 100.0),
        "server": ((str,), None, None),
        "server_momentum": (NUMBER, 0.0, 0.999),
        "server_second": (NUMBER, 0.0, 0.9999),
        "server_tau": (NUMBER, 1e-9, 1.0),
        "rule": ((str,), None, None),
        "clip": (NUMBER, 0.0, 100.0),
        "mix": ((int,), 0, 1),
        "malicious": (NUMBER, 0.0, 0.45),
        "weight_cap": (NUMBER, 1.0, 1e6),
        "staleness": (NUMBER, -1.0, 10.0),
    },
    "budget": {
        "per_round_j": (NUMBER, 1e-6, 1e9),
        "device": ((dict,), None, None),
        "per_day_j": (NUMBER, 1e-6, 1e9),
        "total_j": (NUMBER, 1e-6, 1e12),
        "battery_j": (NUMBER, 1e-6, 1e9),
        "battery_share": (NUMBER, 0.001, 1.0),
        "harvest": ((str,), None, None),
        "harvest_share": (NUMBER, 0.001, 1.0),
        "scale": ((dict,), None, None),
        "fleet_j": (NUMBER, 1e-6, 1e12),
    },
    "planner": {
        "policy": ((str,), None, None),
        "p_min": (NUMBER, 0.001, 1.0),
        "error_bound": (NUMBER, 1e-5, 100.0),
        "participation": ((str,), None, None),
    },
    "privacy": {
        "clip": (NUMBER, 1e-6, 1e6),
        "noise": (NUMBER, 0.01, 1e3),
        "epsilon": (NUMBER, 0.01, 100.0),
        "delta": (NUMBER, 1e-12, 0.1),
        "masked": ((int,), 0, 1),
        "bits": ((int,), 4, 24),
    },
    "evaluate": {
        "data": ((str,), None, None),
        "patience": ((int,), 0, 100_000),
        "until": (NUMBER, -1e6, 1.0),
        "until_j": (NUMBER, 1e-6, 1e12),
    },
    "closed_form": {
        "head": ((str,), None, None),
        "priors": ((str,), None, None),
        "shrinkage": (NUMBER, 1e-9, 1e6),
        "project": ((int,), 0, 4096),
        "add_to": ((str,), None, None),
        "choose": ((str,), None, None),
    },
}


def checked(value: Any, rule: Rule, place: str) -> Any:
    """The value, as its section holds it: equal plans are equal values, whether a file says 1 or 1.0."""
    types, lowest, highest = rule
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        kind = WORDS.get(type(value), "a date or time")
        raise PlanError(f"{shown(value)} is {kind}, not {WORDS[types[-1]]}", where=place)
    if lowest is not None and highest is not None:
        limits = Range(lowest, highest, whole=types == (int,))
        try:
            limits.number(value)
        except ValueError as error:
            raise PlanError(f"{shown(value)} is {error}", where=place) from None
    if isinstance(value, dict):
        return numbers(value, place)
    if isinstance(value, list):
        if not all(isinstance(one, str) for one in value):
            raise PlanError(f"{shown(value)} is not a list of names", where=place)
        return tuple(value)
    return float(cast(float, value)) if types == NUMBER else value


def numbers(table: Mapping[str, Any], place: str) -> dict[str, float]:
    for key, value in table.items():
        try:
            _ANY.number(value)
        except ValueError as error:
            raise PlanError(f"{shown(value)} is {error}", where=f"{place}.{key}") from None
    return {key: float(value) for key, value in table.items()}


def shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits, and TOML has hexadecimal ones
        return "what is written"
