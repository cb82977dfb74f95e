"""What no single key of a plan can show: keys that contradict each other, and names that nobody has, each with its
reason and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protos.catalog import hint
from protos.errors import PlanError
from protos.plan.schedule import times_of
from protos.plan.sections import (
    CHOICES,
    CORRECTIONS,
    DELIVERIES,
    HEADS,
    METHODS,
    NORMALISATIONS,
    PARTICIPATIONS,
    POLICIES,
    PRIORS,
    ROBUST,
    SERVERS,
    WEIGHTS,
    ClosedFormSection,
    PrivacySection,
)
from protos.plugins import find, installed
from protos.update.codecs import BUILT_IN, CODECS, DEFAULT_CODEC
from protos.update.downlink import NOT_EXACT

if TYPE_CHECKING:
    from protos.plan.plan import RunPlan

_MASKED_QUORUM, _MASKED_DEVICES = 0.66, 3


def _or_install(name: str, ours: tuple[str, ...], kind: str) -> str:
    """What to do about a name that neither we nor an installed package have."""
    return f"{hint(name, [*ours, *(plugin.name for plugin in installed(kind))])}; or install the package that has it"


def refuse_contradictions(plan: RunPlan, where: str) -> None:
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


def clash_with_late(plan: RunPlan) -> tuple[str, str] | None:
    """Why reports of earlier rounds cannot count with the rest of a plan, and what to do; None where they can."""
    round_, train, aggregate = plan.round, plan.train, plan.aggregate
    if not round_.late:
        if round_.buffer is not None:
            return "round.buffer counts reports of earlier rounds, and round.late = 0 takes none", "set round.late"
        if aggregate.staleness != type(aggregate).staleness:
            return "aggregate.staleness weighs late reports, and round.late = 0 takes none", "set round.late"
        return None
    for is_so, what, fix in (
        (train.method != "sgd", f"method = {train.method!r} sums statistics, which are of one round", "leave it out"),
        (
            plan.correction == "scaffold",
            "the control variates of 'scaffold' are those of the round that a report was made in",
            'set train.correction = "none"',
        ),
        (
            plan.planner.participation != "known",
            f"planner.participation = {plan.planner.participation!r} counts the rounds between the reports of a "
            "device, and rounds do not wait for it where reports may be late",
            'take planner.participation = "known": weights by the probability of each order',
        ),
        (plan.privacy.noise is not None, "noise is worked out for the reports of one round", "leave privacy.noise out"),
        (bool(plan.privacy.masked), "masks are of one round", "leave privacy.masked out"),
        (
            round_.buffer is not None and round_.enough < 1.0,
            "round.buffer says how many reports close a round, and round.enough says it again",
            "keep one of them",
        ),
    ):
        if is_so:
            return what, fix
    return None
