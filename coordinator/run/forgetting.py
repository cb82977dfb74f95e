"""A device is forgotten: its statistics are subtracted and deleted, and the head is what it would be without it.

Statistics add up, so what is left when one device's are taken away is, bit for bit, what there would be had it never
come. Steps of gradient descent do not: those that followed the closed form learnt from the device, and go with it.
Every head that was made with it is taken out of the run, and deleted where nothing else needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from coordinator.run.evaluation import Evaluator, figures_of, judged_by
from coordinator.run.reports.statistics_fold import head_from
from coordinator.store import runs
from coordinator.store.database import Database
from coordinator.store.models import forgetting, statistics
from coordinator.store.models.statistics import Held
from protos.errors import UnknownRunError, UsageError
from protos.model.bundle import Bundle
from protos.plan.plan import RunPlan, parse
from protos.update.trees import Tree


@dataclass(frozen=True)
class Rest:
    """What a run stands on without a device."""

    run_id: str
    device_id: str
    plan: RunPlan
    bundle_id: str
    evaluation_key: str | None
    held: tuple[Held, ...]

    @property
    def examples(self) -> int:
        """Behind the statistics that are left."""
        return sum(held_sums.examples for held_sums in self.held)


@dataclass(frozen=True)
class Forgotten:
    """What came of it.

    Attributes:
        head_version: of the head without the device.
        devices, examples: that are left.
        accuracy: of that head on held-out data, or None.
        also_in: other runs whose heads were made with the device.
    """

    run_id: str
    head_version: str
    devices: int
    examples: int
    accuracy: float | None
    also_in: tuple[str, ...]


def rest_of(db: Database, name: str, device_id: str) -> Rest:
    """What is left of a run without a device. Changes nothing.

    Raises:
        UnknownRunError: no such run, or the device sent it no statistics.
        UsageError: the run is not over, or was trained by steps alone.
    """
    with db.reading() as connection:
        run_id = runs.resolve(connection, name)
        row = runs.row(connection, run_id)
        plan = parse(row["plan_toml"], where=row["name"])
        if plan.train.method == "sgd":
            fix = "train without the device from the beginning; a run by closed_form can forget one"
            raise UsageError("steps of gradient descent cannot be subtracted", where=run_id, fix=fix)
        if row["state"] in runs.OPEN_STATES:
            fix = f"wait for its end, or end it with: coordinator stop {run_id}"
            raise UsageError("the run is not over", where=run_id, fix=fix)
        if not statistics.ever_sent(connection, run_id, device_id):
            fix = f"see: coordinator status {run_id}"
            raise UnknownRunError(f"no device {device_id[:80]!r} sent statistics", where=run_id, fix=fix)
        held = tuple(
            held_sums
            for held_sums in statistics.held_by(connection, run_id)
            if held_sums.device_id != device_id and held_sums.examples
        )
    return Rest(run_id, device_id, plan, row["bundle_id"], row["evaluation_key"], held)


def head_without(
    rest: Rest, bundle: Bundle, evaluator: Evaluator | None
) -> tuple[Tree, str, float | None, float | None, str]:
    """The head of what is left, how it was made, and its accuracy and loss; the bundle's own when nobody is left.

    Raises:
        EmptyShardError: what is left has examples of one class alone.
    """
    if rest.held:
        solved = head_from(
            rest.held, replace(rest.plan, train=replace(rest.plan.train, method="closed_form")), bundle, evaluator
        )
        tree, said = solved.tree, solved.in_words()
    else:
        tree, said = bundle.initial_head(), "the bundle's own head, since nobody is left"
    if evaluator is None:
        return tree, said, None, None, ""
    found = evaluator.evaluate(tree)
    return tree, said, *figures_of(found), judged_by(bundle.manifest, found)


def forget(
    db: Database,
    rest: Rest,
    head: Tree,
    said: str,
    accuracy: float | None,
    loss: float | None,
    judged: str = "",
) -> Forgotten:
    """Delete the device's statistics and the heads made with them, and publish the head without it; all or nothing."""
    with db.writing() as connection:
        chain = set(statistics.chain_of(connection, rest.run_id))
        also = {*chain, *statistics.runs_that_add(connection, chain)} - {rest.run_id}
        with_it = [run_id for run_id in sorted(also) if statistics.ever_sent(connection, run_id, rest.device_id)]
        statistics.delete(connection, rest.run_id, rest.device_id)
        version = forgetting.replace_heads(connection, rest.run_id, head, accuracy, loss)
        if judged:
            last = runs.last_round(connection, rest.run_id)
            runs.note(connection, rest.run_id, None if last is None else last["round"], runs.JUDGED, judged)
        runs.note(connection, rest.run_id, None, "forgot", f"{rest.device_id}: {said}")
    return Forgotten(rest.run_id, version, len(rest.held), rest.examples, accuracy, tuple(with_it))
