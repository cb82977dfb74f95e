"""The arithmetic imports nothing that talks: what an import chain brings in is seen by a clean interpreter alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

ARITHMETIC = [
    "protos.update.trees",
    "protos.update.packing",
    "protos.update.tensors",
    "protos.update.codecs",
    "protos.update.downlink",
    "protos.energy.trace",
    "protos.energy.attribution",
    "protos.energy.uncertainty",
    "protos.energy.windows",
    "protos.plan.plan",
    "protos.plan.plan_rules",
    "protos.plan.sections",
    "protos.plan.contradictions",
    "protos.catalog",
    "protos.orders",
    "protos.errors",
    "coordinator.run.rounds.round_machine",
    "coordinator.aggregate.mean",
    "coordinator.budgets.weights",
    "coordinator.budgets.round_plan",
]
TALKERS = [
    "grpc",
    "google.protobuf",
    "serial",
    "tensorflow",
    "ai_edge_litert",
    "tflite_runtime",
    "sqlalchemy",
    "rich",
    "protos.v1",
    "protos.model",
]
PROBE = """
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
print(*sorted(set({talkers!r}) & set(sys.modules)), sep="\\n")
"""


def brought_in(names: list[str]) -> list[str]:
    script = PROBE.format(names=names, talkers=TALKERS)
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_arithmetic_brings_in_nothing_that_talks() -> None:
    assert brought_in(ARITHMETIC) == []


@pytest.mark.parametrize("name", ["protos.convert.reports", "coordinator.store.tables"])
def test_the_probe_sees_what_a_talking_room_brings_in(name: str) -> None:
    assert brought_in([name])


def test_the_translator_needs_no_grpc() -> None:
    assert brought_in(["protos.convert.reports", "protos.convert.orders", "protos.convert.cards"]) == [
        "google.protobuf",
        "protos.v1",
    ]
