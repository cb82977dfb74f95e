"""RunPlan: one TOML file, as frozen values.

Every key has its default, its type and its limits in :mod:`protos.plan.sections`; an unknown key is answered with the
nearest good one. What a single key cannot show (two keys that contradict each other) is refused by
:func:`protos.plan.contradictions.refuse_contradictions`, with the reason. Paths stay as written: who reads the plan
knows what they are relative to.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.catalog import hint
from protos.errors import PlanError
from protos.plan.contradictions import clash_with_scaffold, refuse_contradictions
from protos.plan.plan_rules import checked, numbers
from protos.plan.schedule import KEYS, Times, times_of
from protos.plan.sections import (
    RULES,
    SECTIONS,
    AggregateSection,
    BudgetSection,
    ClosedFormSection,
    DownlinkSection,
    EvaluateSection,
    PlannerSection,
    PrivacySection,
    RoundSection,
    RunSection,
    TrainSection,
    UpdateSection,
)
from protos.update.codecs import CODECS, resolve

# With a rule against false reports no weight is more than so many times the median: it is half claimed by its device.
_WEIGHT_CAP = 3.0
# A coordinate of a standardised head moves by about this much in a round of an adaptive one.
_ADAPTIVE_RATE = 0.03
# Of an asynchronous run, where nothing is said: who is slower than ten others in a row is rather gone than at work.
_LATE_OF_BUFFER = 10
# Whitened features vary alike in every direction, and bear larger steps; measured in docs/one-pass.md.
_WHITENED_RATE, _WHITENED_DECAY = 0.2, 0.9
# Where nothing keeps unlike shards from pulling steps apart, larger steps of later rounds undo what earlier ones did.
_UNCORRECTED_DECAY = 0.7
# One round of statistics says all there is, however many rounds follow.
_ROUNDS_OF_CLOSED_FORM = 1


@dataclass(frozen=True)
class RunPlan:
    """All of a run. ``plan_id`` names the content, so an order and a report can say which plan they mean."""

    run: RunSection
    round: RoundSection
    train: TrainSection
    update: UpdateSection
    downlink: DownlinkSection
    aggregate: AggregateSection
    budget: BudgetSection
    planner: PlannerSection
    evaluate: EvaluateSection
    closed_form: ClosedFormSection
    privacy: PrivacySection = field(default_factory=PrivacySection)

    @property
    def times(self) -> Times | None:
        """When runs of it start by themselves; None: once, at once."""
        return times_of(self.run.schedule, self.run.every, "plan")

    @property
    def trains_whitened(self) -> bool:
        """Whether steps are made in whitened coordinates: statistics give them, unless they were projected."""
        return self.train.method == "closed_form+sgd" and not self.closed_form.project

    @property
    def correction(self) -> str:
        """What corrects gradients. Where the plan does not say: control variates for whitened steps, unless something
        else in the plan does not go with them, and nothing for others."""
        if self.train.correction is not None:
            return self.train.correction
        return "scaffold" if self.trains_whitened and not clash_with_scaffold(self) else "none"

    @functools.cached_property
    def plan_id(self) -> str:
        content = dataclasses.asdict(self)
        # A plan that says nothing of what is newer than it keeps its name: its reports are on their way.
        for section, key, default in _LATER:
            if content[section][key] == default:
                del content[section][key]
        content = {name: values for name, values in content.items() if values or name not in ("closed_form", "privacy")}
        # Heads went down whole where a plan did not say, and devices do the same work either way.
        if self.downlink == DownlinkSection(parameters=resolve(DownlinkSection.codec, {}, where="downlink")):
            content["downlink"] = {"codec": "float32", "parameters": {}}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return f"plan-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


_SERVER_KEYS = ("server", "server_momentum", "server_second", "server_tau")
_ROBUST_KEYS = ("rule", "clip", "mix", "malicious", "weight_cap")
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("run", "start_from", RunSection.start_from),
    *(("run", text, getattr(RunSection, text)) for text in ("beside", "priority", "share")),
    ("run", "deliver", RunSection.deliver),
    *(("run", key, getattr(RunSection, key)) for key in KEYS),
    ("round", "sample", RoundSection.sample),
    *(("round", text, getattr(RoundSection, text)) for text in ("enough", "late", "buffer")),
    ("aggregate", "staleness", AggregateSection.staleness),
    ("budget", "total_j", BudgetSection.total_j),
    ("train", "method", TrainSection.method),
    ("train", "rate_decay", TrainSection.rate_decay),
    ("train", "correction", TrainSection.correction),
    *(("evaluate", text, getattr(EvaluateSection, text)) for text in ("patience", "until", "until_j")),
    *(("aggregate", text, getattr(AggregateSection, text)) for text in (*_SERVER_KEYS, *_ROBUST_KEYS)),
    *(("closed_form", each_field.name, each_field.default) for each_field in dataclasses.fields(ClosedFormSection)),
    *(("privacy", each_field.name, each_field.default) for each_field in dataclasses.fields(PrivacySection)),
)
# Sections in which a codec's own parameters may stand beside `codec`, which reads better than a sub-table.
_CODECS_OF = {"update": UpdateSection.codec, "downlink": DownlinkSection.codec}


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
        if name not in SECTIONS:
            raise PlanError(f"no section is called [{name}]", where=where, fix=hint(name, SECTIONS))
    plan = RunPlan(**{name: _section(name, document.get(name, {}), where) for name in SECTIONS})
    if plan.round.buffer is not None and "late" not in document["round"]:
        plan = dataclasses.replace(plan, round=dataclasses.replace(plan.round, late=_LATE_OF_BUFFER))
    if plan.train.method == "closed_form" and "rounds" not in document["run"]:
        plan = dataclasses.replace(plan, run=dataclasses.replace(plan.run, rounds=_ROUNDS_OF_CLOSED_FORM))
    if plan.trains_whitened:
        decay = _WHITENED_DECAY if plan.correction == "scaffold" else _UNCORRECTED_DECAY
        suited: dict[str, Any] = {"rate": _WHITENED_RATE, "rate_decay": decay}
        unsaid = {key: value for key, value in suited.items() if key not in document["train"]}
        plan = dataclasses.replace(plan, train=dataclasses.replace(plan.train, **unsaid))
    if plan.aggregate.server in ("adam", "yogi") and "server_rate" not in document["aggregate"]:
        plan = dataclasses.replace(plan, aggregate=dataclasses.replace(plan.aggregate, server_rate=_ADAPTIVE_RATE))
    if plan.aggregate.resists and plan.aggregate.weight_cap is None:
        plan = dataclasses.replace(plan, aggregate=dataclasses.replace(plan.aggregate, weight_cap=_WEIGHT_CAP))
    refuse_contradictions(plan, where)
    return plan


def _section(name: str, given: Any, where: str) -> Any:
    if not isinstance(given, dict):
        raise PlanError(f"[{name}] is a section, not a value", where=where)
    values: dict[str, Any] = {}
    parameters: dict[str, float] = {}
    if name in _CODECS_OF and "codec" in given:
        # First of all: which other keys there are depends on it.
        codec = checked(given["codec"], RULES[name]["codec"], f"{where}: {name}.codec")
        resolve(codec, {}, where=f"{where}: {name}")
    for key, value in given.items():
        place = f"{where}: {name}.{key}"
        if key not in RULES[name]:
            if key in _codec_keys(name, given):
                parameters.update(numbers({key: value}, f"{where}: {name}"))
                continue
            known = [*RULES[name], *_codec_keys(name, given)]
            raise PlanError(f"[{name}] has no key {key!r}", where=where, fix=hint(key, known))
        values[key] = checked(value, RULES[name][key], place)
    if name == "run" and "bundle" not in values:
        raise PlanError("run.bundle is missing", where=where, fix='add [run] bundle = "PATH" made by firmware-tools')
    if name in _CODECS_OF:
        for key in parameters.keys() & values.get("parameters", {}).keys():
            raise PlanError(
                f"{name}.{key} and {name}.parameters.{key} contradict each other", where=where, fix="keep one of them"
            )
        # Written out in full, so that an order says all of it, whatever defaults the device's version has.
        named = {**parameters, **values.get("parameters", {})}
        values["parameters"] = resolve(values.get("codec", _CODECS_OF[name]), named, where=f"{where}: {name}")
    return SECTIONS[name](**values)


def _codec_keys(section: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    codec = given.get("codec", _CODECS_OF.get(section))
    return tuple(CODECS[codec].parameters) if isinstance(codec, str) and codec in CODECS else ()
