"""The heads that runs ended with, for the boards to work with: which of them is the newest, and what boards said of it.

A run that finished delivers its last head, or by ``run.deliver`` the best evaluated one, or none. Of several runs of
one bundle the newest counts. A board that holds a bundle gets that bundle's head, one that holds none the newest of
all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection, select

from coordinator.run.run import hides_examples
from coordinator.store import runs
from coordinator.store.database import Database
from coordinator.store.models import evaluations, heads
from coordinator.store.tables import rounds
from coordinator.store.tables import runs as run_rows
from protos.errors import EdgejouleError
from protos.orders import Holding, Publication, Reception
from protos.plan.plan import parse
from protos.update.tensors import EncodedTensor, as_float32
from protos.update.trees import Tree


@dataclass(frozen=True)
class Published:
    """One run's head, without its content."""

    run_id: str
    name: str
    bundle_id: str
    round: int
    version: str
    accuracy: float | None
    loss: float | None
    evaluate: bool = True

    @property
    def id(self) -> str:
        """As :attr:`protos.orders.Publication.id`."""
        return f"{self.run_id}/{self.version}"


@dataclass(frozen=True)
class Newest:
    """What there is to deliver, by bundle; ``any`` is the newest of all."""

    by_bundle: Mapping[str, Published] = field(default_factory=dict)
    any: Published | None = None

    def wanted(self, holding: Holding) -> Published | None:
        """What this device is to be sent: None when it takes none, has dealt with it, or there is nothing for it."""
        if holding.published is None:
            return None
        found = self.by_bundle.get(holding.bundle_id) if holding.bundle_id else self.any
        return None if found is None or found.id == holding.published else found


def newest(db: Database) -> Newest:
    """Look through the runs that finished, the newest first."""
    found: dict[str, Published] = {}
    first: Published | None = None
    with db.reading() as connection:
        query = select(run_rows).where(run_rows.c.state == "finished").order_by(run_rows.c.sequence.desc())
        for row in connection.execute(query).mappings():
            if row["bundle_id"] in found:
                continue
            one = _of(connection, row["run_id"], row["name"], row["bundle_id"], row["plan_toml"])
            if one is not None:
                found[one.bundle_id] = one
                first = first or one
    return Newest(found, first)


def _of(connection: Connection, run_id: str, name: str, bundle_id: str, plan_toml: str) -> Published | None:
    try:
        plan = parse(plan_toml)
        how = plan.run.deliver
    except EdgejouleError:
        # Of a version whose plans this one does not read.
        return None
    if how == "none":
        return None
    version = runs.best_head(connection, run_id) if how == "best" else runs.newest_head(connection, run_id)
    query = select(rounds).where(rounds.c.run_id == run_id, rounds.c.head_version == version)
    row = connection.execute(query.order_by(rounds.c.round.desc()).limit(1)).mappings().first()
    # A head that nobody trained is what every board has already.
    if version is None or row is None or row["round"] == 0:
        return None
    return Published(
        run_id, name, bundle_id, row["round"], version, row["accuracy"], row["loss"], not hides_examples(plan)
    )


class Signs(Protocol):
    """What signs heads, where somebody lets it."""

    def sign(self, published_head: Published, head: Tree) -> bytes:
        """What travels with a head; empty where nothing does. Raises IntegrityError, ConfigError, StoreError."""

    def forget(self, run_id: str) -> None:
        """The heads of a run have been replaced."""


class Hands(Protocol):
    """What holds heads from above, where this coordinator is a site."""

    def wanted(self, holding: Holding) -> tuple[bool, Publication | None]:
        """Whether heads of this device's bundle come from above, and what it is to be sent now."""


def message(db: Database, published_head: Published, holding: Holding, signs: Signs | None = None) -> Publication:
    """The publication for a device that holds this.

    Raises:
        UnknownRunError, DamagedError: the head is not there any more.
        IntegrityError, ConfigError, StoreError: it cannot be signed.
    """
    held = published_head.version == holding.head_version
    whole: tuple[EncodedTensor, ...] = ()
    signed = b""
    if not held or signs is not None:
        with db.reading() as connection:
            head = heads.get(connection, published_head.version)
        whole = () if held else as_float32(head)
        signed = signs.sign(published_head, head) if signs is not None else b""
    return Publication(
        run_id=published_head.run_id,
        name=published_head.name,
        bundle_id=published_head.bundle_id,
        round=published_head.round,
        head_version=published_head.version,
        head=whole,
        base=published_head.version if held else "",
        accuracy=published_head.accuracy,
        loss=published_head.loss,
        evaluate=published_head.evaluate,
        signed=signed,
    )


def received(db: Database, device_id: str, receptions: Sequence[Reception]) -> None:
    """Write down what a device did with publications; of runs that are not known any more, nothing."""
    with db.writing() as connection:
        for reception in receptions:
            run_id, _, version = reception.publication.rpartition("/")
            query = select(rounds.c.round).where(rounds.c.run_id == run_id, rounds.c.head_version == version)
            number = connection.execute(query.order_by(rounds.c.round.desc()).limit(1)).scalar()
            if number is not None:
                said = evaluations.Said(device_id, reception.evaluation, reception.adopted)
                evaluations.put(connection, run_id, number, [said])
