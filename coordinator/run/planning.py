"""A plan against a bundle: what will be asked of a device, refused here when it cannot work.

A plan alone is checked by `protos.plan.plan`; what needs the bundle (does its train step take this input, in this
range?) is checked here, before a run is written down.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.aggregate import rules
from coordinator.aggregate.clean_cost import clean_cost
from coordinator.aggregate.privacy import epsilon_of, rounds_within
from coordinator.budgets import weights
from coordinator.budgets.codec_error import ERROR
from coordinator.budgets.plan_say import from_examples
from coordinator.budgets.solar import read_table
from coordinator.run.reports.aggregation import settings_of
from protos.catalog import hint
from protos.datafiles.dataset import Dataset, account_of, check, fitted, in_vocabulary, load
from protos.datafiles.front_end import declared
from protos.errors import PlanError, PluginError
from protos.model.bundle import Bundle, open_bundle
from protos.model.manifest import CORRECTION, Manifest
from protos.model.resemblance import held_against
from protos.model.task import ANOMALY, DIFFUSION, MEASURES, REGRESSION
from protos.plan.plan import RunPlan, parse
from protos.plugins import Plugin, find, installed, refused
from protos.update import codecs, controls, trees
from protos.update.trial import Trial, tried

# Inputs that [train] names itself; they stand at these values when the plan says nothing.
_OWN = ("rate", "momentum", "proximal_mu")
DEFAULT_EPOCHS = 2.0
MAX_STEPS = 1 << 31


@dataclass(frozen=True)
class Prepared:
    """A plan whose bundle and data are there and fit.

    Attributes:
        inputs: the train signature's inputs that orders carry.
        data: held-out examples in the model's input shape, or None when the plan names none.
        harvest: the table of the harvest, as its file is now, or None when the plan names none.
    """

    plan: RunPlan
    bundle: Bundle
    inputs: Mapping[str, float]
    data: Dataset | None
    harvest: bytes | None = None


def prepare(plan_toml: str, directory: Path, *, where: str = "plan") -> Prepared:
    """Parse a plan and open all that it names, relative to ``directory``.

    Raises:
        PlanError: the plan is malformed, contradicts itself, or asks for what the bundle does not have.
        PluginError: it names the codec, rule or weight of an installed package that cannot be used.
        ModelError, IntegrityError: the bundle.
        DataError, ShapeError, LabelError, NonFiniteError, EmptyShardError: the held-out data.
    """
    plan = parse(plan_toml, where=where)
    bundle = open_bundle(directory / Path(plan.run.bundle).expanduser())
    inputs = train_inputs(plan, bundle.manifest, where=where)
    _try_plugins(plan)
    _check_task(plan, bundle.manifest, where)
    _check_closed_form(plan, bundle.manifest, where)
    _check_correction(plan, bundle.manifest, where)
    harvest = _check_budgets(plan, directory, where)
    _check_privacy(plan, where)
    data = held_out(plan, bundle.manifest, directory)
    return Prepared(plan, bundle, inputs, data, harvest)


def plugins_of(plan: RunPlan) -> tuple[Plugin, ...]:
    """What a plan names that installed packages have, codec first."""
    named = [("codecs", codecs.BUILT_IN, plan.update.codec), ("rules", rules.BUILT_IN, plan.aggregate.normalise)]
    named += [("weights", weights.BUILT_IN, factor) for factor in plan.aggregate.weight]
    found = [find(kind, name) for kind, built_in, name in named if name not in built_in]
    return tuple(plugin for plugin in found if plugin is not None)


def refused_plugins() -> list[PluginError]:
    """For each installed plug-in that no plan can name, the reason."""
    known: tuple[tuple[str, Container[str]], ...] = (
        ("codecs", codecs.BUILT_IN),
        ("rules", rules.BUILT_IN),
        ("weights", weights.BUILT_IN),
    )
    return [error for kind, built_in in known for error in refused(installed(kind), built_in).values()]


def _try_plugins(plan: RunPlan) -> None:
    """Load what a plan names, before a run is written down. Raises PluginError."""
    codecs.build(plan.update.codec, plan.update.parameters)
    _ = rules.RULES[plan.aggregate.normalise]
    for factor in plan.aggregate.weight:
        _ = weights.FACTORS[factor]


def _check_task(plan: RunPlan, manifest: Manifest, where: str) -> None:
    """What heads that are no classifiers can be trained by."""
    method, place = plan.train.method, f"{where}: train.method"
    if manifest.task == REGRESSION and method == "closed_form+sgd":
        raise PlanError(
            "the bundle's head gives quantities, whose closed form has the least squared error already: steps from "
            "there gain nothing",
            where=place, fix='set method = "closed_form", or train by sgd',
        )  # fmt: skip
    if manifest.task == DIFFUSION:
        if method != "sgd":
            raise PlanError(
                f"the bundle's head denoises, and {method!r} is for classes", where=place, fix="train by sgd"
            )
        if plan.run.deliver != "none":
            raise PlanError(
                "boards have no use for a head that denoises", where=f"{where}: run.deliver",
                fix='set deliver = "none", and sample it on the workstation',
            )  # fmt: skip
        return
    if manifest.task != ANOMALY or manifest.head.hidden_units is not None:
        return
    if method != "closed_form":
        raise PlanError(
            f"the bundle's head measures the distance from what is normal, which has a closed form and no steps, and "
            f"{method!r} has steps",
            where=place, fix='set method = "closed_form", or convert the model with --hidden UNITS',
        )  # fmt: skip
    if plan.closed_form.project:
        raise PlanError(
            "an anomaly head measures all numbers of an embedding", where=f"{where}: closed_form.project", fix="give 0"
        )


def _check_closed_form(plan: RunPlan, manifest: Manifest, where: str) -> None:
    if plan.train.method == "sgd":
        return
    if manifest.head.hidden_units is not None:
        raise PlanError(
            f"the bundle's head has a hidden layer of {manifest.head.hidden_units} units, and only a linear head has a "
            "closed form",
            where=f"{where}: train.method",
            fix="convert the model without --hidden, or train by sgd",
        )
    if manifest.head.tail is not None:
        raise PlanError(
            "the bundle trains layers in front of its head, and only a head on frozen features has a closed form",
            where=f"{where}: train.method",
            fix="train by sgd, or convert the model with --trainable head",
        )
    width = manifest.backbone.embedding_width
    if plan.closed_form.project >= width:
        raise PlanError(
            f"{plan.closed_form.project} numbers are no fewer than the {width} of an embedding",
            where=f"{where}: closed_form.project",
            fix="give fewer, or 0 for none",
        )


def correction_of(plan: RunPlan, manifest: Manifest) -> str:
    """What corrects the gradients of a run: what the plan says; else, for whitened steps, "scaffold" where the bundle
    and the codec go with it."""
    if plan.train.correction is not None or plan.correction == "none":
        return plan.correction
    fits = (
        CORRECTION in {tensor.name for tensor in manifest.head.inputs}
        and manifest.head.optimiser in controls.OPTIMISERS
    )
    owes = codecs.build(plan.update.codec, plan.update.parameters).init(manifest.head.shapes())
    return "scaffold" if fits and not owes else "none"


def _check_correction(plan: RunPlan, manifest: Manifest, where: str) -> None:
    """Whether the bundle and the codec go with control variates. Raises PlanError."""
    if plan.train.correction != "scaffold":
        return
    place = f"{where}: train.correction"
    if manifest.head.optimiser not in controls.OPTIMISERS:
        raise PlanError(
            f"'scaffold' takes what a device moved for the sum of its gradients, and the bundle's train step is "
            f"{manifest.head.optimiser}",
            where=place,
            fix="convert the model with --optimiser sgd",
        )
    codec = codecs.build(plan.update.codec, plan.update.parameters)
    if codec.init(manifest.head.shapes()):
        raise PlanError(
            f"'scaffold' would take what codec {plan.update.codec!r} still owes for a gradient",
            where=place,
            fix="take a codec without error feedback, such as uniform_stochastic or entropy_coded",
        )


def _check_budgets(plan: RunPlan, directory: Path, where: str) -> bytes | None:
    """The table of the plan's harvest, if it names one."""
    if plan.planner.policy != "none" and plan.update.codec not in ERROR:
        raise PlanError(
            f"the planner needs an unbiased codec with bits to choose, and {plan.update.codec!r} is none",
            where=f"{where}: update.codec",
            fix=f"take {', '.join(sorted(ERROR))}",
        )
    if plan.budget.harvest is None:
        return None
    return read_table(directory / Path(plan.budget.harvest).expanduser())


def held_out(plan: RunPlan, manifest: Manifest, directory: Path) -> Dataset | None:
    """The plan's evaluation data: its test part where it has one, else all; None when the plan names none."""
    if plan.evaluate.data is None:
        return None
    shape = manifest.backbone.input_shape
    source = directory / Path(plan.evaluate.data).expanduser()
    data = load(
        source,
        image_shape=shape if len(shape) == 3 else None,
        classes=manifest.classes,
        front_end=declared(manifest.provenance),
        quantities=manifest.quantities,
    )
    data = in_vocabulary(data.test() if data.is_test.any() else data, manifest.backbone.vocabulary)
    check(data, shape, len(manifest.classes), manifest.backbone.vocabulary)
    held_against(manifest, data.held, where=data.source)
    return fitted(data, shape)


def account_of_held_out(prepared: Prepared) -> tuple[str, ...]:
    """What became of the plan's evaluation data, and how they differ from what the bundle was calibrated on."""
    data = prepared.data
    if data is None:
        return ()
    unlike = held_against(prepared.bundle.manifest, data.held, where=data.source)
    return (f"{data.source}: {account_of(data)}", *([f"{data.source}: {unlike}"] if unlike else []))


def train_inputs(plan: RunPlan, manifest: Manifest, *, where: str = "plan") -> dict[str, float]:
    """What orders tell the train signature: the plan's values, each known to the bundle and in its range.

    Raises:
        PlanError: an input that the bundle does not have, or a value out of its range.
    """
    known = {tensor.name: tensor for tensor in manifest.head.inputs}
    asked = {name: float(getattr(plan.train, name)) for name in _OWN}
    # A bundle without momentum is asked for none; that is no contradiction.
    asked = {name: value for name, value in asked.items() if name in known or (value != 0 and name != "rate")}
    if plan.train.method == "closed_form" and not known:
        asked = {}  # no steps, no inputs
    asked |= {name: float(value) for name, value in plan.train.inputs.items()}
    if correction_of(plan, manifest) == "scaffold":
        asked[CORRECTION] = 1.0
        if CORRECTION not in known:
            raise PlanError(
                "the bundle's train step takes no corrections: it was converted before there were any",
                where=f"{where}: train.correction",
                fix="convert the model again with this release",
            )
    if plan.trains_whitened and "weight_decay" in known and "weight_decay" not in plan.train.inputs:
        # It would pull along directions that say little; the closed form is shrunk already.
        asked["weight_decay"] = 0.0
    for name, value in asked.items():
        place = f"{where}: train.{name}" if name in _OWN else f"{where}: train.inputs.{name}"
        if name not in known:
            fix = hint(name, known) if known else "leave it out"
            raise PlanError(f"the bundle's train step takes no {name!r}", where=place, fix=fix)
        one = known[name]
        if not one.minimum <= value <= one.maximum:
            raise PlanError(
                f"{value:g} is outside {one.minimum:g}..{one.maximum:g} ({one.meaning})", where=place,
                fix="choose a value in that range",
            )  # fmt: skip
    if asked.get("rate", 0.0) * asked.get("proximal_mu", 0.0) >= 1:
        raise PlanError(
            "train.rate x train.proximal_mu is 1 or more: each step would leap past the received head",
            where=where,
            fix="lower one of them",
        )
    return asked


def steps_for(plan: RunPlan, batch_size: int, examples: int) -> int:
    """Optimiser steps for a device with this many training examples, >= 1.

    An epoch is ceil(examples / batch_size) steps; half an epoch is half of them, rounded up.
    """
    if plan.train.steps is not None:
        return plan.train.steps
    epochs = DEFAULT_EPOCHS if plan.train.epochs is None else plan.train.epochs
    per_epoch = math.ceil(examples / batch_size)
    return min(MAX_STEPS, max(1, math.ceil(per_epoch * epochs - 1e-9)))


def budget_for(plan: RunPlan, device_id: str, own_budget_j: float | None) -> float | None:
    """The smaller of the plan's budget and the device's own, or None when neither is limited."""
    limits = [value for value in (plan.budget.of(device_id), own_budget_j) if value is not None]
    return min(limits, default=None)


def seed_for(plan: RunPlan, device_id: str, number: int) -> int:
    """A 63-bit seed that depends on the plan's seed, the device and the round alone, so that a run can be repeated."""
    digest = hashlib.sha256(f"{plan.run.seed}/order/{number}/{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _trial(plan: RunPlan, manifest: Manifest) -> Trial:
    """The plan's codec on random numbers in the shapes of the head."""
    # Here: an operator's check alone needs messages to weigh.
    from protos.convert.tensors import tensors_to

    codec = codecs.build(plan.update.codec, plan.update.parameters)
    return tried(
        codec, manifest.head.shapes(), lambda tensors: sum(tensor.ByteSize() for tensor in tensors_to(tensors))
    )


def _rule_cost(plan: RunPlan) -> dict[str, float] | None:
    """What the plan's robust rule does to the change of a round in which nobody is malicious; None for the mean."""
    settings = settings_of(plan.aggregate)
    if settings is None:
        return None
    found = clean_cost(settings, plan.round.sample or plan.round.devices)
    return {key: float(f"{value:.2g}") for key, value in found.items()}


def _privacy(plan: RunPlan) -> dict[str, float] | None:
    """What the run spends on a device that takes part in every round; None without noise."""
    section = plan.privacy
    if section.noise is None or section.epsilon is None:
        return None
    most = rounds_within(section.noise, section.epsilon, section.delta)
    rounds = min(most, plan.run.rounds)
    spent = epsilon_of(section.noise, rounds, section.delta)
    return {"rounds": rounds, "epsilon": float(f"{spent:.4g}"), "of_epsilon": section.epsilon, "delta": section.delta}


def _check_privacy(plan: RunPlan, where: str) -> None:
    """Refuse a plan whose first round spends more than all of its epsilon."""
    section = plan.privacy
    if section.noise is None or section.epsilon is None:
        return
    one = epsilon_of(section.noise, 1, section.delta)
    if one > section.epsilon:
        raise PlanError(
            f"one round with noise {section.noise:g} spends epsilon {one:.3g} of {section.epsilon:g}",
            where=f"{where}: privacy.noise",
            fix="more noise, or more epsilon",
        )


def _weighed_by_chance(plan: RunPlan) -> str | None:
    """How reports are weighed where devices are drawn, in words; None where everyone is asked."""
    if plan.planner.policy == "none":
        return None
    if not plan.round.late:
        return "each report by 1 / p of its order, over the weight of all whom its round could ask"
    return (
        "each report by 1 / p of the order that it answers, over the weight of all whom that round could ask, and by "
        f"(1 + s)^-{plan.aggregate.staleness:g} when it comes s rounds late; nothing is guessed of those not drawn"
    )


def _weight_from_examples(plan: RunPlan) -> dict[str, float | None] | None:
    """How far the plan's budgets carry weights from examples alone; None where they cannot."""
    found = from_examples(plan)
    return None if found is None else {key: round(value, 3) if value else value for key, value in asdict(found).items()}


def summary(prepared: Prepared) -> dict[str, object]:
    """What would run, for people and scripts."""
    plan, manifest = prepared.plan, prepared.bundle.manifest
    work = (
        f"{plan.train.steps} steps"
        if plan.train.steps is not None
        else f"{DEFAULT_EPOCHS if plan.train.epochs is None else plan.train.epochs:g} epochs"
    )
    return {
        "name": plan.run.name,
        "plan_id": plan.plan_id,
        "bundle": str(prepared.bundle.path),
        "bundle_id": prepared.bundle.bundle_id,
        "classes": len(manifest.classes),
        "task": manifest.task,
        "judged_by": MEASURES[manifest.task],
        "head_parameters": trees.coordinates(prepared.bundle.initial_head()),
        "rounds": plan.run.rounds,
        "devices": plan.round.devices,
        "quorum": plan.round.quorum,
        "deadline_s": plan.round.deadline_s,
        "sample": plan.round.sample,
        "enough": plan.round.enough,
        "late": plan.round.late,
        "buffer": plan.round.buffer,
        "staleness": plan.aggregate.staleness,
        "work_per_round": f"{work} in batches of {manifest.head.batch_size}",
        "inputs": dict(prepared.inputs),
        "codec": plan.update.codec,
        "codec_parameters": {
            key: plan.update.parameters.get(key, rule.default)
            for key, rule in codecs.CODECS[plan.update.codec].parameters.items()
        },
        "codec_trial": {key: float(f"{value:.3g}") for key, value in asdict(_trial(plan, manifest)).items()},
        "downlink": plan.downlink.codec,
        "downlink_parameters": dict(plan.downlink.parameters),
        "weight": list(plan.aggregate.weight),
        "weight_from_examples": _weight_from_examples(plan),
        "normalise": plan.aggregate.normalise,
        "rule": plan.aggregate.rule,
        "rule_cost": _rule_cost(plan),
        "plugins": [str(plugin) for plugin in plugins_of(plan)],
        "budget_per_round_j": plan.budget.per_round_j,
        "budget_of_device_j": dict(plan.budget.device),
        "budget_per_day_j": plan.budget.per_day_j,
        "budget_total_j": plan.budget.total_j,
        "budget_battery_j": None
        if plan.budget.battery_j is None
        else plan.budget.battery_j * plan.budget.battery_share,
        "budget_harvest": plan.budget.harvest,
        "budget_fleet_j": plan.budget.fleet_j,
        "planner": plan.planner.policy,
        "weighed_by_chance": _weighed_by_chance(plan),
        "method": plan.train.method,
        "privacy": _privacy(plan),
        "correction": correction_of(plan, manifest),
        "server": plan.aggregate.server,
        "evaluation_examples": len(prepared.data) if prepared.data is not None else None,
        "evaluation_account": "; ".join(account_of_held_out(prepared)) or None,
    }
