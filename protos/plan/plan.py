"""RunPlan: one TOML file, as frozen values.

Every key has a default, here, and a type and limits, in :mod:`protos.plan.plan_rules`; an unknown key is answered with
the nearest good one. What a single key cannot show (two keys that contradict each other) is refused in
:func:`_refuse_contradictions`, with the reason. Paths stay as written: who reads the plan knows what they are
relative to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.catalog import hint
from protos.errors import PlanError
from protos.plan.late_reports import clash_with_late
from protos.plan.plan_rules import RULES, checked, numbers
from protos.plan.schedule import KEYS, Times, times_of
from protos.plugins import find, installed
from protos.update.codecs import BUILT_IN, CODECS, DEFAULT_CODEC, resolve
from protos.update.downlink import NOT_EXACT

WEIGHTS = ("by_examples", "by_budget")
NORMALISATIONS = ("fednova", "none")
POLICIES = ("none", "joules", "on_demand")
PARTICIPATIONS = ("known", "fedau")
SERVERS = ("mean", "momentum", "adam", "yogi")
ROBUST = ("mean", "multi_krum", "geometric_median", "centred_clipping", "median", "trimmed_mean")
# With a rule against false reports no weight is more than so many times the median: it is half claimed by its device.
_WEIGHT_CAP = 3.0
_MASKED_QUORUM, _MASKED_DEVICES = 0.66, 3
# A coordinate of a standardised head moves by about this much in a round of an adaptive one.
_ADAPTIVE_RATE = 0.03
# Of an asynchronous run, where nothing is said: who is slower than ten others in a row is rather gone than at work.
_LATE_OF_BUFFER = 10
# What is done about devices whose own data pull them apart. FedProx is `proximal_mu`.
CORRECTIONS = ("none", "scaffold")
DELIVERIES = ("last", "best", "none")
METHODS = ("sgd", "closed_form", "closed_form+sgd")
HEADS = ("lda", "ridge")
PRIORS = ("data", "uniform")
CHOICES = ("held_out", "devices")
# Whitened features vary alike in every direction, and bear larger steps; measured in docs/one-pass.md.
_WHITENED_RATE, _WHITENED_DECAY = 0.2, 0.9
# Where nothing keeps unlike shards from pulling steps apart, larger steps of later rounds undo what earlier ones did.
_UNCORRECTED_DECAY = 0.7
# One round of statistics says all there is, however many rounds follow.
_ROUNDS_OF_CLOSED_FORM = 1


@dataclass(frozen=True)
class RunSection:
    """[run] What is trained, and for how long.

    Attributes:
        start_from: a run, whose newest head is meant, a head, or a file HEAD.npz; None: the bundle's.
        beside: it begins at once, whatever else is on, and shares the devices; else it waits for its turn.
        priority: a run of a higher one goes first, in the queue and at the devices.
        share: of runs of one priority, how much of the devices' orders it gets beside the others.
        deliver: the head that boards get to work with when the run has finished: its "last", the "best" evaluated one,
            or "none".
        schedule: it starts by itself, each time anew: "daily 02:00", "mon,thu 02:00 Europe/Berlin"; None: at once.
        every: the same, so far apart: "6h".
    """

    bundle: str
    name: str = "run"
    rounds: int = 10
    seed: int = 0
    start_from: str | None = None
    beside: bool = False
    priority: int = 0
    share: float = 1.0
    deliver: str = "last"
    schedule: str | None = None
    every: str | None = None


@dataclass(frozen=True)
class RoundSection:
    """[round] When a round opens and closes.

    Attributes:
        devices: devices that must be present before round 1 opens.
        quorum: share of the ordered devices whose reports make a round, 0 to 1.
        deadline_s: a round closes then with a quorum, and is abandoned without.
        sample: how many of the devices that are present are asked, drawn alike; None: all.
        enough: share of those whose reports close the round at once, the quorum to 1; who is slower comes late.
        late: a report that comes up to so many rounds late counts in the round that is open then; 0: it does not.
        buffer: a round closes with so many reports, of whichever round, and leaves whoever is at work at work (FedBuff,
            Nguyen et al., AISTATS 2022); None: rounds close with those whom they asked.
    """

    devices: int = 1
    quorum: float = 0.5
    deadline_s: float = 600.0
    sample: int | None = None
    enough: float = 1.0
    late: int = 0
    buffer: int | None = None


@dataclass(frozen=True)
class TrainSection:
    """[train] What a device does with its data. Just one of epochs and steps counts.

    Attributes:
        method: "sgd"; "closed_form", no step at all: devices send statistics, and the coordinator solves;
            "closed_form+sgd", steps from there.
        epochs: passes over the device's own training examples.
        steps: optimiser steps, the same on each device.
        rate_decay: factor on ``rate`` from each round of steps to the next.
        correction: of each gradient: "none", or "scaffold", by control variates (:mod:`protos.update.controls`); None:
            see :attr:`RunPlan.correction`.
        inputs: further inputs of the bundle's train signature, by name.
    """

    epochs: float | None = None
    steps: int | None = None
    rate: float = 0.05
    momentum: float = 0.0
    proximal_mu: float = 0.0
    inputs: Mapping[str, float] = field(default_factory=dict)
    method: str = "sgd"
    rate_decay: float = 1.0
    correction: str | None = None


@dataclass(frozen=True)
class ClosedFormSection:
    """[closed_form] How a head is solved for from statistics; see :mod:`coordinator.learning.closed_form`.

    Attributes:
        head: "lda", Gaussians with one covariance; "ridge", least squares.
        priors: of the classes: "data", as frequent as they are, or "uniform".
        shrinkage: of the covariance; None: it is chosen.
        choose: by what: "held_out", the accuracy on held-out data, where there are any; or "devices", leaving out
            some, from the same statistics.
        project: embeddings are projected to so many numbers before they are summed; 0: they are not.
        add_to: id of an earlier run of the same bundle, whose statistics count as well; only devices that it does not
            hold are asked.
    """

    head: str = "lda"
    priors: str = "data"
    shrinkage: float | None = None
    project: int = 0
    add_to: str | None = None
    choose: str = "held_out"


@dataclass(frozen=True)
class UpdateSection:
    """[update] How changes travel."""

    codec: str = DEFAULT_CODEC
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DownlinkSection:
    """[downlink] How heads travel: as coded differences, or whole ("float32")."""

    codec: str = "float32"
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AggregateSection:
    """[aggregate] How much say each device has.

    Attributes:
        weight: factors of a device's weight, multiplied.
        normalise: "fednova" removes the pull of devices that made more steps (Wang et al., NeurIPS 2020).
        server_rate: factor on the mean change, or on what ``server`` makes of it.
        server: what becomes of the mean of changes: "mean", itself; "momentum" (FedAvgM); "adam" (FedAdam); "yogi"
            (FedYogi). See :mod:`coordinator.aggregate.server_optimisers`.
        server_momentum, server_second, server_tau: beta, beta2 and tau of these.
        rule: how the changes of a round become one; see :mod:`coordinator.aggregate.robust`.
        clip: changes are cut to so many times the round's median size; 0: they are not.
        mix: 1: each change is first replaced by the mean of those nearest to it.
        malicious: share of the reports that may be false.
        weight_cap: no weight counts more than so many times the median; None: as it is.
        staleness: a report that is s rounds late weighs (1 + s)^-staleness times what it would have.
    """

    weight: tuple[str, ...] = WEIGHTS
    normalise: str = "fednova"
    server_rate: float = 1.0
    server: str = "mean"
    server_momentum: float = 0.9
    server_second: float = 0.99
    server_tau: float = 1e-3
    rule: str = "mean"
    clip: float = 0.0
    mix: int = 0
    malicious: float = 0.1
    weight_cap: float | None = None
    staleness: float = 0.5

    @property
    def gathers(self) -> bool:
        """Whether all changes of a round are held until it closes."""
        return self.resists or self.weight_cap is not None

    @property
    def resists(self) -> bool:
        """Whether anything is done against false changes."""
        return self.rule != "mean" or self.clip > 0 or self.mix > 0


@dataclass(frozen=True)
class BudgetSection:
    """[budget] Joules that devices may spend, idling left out; None is no limit. Several limits all hold.

    Attributes:
        per_round_j: on one round, for every device that has no line of its own.
        device: device id to joules a round.
        per_day_j: of one device, from midnight to midnight UTC.
        total_j: of one device, on this run and all others that the coordinator has in its books.
        battery_j: of a full battery; ``battery_share`` of it may go into the run.
        harvest: a table of watts over a day; ``harvest_share`` of them may be spent.
        scale: device id to a factor on ``per_day_j``, ``total_j``, ``battery_j`` and the harvest; 1 for others.
        fleet_j: of all devices together, on the whole run.
    """

    per_round_j: float | None = None
    device: Mapping[str, float] = field(default_factory=dict)
    per_day_j: float | None = None
    battery_j: float | None = None
    battery_share: float = 1.0
    harvest: str | None = None
    harvest_share: float = 1.0
    scale: Mapping[str, float] = field(default_factory=dict)
    fleet_j: float | None = None
    total_j: float | None = None

    def of(self, device_id: str) -> float | None:
        """Joules that one device may spend on one round, or None."""
        return self.device.get(device_id, self.per_round_j)

    @property
    def has_accounts(self) -> bool:
        """Whether there is a limit on more than one round."""
        limits = (self.per_day_j, self.total_j, self.battery_j, self.harvest, self.fleet_j)
        return any(one is not None for one in limits)


@dataclass(frozen=True)
class PlannerSection:
    """[planner] Who takes part in a round, with how many steps, in how many bits.

    Attributes:
        policy: "none" asks everyone for what [train] and [update] say; "joules" spends the budgets where they buy the
            most; "on_demand" takes the fewest bits whose error is at most ``error_bound``.
        p_min: no device is asked with a smaller probability, so that no weight is larger than 1 / p_min.
        error_bound: of one coding, E ||decoded - x||^2 / ||x||^2.
        participation: what stands for p in the weights: "known", or "fedau", estimated from who took part.
    """

    policy: str = "none"
    p_min: float = 0.05
    error_bound: float = 0.1
    participation: str = "known"


@dataclass(frozen=True)
class PrivacySection:
    """[privacy] How much one device can move the head, and noise that hides it; see
    :mod:`coordinator.aggregate.privacy`.

    Attributes:
        clip: length to which each device's change is cut, over all tensors; None: it is not.
        noise: standard deviation on the sum of changes, over ``clip``; None: none.
        epsilon: what may be spent on each device in this run; it is not asked again after that.
        delta: of (epsilon, delta).
        masked: 1: devices mask their changes, and the coordinator sees sums alone; see :mod:`protos.secure_sum`.
        bits: of a coordinate on the grid of masked changes.
    """

    clip: float | None = None
    noise: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    masked: int = 0
    bits: int = 16


@dataclass(frozen=True)
class EvaluateSection:
    """[evaluate] Held-out data on the coordinator: an .npz, idx pair or folder; its test part where it has one.

    Attributes:
        patience: rounds in a row whose accuracy may lie below the best by more than chance; the run ends after them.
            0: it never ends early.
        until: the run ends when the measure of its heads, accuracy, R2 or AUC, is at least this; None: it goes on.
        until_j: no further round opens when the run's devices have spent so many joules together; None: it goes on.
    """

    data: str | None = None
    patience: int = 3
    until: float | None = None
    until_j: float | None = None


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

    @property
    def plan_id(self) -> str:
        content = dataclasses.asdict(self)
        # A plan that says nothing of what is newer than it keeps its name: its reports are on their way.
        for section, key, default in _LATER:
            if content[section][key] == default:
                del content[section][key]
        content = {name: values for name, values in content.items() if values or name not in ("closed_form", "privacy")}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return f"plan-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


_SERVER_KEYS = ("server", "server_momentum", "server_second", "server_tau")
_ROBUST_KEYS = ("rule", "clip", "mix", "malicious", "weight_cap")
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("run", "start_from", RunSection.start_from),
    *(("run", one, getattr(RunSection, one)) for one in ("beside", "priority", "share")),
    ("run", "deliver", RunSection.deliver),
    *(("run", one, getattr(RunSection, one)) for one in KEYS),
    ("round", "sample", RoundSection.sample),
    *(("round", one, getattr(RoundSection, one)) for one in ("enough", "late", "buffer")),
    ("aggregate", "staleness", AggregateSection.staleness),
    ("budget", "total_j", BudgetSection.total_j),
    ("train", "method", TrainSection.method),
    ("train", "rate_decay", TrainSection.rate_decay),
    ("train", "correction", TrainSection.correction),
    *(("evaluate", one, getattr(EvaluateSection, one)) for one in ("patience", "until", "until_j")),
    *(("aggregate", one, getattr(AggregateSection, one)) for one in (*_SERVER_KEYS, *_ROBUST_KEYS)),
    *(("closed_form", one.name, one.default) for one in dataclasses.fields(ClosedFormSection)),
    *(("privacy", one.name, one.default) for one in dataclasses.fields(PrivacySection)),
)
# Sections in which a codec's own parameters may stand beside `codec`, which reads better than a sub-table.
_CODECS_OF = {"update": UpdateSection.codec, "downlink": DownlinkSection.codec}
_SECTIONS: dict[str, type] = {
    "run": RunSection,
    "round": RoundSection,
    "train": TrainSection,
    "update": UpdateSection,
    "downlink": DownlinkSection,
    "aggregate": AggregateSection,
    "budget": BudgetSection,
    "planner": PlannerSection,
    "evaluate": EvaluateSection,
    "closed_form": ClosedFormSection,
    "privacy": PrivacySection,
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
    _refuse_contradictions(plan, where)
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
    return _SECTIONS[name](**values)


def _codec_keys(section: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    codec = given.get("codec", _CODECS_OF.get(section))
    return tuple(CODECS[codec].parameters) if isinstance(codec, str) and codec in CODECS else ()


def _or_install(name: str, ours: tuple[str, ...], kind: str) -> str:
    """What to do about a name that neither we nor an installed package have."""
    return f"{hint(name, [*ours, *(one.name for one in installed(kind))])}; or install the package that has it"


def _refuse_contradictions(plan: RunPlan, where: str) -> None:
    train, aggregate = plan.train, plan.aggregate
    if plan.downlink.codec in NOT_EXACT:
        what = f"downlink.codec = {plan.downlink.codec!r}: what devices read depends on their processor"
        raise PlanError(what, where=where, fix="take entropy_coded_mmse or another")
    times_of(plan.run.schedule, plan.run.every, where)
    if plan.evaluate.until is not None and plan.evaluate.data is None:
        what = "evaluate.until is a goal that nobody measures"
        raise PlanError(what, where=where, fix="name held-out data as evaluate.data, or leave it out")
    if plan.round.enough < plan.round.quorum:
        what = f"round.enough = {plan.round.enough:g} is less than round.quorum = {plan.round.quorum:g}"
        raise PlanError(what, where=where, fix="enough reports are at least a quorum")
    if plan.round.sample is not None and plan.planner.policy != "none":
        fix = "leave round.sample out, or take planner.policy = 'none'"
        raise PlanError("a planner draws whom it asks, and round.sample would draw again", where=where, fix=fix)
    if train.epochs is not None and train.steps is not None:
        raise PlanError("train.epochs and train.steps contradict each other", where=where, fix="keep one of them")
    _check_correction(plan, where)
    if (clash := clash_with_late(plan)) is not None:
        raise PlanError(clash[0], where=f"{where}: round.late", fix=clash[1])
    for name in ("rate", "momentum", "proximal_mu"):
        if name in train.inputs:
            raise PlanError(f"{name} is in [train] and in train.inputs", where=where, fix="keep the one in [train]")
    if plan.downlink.codec not in BUILT_IN:
        what = f"downlink.codec = {plan.downlink.codec!r} is a plug-in's: what devices read must be the same to the bit"
        raise PlanError(what, where=where, fix="take one of ours, such as entropy_coded_mmse")
    for factor in aggregate.weight:
        if factor not in WEIGHTS and find("weights", factor) is None:
            fix = _or_install(factor, WEIGHTS, "weights")
            raise PlanError(f"no weight is called {factor!r}", where=where, fix=fix)
    if len(set(aggregate.weight)) != len(aggregate.weight):
        raise PlanError("aggregate.weight names a factor twice", where=where, fix="name each once")
    if aggregate.normalise not in NORMALISATIONS and find("rules", aggregate.normalise) is None:
        fix = _or_install(aggregate.normalise, NORMALISATIONS, "rules")
        raise PlanError(f"no normalisation is called {aggregate.normalise!r}", where=where, fix=fix)
    if aggregate.server not in SERVERS:
        fix = hint(aggregate.server, SERVERS)
        raise PlanError(f"no server optimiser is called {aggregate.server!r}", where=where, fix=fix)
    if aggregate.server != "mean" and plan.planner.policy != "none":
        fix = 'leave one of them out; "mean" goes with every policy'
        raise PlanError(f"a planner guesses changes from plain ones, not {aggregate.server}", where=where, fix=fix)
    _check_robust(plan, where)
    _check_privacy(plan, where)
    planner = plan.planner
    if planner.policy != "none" and aggregate.normalise not in NORMALISATIONS:
        what = f"the planner's weights make a mean unbiased, and {aggregate.normalise!r} is a plug-in's rule"
        raise PlanError(what, where=where, fix=f"take {' or '.join(NORMALISATIONS)}, or leave [planner] out")
    if plan.run.deliver not in DELIVERIES:
        what = f"no head is called {plan.run.deliver!r}"
        raise PlanError(what, where=f"{where}: run.deliver", fix=hint(plan.run.deliver, DELIVERIES))
    _check_closed_form(plan, where)
    for value, known, what in (
        (planner.policy, POLICIES, "policy"),
        (planner.participation, PARTICIPATIONS, "participation"),
    ):
        if value not in known:
            raise PlanError(f"no {what} is called {value!r}", where=f"{where}: planner.{what}", fix=hint(value, known))
    if planner.policy != "none" and "bits" not in CODECS[plan.update.codec].parameters:
        fix = "take entropy_coded or eden, or leave [planner] out"
        raise PlanError(f"codec {plan.update.codec!r} has no bits to plan", where=where, fix=fix)
    for table, limits in (("scale", plan.budget.scale), ("device", plan.budget.device)):
        for device, limit in limits.items():
            if limit <= 0:
                fix = "leave the device out of the fleet instead"
                raise PlanError(f"budget.{table}.{device} = {limit:g} allows no work", where=where, fix=fix)
    if plan.budget.device and plan.budget.per_round_j is None and "by_budget" in aggregate.weight:
        fix = "set budget.per_round_j for the others, or take by_budget out of aggregate.weight"
        raise PlanError(
            "by_budget cannot weigh devices that have no budget against those that have", where=where, fix=fix
        )


def _check_robust(plan: RunPlan, where: str) -> None:
    aggregate = plan.aggregate
    if aggregate.rule not in ROBUST:
        fix = hint(aggregate.rule, ROBUST)
        raise PlanError(f"no rule is called {aggregate.rule!r}", where=f"{where}: aggregate.rule", fix=fix)
    if not aggregate.gathers:
        return
    keys = ("rule", "clip", "mix", "weight_cap")
    said = next(f"aggregate.{key}" for key in keys if getattr(aggregate, key) not in ("mean", 0, None))
    if plan.planner.policy != "none" or plan.planner.participation != "known":
        what = f"a planner's weights make a mean unbiased, and {said} makes something else of it"
        raise PlanError(what, where=where, fix="leave [planner] or these keys out; budgets hold without a planner")
    if aggregate.normalise not in NORMALISATIONS:
        what = f"aggregate.normalise = {aggregate.normalise!r} is a plug-in's rule, which {said} would replace"
        raise PlanError(what, where=where, fix="keep one of them")
    if plan.train.correction == "scaffold":
        what = f"the control of 'scaffold' is a plain mean over devices, which {said} does not protect"
        raise PlanError(what, where=where, fix="keep one of them")
    if plan.train.method != "sgd":
        what = f"statistics are summed exactly, and {said} cannot look into a sum"
        raise PlanError(what, where=where, fix='leave it out, or set train.method = "sgd"')


def _check_privacy(plan: RunPlan, where: str) -> None:
    privacy, aggregate = plan.privacy, plan.aggregate
    place = f"{where}: privacy"
    if privacy == PrivacySection():
        return
    if privacy.masked and privacy.clip is None:
        fix = "set privacy.clip, such as the median size of changes in an earlier run"
        raise PlanError("masked changes lie on one grid, and nothing says how far it reaches", where=place, fix=fix)
    if privacy.clip is None:
        fix = "set privacy.clip, such as the median size of changes in an earlier run"
        raise PlanError("noise without a bound on each change hides nothing", where=place, fix=fix)
    if privacy.noise is not None and privacy.epsilon is None:
        raise PlanError("noise, and nothing says how much may be spent", where=place, fix="set privacy.epsilon")
    if privacy.noise is None and privacy.epsilon is not None:
        raise PlanError("privacy.epsilon is infinite without noise", where=place, fix="set privacy.noise, such as 1")
    for is_so, what, fix in (
        (bool(aggregate.weight), "weights differ, and the bound holds for equal ones", "set aggregate.weight = []"),
        (
            aggregate.normalise != "none",
            f"aggregate.normalise = {aggregate.normalise!r} scales changes after the bound",
            'set aggregate.normalise = "none"',
        ),
        (
            aggregate.gathers,
            "a robust rule lets one device move more than its own change",
            "leave aggregate.rule, clip, mix and weight_cap out",
        ),
        (
            plan.planner.policy != "none" or plan.planner.participation != "known",
            "a planner's weights enlarge changes beyond the bound",
            "leave [planner] out; budgets hold without it",
        ),
        (plan.train.method != "sgd", "statistics are summed exactly, without noise", 'set train.method = "sgd"'),
        (
            plan.train.correction == "scaffold",
            "the control of 'scaffold' is a second mean over devices, without a bound or noise",
            'set train.correction = "none"',
        ),
        (
            bool(privacy.masked) and plan.update.codec != DEFAULT_CODEC,
            f"codec {plan.update.codec!r} has scales of each device's own, and masked changes share one grid",
            "leave update.codec out, and set privacy.bits",
        ),
        (
            bool(privacy.masked) and plan.round.quorum < _MASKED_QUORUM,
            f"it takes two thirds of the devices to unmask a sum, and round.quorum = {plan.round.quorum:g} is less",
            "set round.quorum = 0.67 or more",
        ),
        (
            bool(privacy.masked) and min(plan.round.devices, plan.round.sample or plan.round.devices) < _MASKED_DEVICES,
            f"a sum over fewer than {_MASKED_DEVICES} devices tells what each has sent",
            f"set round.devices and round.sample to {_MASKED_DEVICES} or more",
        ),
    ):
        if is_so:
            raise PlanError(what, where=place, fix=fix)


def _check_correction(plan: RunPlan, where: str) -> None:
    """What SCAFFOLD does not go with: each line has the reason. What depends on the bundle, the coordinator checks."""
    train, place = plan.train, f"{where}: train.correction"
    if train.correction is not None and train.correction not in CORRECTIONS:
        fix = hint(train.correction, CORRECTIONS)
        raise PlanError(f"no correction is called {train.correction!r}", where=place, fix=fix)
    if "correction" in train.inputs:
        fix = 'say correction = "scaffold" in [train] instead'
        raise PlanError("train.inputs.correction is set by train.correction", where=where, fix=fix)
    if train.correction == "scaffold" and (clash := clash_with_scaffold(plan)):
        what, fix = clash
        raise PlanError(f"'scaffold' does not go with it: {what}", where=place, fix=fix)


def clash_with_scaffold(plan: RunPlan) -> tuple[str, str] | None:
    """Why control variates do not go with the rest of a plan, and what to do; None where they do. What depends on the
    bundle and the codec, the coordinator checks."""
    train, aggregate = plan.train, plan.aggregate
    if train.proximal_mu != 0:
        return "the pull of proximal_mu holds devices back from where the controls lead them", "keep one of them"
    if train.method == "closed_form":
        return "method = 'closed_form' makes no steps", 'set train.method = "closed_form+sgd" or "sgd"'
    if plan.planner.policy != "none":
        what = "a planner's weights change from round to round, and it guesses from changes by plain steps"
        return what, "leave [planner] out"
    if "by_budget" in aggregate.weight and plan.budget.has_accounts:
        what = (
            "the coordinator's control is the mean of the devices' by their weights, and weights by a day's or a "
            "battery's budget change over rounds"
        )
        return what, 'set aggregate.weight = ["by_examples"], or [] for all alike'
    if aggregate.normalise not in NORMALISATIONS:
        what = f"normalise = {aggregate.normalise!r} is a plug-in's rule, and controls are made for a mean"
        return what, f"take {' or '.join(NORMALISATIONS)}"
    return None


def _check_closed_form(plan: RunPlan, where: str) -> None:
    method, section = plan.train.method, plan.closed_form
    for value, known, place, what in (
        (method, METHODS, "train.method", "method"),
        (section.head, HEADS, "closed_form.head", "head"),
        (section.priors, PRIORS, "closed_form.priors", "prior"),
        (section.choose, CHOICES, "closed_form.choose", "choice"),
    ):
        if value not in known:
            raise PlanError(f"no {what} is called {value!r}", where=f"{where}: {place}", fix=hint(value, known))
    if method == "sgd" and section != ClosedFormSection():
        fix = 'set train.method = "closed_form" or "closed_form+sgd", or leave the section out'
        raise PlanError("[closed_form] has no effect with train.method = 'sgd'", where=where, fix=fix)
    if method == "closed_form" and (plan.train.epochs is not None or plan.train.steps is not None):
        fix = 'leave it out, or set train.method = "closed_form+sgd"'
        raise PlanError("train.epochs or train.steps, and a method without steps", where=where, fix=fix)
    if method == "closed_form" and plan.planner.policy != "none":
        fix = "leave [planner] out: budgets hold without it"
        raise PlanError("a planner has no steps to plan in a closed form", where=f"{where}: planner.policy", fix=fix)
