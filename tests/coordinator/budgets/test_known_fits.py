"""Fits are kept in memory by the text of their row: what was never committed is never found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel, Work
from coordinator.store import batches
from coordinator.store.database import Database, sqlite_url
from coordinator.store.ledger import costs, known_fits
from protos.energy.trace import Phase, PhaseEnergy

TRAINED = [PhaseEnergy(Phase.TRAIN, 4.0, 2.0, 0.0, "measured", "ina219", None)]
WORK = Work(embedded=0, steps=10, bytes_up=100, bytes_down=100)


def _stored(db: Database) -> str:
    with db.reading() as connection:
        (model,) = costs.models_of(connection, "bundle", ["a"]).values()
    return json.dumps(model.state())


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(sqlite_url(tmp_path / "store.db"))
    with made.writing() as connection:
        costs.keep(connection, "a", "bundle", CostModel(prices_of("pi4", macs=1000, coordinates=650, batch_size=8)))
    yield made
    made.close()


def test_what_a_transaction_learnt_that_was_undone_is_forgotten(db: Database) -> None:
    before = _stored(db)

    def learn_and_fail() -> None:
        with db.writing() as connection:
            (model,) = costs.models_of(connection, "bundle", ["a"], to_learn=True).values()
            model.observe(WORK, TRAINED)
            batches.learnt(connection, "run", 1, "bundle", {"a": model})
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        learn_and_fail()
    assert _stored(db) == before


def test_a_fit_goes_on_from_memory_as_it_would_from_its_row(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = CostModel.from_state(json.loads(_stored(db)))
    for _ in range(3):
        alone.observe(WORK, TRAINED)
        with db.writing() as connection:
            (model,) = costs.models_of(connection, "bundle", ["a"], to_learn=True).values()
            model.observe(WORK, TRAINED)
            batches.learnt(connection, "run", 1, "bundle", {"a": model})
    assert json.loads(_stored(db)) == alone.state()
    monkeypatch.setattr(CostModel, "from_state", staticmethod(lambda state: pytest.fail("read again")))
    _stored(db)


def test_only_so_many_are_kept(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_fits, "MOST", 2)
    first = CostModel(prices_of("pi4", macs=1000, coordinates=650, batch_size=8))
    with db.writing() as connection:
        for name in "bcd":
            costs.keep(connection, name, "bundle", first)
        assert len(costs.models_of(connection, "bundle", "abcd")) == 4
        again = costs.models_of(connection, "bundle", "abcd")
    assert all(model.state() == first.state() for model in again.values())
