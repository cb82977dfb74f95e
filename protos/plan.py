"""RunPlan: one TOML file, as frozen values.

Every key has a type, a default and limits, all in the table below its section's dataclass; an unknown key is
answered with the nearest good one. What a single key cannot show (two keys that contradict each other) is refused in
:func:`_refuse_contradictions`, with the reason. Paths stay as written: who reads the plan knows what they are
relative to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from protos.catalog import hint
from protos.errors import PlanError
from protos.update.codecs import CODECS, DEFAULT_CODEC, resolve

WEIGHTS = ("by_examples", "by_budget")
NORMALISATIONS = ("fednova", "none")


@dataclass(frozen=True)
class RunSection:
    """[run] What is trained, and for how long."""

    bundle: str
    name: str = "run"
    rounds: int = 10
    seed: int = 0


@dataclass(frozen=True)
class RoundSection:
    """[round] When a round opens and closes.

    Attributes:
        devices: devices that must be present before round 1 opens.
        quorum: share of the ordered devices whose reports make a round, 0 to 1.
        deadline_s: a round closes then with a quorum, and is abandoned without.
    """

    devices: int = 1
    quorum: float = 0.5
    deadline_s: float = 600.0


@dataclass(frozen=True)
class TrainSection:
    """[train] What a device does with its data. Just one of epochs and steps counts.

    Attributes:
        epochs: passes over the device's own training examples.
        steps: optimiser steps, the same on each device.
        inputs: further inputs of the bundle's train signature, by name.
    """

    epochs: float | None = None
    steps: int | None = None
    rate: float = 0.05
    momentum: float = 0.0
    proximal_mu: float = 0.0
    inputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class UpdateSection:
    """[update] How changes travel."""

    codec: str = DEFAULT_CODEC
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AggregateSection:
    """[aggregate] How much say each device has.

    Attributes:
        weight: factors of a device's weight, multiplied.
        normalise: "fednova" removes the pull of devices that made more steps (Wang et al., NeurIPS 2020).
        server_rate: factor on the mean change.
    """

    weight: tuple[str, ...] = WEIGHTS
    normalise: str = "fednova"
    server_rate: float = 1.0


@dataclass(frozen=True)
class BudgetSection:
    """[budget] Joules that a device may spend on one round, idling left out; None is no limit.

    Attributes:
        per_round_j: for every device that has no line of its own.
        device: device id to joules.
    """

    per_round_j: float | None = None
    device: Mapping[str, float] = field(default_factory=dict)

    def of(self, device_id: str) -> float | None:
        """The budget of one device, or None."""
        return self.device.get(device_id, self.per_round_j)


@dataclass(frozen=True)
class EvaluateSection:
    """[evaluate] Held-out data on the coordinator: an .npz, idx pair or folder; its test part where it has one."""

    data: str | None = None


@dataclass(frozen=True)
class RunPlan:
    """All of a run. ``plan_id`` names the content, so an order and a report can say which plan they mean."""

    run: RunSection
    round: RoundSection
    train: TrainSection
    update: UpdateSection
    aggregate: AggregateSection
    budget: BudgetSection
    evaluate: EvaluateSection

    @property
    def plan_id(self) -> str:
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return f"plan-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


# key -> (types, lowest, highest); None: not a number, or no limit.
_Rule = tuple[tuple[type, ...], float | None, float | None]
_NUMBER = (int, float)
_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
_RULES: dict[str, dict[str, _Rule]] = {
    "run": {
        "bundle": ((str,), None, None),
        "name": ((str,), None, None),
        "rounds": ((int,), 1, 100_000),
        "seed": ((int,), 0, 2**63 - 1),
    },
    "round": {
        "devices": ((int,), 1, 1_000_000),
        "quorum": (_NUMBER, 0.0, 1.0),
        "deadline_s": (_NUMBER, 0.001, 1e7),
    },
    "train": {
        "epochs": (_NUMBER, 0.001, 100_000),
        "steps": ((int,), 1, 10_000_000),
        "rate": (_NUMBER, 1e-9, 1e3),
        "momentum": (_NUMBER, 0.0, 0.999),
        "proximal_mu": (_NUMBER, 0.0, 1e6),
        "inputs": ((dict,), None, None),
    },
    "update": {"codec": ((str,), None, None), "parameters": ((dict,), None, None)},
    "aggregate": {
        "weight": ((list,), None, None),
        "normalise": ((str,), None, None),
        "server_rate": (_NUMBER, 1e-6, 100.0),
    },
    "budget": {"per_round_j": (_NUMBER, 1e-6, 1e9), "device": ((dict,), None, None)},
    "evaluate": {"data": ((str,), None, None)},
}
_SECTIONS: dict[str, type] = {
    "run": RunSection,
    "round": RoundSection,
    "train": TrainSection,
    "update": UpdateSection,
    "aggregate": AggregateSection,
    "budget": BudgetSection,
    "evaluate": EvaluateSection,
}


def parse(text: str, *, where: str = "plan") -> RunPlan:
    """A plan from TOML text.

    Raises:
        PlanError: not TOML, an unknown or missing key, a value of the wrong type or out of range, a contradiction.

    >>> parse('[run]\\nbundle = "b"\\nrounds = 3').run.rounds
    3
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; a thousand nested brackets
        raise PlanError(f"not TOML: {error}", where=where) from error
    for name in document:
        if name not in _SECTIONS:
            raise PlanError(f"no section is called [{name}]", where=where, fix=hint(name, _SECTIONS))
    plan = RunPlan(**{name: _section(name, document.get(name, {}), where) for name in _SECTIONS})
    _refuse_contradictions(plan, where)
    return plan


def _section(name: str, given: Any, where: str) -> Any:
    if not isinstance(given, dict):
        raise PlanError(f"[{name}] is a section, not a value", where=where)
    values: dict[str, Any] = {}
    parameters: dict[str, float] = {}
    for key, value in given.items():
        place = f"{where}: {name}.{key}"
        if key not in _RULES[name]:
            # A codec's own parameters may stand beside `codec`, which reads better than a sub-table.
            if name == "update" and key in _codec_keys(given):
                parameters.update(_numbers({key: value}, f"{where}: {name}"))
                continue
            known = [*_RULES[name], *(_codec_keys(given) if name == "update" else ())]
            raise PlanError(f"[{name}] has no key {key!r}", where=where, fix=hint(key, known))
        values[key] = _checked(value, _RULES[name][key], place)
    if name == "run" and "bundle" not in values:
        raise PlanError("run.bundle is missing", where=where, fix='add [run] bundle = "PATH" made by firmware-tools')
    if name == "update":
        for key in parameters.keys() & values.get("parameters", {}).keys():
            raise PlanError(
                f"update.{key} and update.parameters.{key} contradict each other", where=where, fix="keep one of them"
            )
        # Written out in full, so that an order says all of it, whatever defaults the device's version has.
        named = {**parameters, **values.get("parameters", {})}
        values["parameters"] = resolve(values.get("codec", DEFAULT_CODEC), named, where=f"{where}: update")
    return _SECTIONS[name](**values)


def _codec_keys(update: Mapping[str, Any]) -> tuple[str, ...]:
    codec = update.get("codec", DEFAULT_CODEC)
    return tuple(CODECS[codec].parameters) if isinstance(codec, str) and codec in CODECS else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool)


def _checked(value: Any, rule: _Rule, place: str) -> Any:
    """The value, as its section holds it: equal plans are equal values, whether a file says 1 or 1.0."""
    types, lowest, highest = rule
    if not isinstance(value, types) or isinstance(value, bool):
        kind = _WORDS.get(type(value), "a date or time")
        raise PlanError(f"{_shown(value)} is {kind}, not {_WORDS[types[-1]]}", where=place)
    if lowest is not None and highest is not None and not lowest <= cast(float, value) <= highest:
        raise PlanError(f"{_shown(value)} is not from {lowest:g} to {highest:g}", where=place)
    if isinstance(value, dict):
        return _numbers(value, place)
    if isinstance(value, list):
        if not all(isinstance(one, str) for one in value):
            raise PlanError(f"{_shown(value)} is not a list of names", where=place)
        return tuple(value)
    return float(cast(float, value)) if types == _NUMBER else value


def _numbers(table: Mapping[str, Any], place: str) -> dict[str, float]:
    for key, value in table.items():
        if not _is_number(value) or not abs(value) <= 1e9:
            raise PlanError(f"{_shown(value)} is not a number from -1e9 to 1e9", where=f"{place}.{key}")
    return {key: float(value) for key, value in table.items()}


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits, and TOML has hexadecimal ones
        return "what is written"


def _refuse_contradictions(plan: RunPlan, where: str) -> None:
    train, aggregate = plan.train, plan.aggregate
    if train.epochs is not None and train.steps is not None:
        raise PlanError("train.epochs and train.steps contradict each other", where=where, fix="keep one of them")
    for name in ("rate", "momentum", "proximal_mu"):
        if name in train.inputs:
            raise PlanError(f"{name} is in [train] and in train.inputs", where=where, fix="keep the one in [train]")
    for factor in aggregate.weight:
        if factor not in WEIGHTS:
            raise PlanError(f"no weight is called {factor!r}", where=where, fix=hint(factor, WEIGHTS))
    if len(set(aggregate.weight)) != len(aggregate.weight):
        raise PlanError("aggregate.weight names a factor twice", where=where, fix="name each once")
    if aggregate.normalise not in NORMALISATIONS:
        fix = hint(aggregate.normalise, NORMALISATIONS)
        raise PlanError(f"no normalisation is called {aggregate.normalise!r}", where=where, fix=fix)
    for device, joules in plan.budget.device.items():
        if joules <= 0:
            fix = "leave the device out of the fleet instead"
            raise PlanError(f"budget.device.{device} = {joules:g} allows no work", where=where, fix=fix)
    if plan.budget.device and plan.budget.per_round_j is None and "by_budget" in aggregate.weight:
        fix = "set budget.per_round_j for the others, or take by_budget out of aggregate.weight"
        raise PlanError(
            "by_budget cannot weigh devices that have no budget against those that have", where=where, fix=fix
        )
