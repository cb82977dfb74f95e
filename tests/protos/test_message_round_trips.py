"""What one end says, the other hears: every value survives its message, and its bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from message_values import (
    cards,
    energies,
    engines,
    example_order,
    example_report,
    meters,
    orders,
    receipts,
    receptions,
    reports,
    upgrade_states,
)
from message_values import settled as settled_energies
from message_values import tensors as encoded_tensors

from protos.convert.cards import card_from, card_to, engine_from, engine_to, meter_from, meter_to
from protos.convert.energy import energy_from, energy_to, settled_from, settled_to, without_folder
from protos.convert.orders import order_from, order_to
from protos.convert.publications import receptions_from, receptions_to
from protos.convert.reports import parse_report, receipt_from, receipt_to, report_from, report_to, serialise_report
from protos.convert.tensors import tensors_from, tensors_to
from protos.convert.upgrades import upgrade_state_from, upgrade_state_to
from protos.energy.trace import Phase, PhaseEnergy
from protos.energy.uncertainty import UncertaintyTerm
from protos.orders import (
    ENVELOPE_BYTES,
    PROTOCOL,
    DeviceCard,
    DeviceReport,
    Engine,
    MeterCard,
    Order,
    Receipt,
    Reception,
    SettledEnergy,
    UpgradeState,
)
from protos.update.tensors import EncodedTensor
from protos.v1 import edgejoule_pb2 as pb


@given(encoded_tensors)
def test_tensors(tensors: tuple[EncodedTensor, ...]) -> None:
    assert tensors_from(tensors_to(tensors)) == tensors


@given(upgrade_states)
def test_states_of_upgrades(said: UpgradeState) -> None:
    sent = pb.NextOrderRequest(upgrade=upgrade_state_to(said)).SerializeToString()
    assert upgrade_state_from(pb.NextOrderRequest.FromString(sent).upgrade) == said


@given(energies)
def test_energies(energy: tuple[PhaseEnergy, ...]) -> None:
    assert energy_from(energy_to(energy)) == energy


@given(settled_energies)
def test_settled_energies(settled: tuple[SettledEnergy, ...]) -> None:
    sent = pb.LeaveRequest(settled=settled_to(settled)).SerializeToString()
    # The folder of a sensor's port stays at home.
    told = tuple(
        replace(
            settled_energy,
            energy=tuple(replace(record, sensor=without_folder(record.sensor)) for record in settled_energy.energy),
        )
        for settled_energy in settled
    )
    assert settled_from(pb.LeaveRequest.FromString(sent).settled) == told


@given(engines, meters)
def test_engines_and_meters(engine: Engine, meter: MeterCard) -> None:
    assert engine_from(engine_to(engine)) == engine
    assert meter_from(meter_to(meter)) == meter


@given(receptions)
def test_receptions(said: tuple[Reception, ...]) -> None:
    sent = pb.NextOrderRequest(receptions=receptions_to(said)).SerializeToString()
    assert receptions_from(pb.NextOrderRequest.FromString(sent).receptions) == said


@given(cards)
def test_cards(card: DeviceCard) -> None:
    message = pb.JoinRequest.FromString(card_to(card, PROTOCOL).SerializeToString())
    assert card_from(message) == card
    assert (message.protocol_major, message.protocol_minor) == PROTOCOL


@given(orders)
def test_orders(order: Order) -> None:
    assert order_from(pb.NextOrderResponse.FromString(order_to(order).SerializeToString())) == order


@given(reports)
def test_reports(report: DeviceReport) -> None:
    assert report_from(report_to(report)) == report
    assert parse_report(serialise_report(report)) == report


@given(receipts)
def test_receipts(receipt: Receipt) -> None:
    assert receipt_from(pb.ReportResponse.FromString(receipt_to(receipt).SerializeToString())) == receipt


def test_a_report_has_the_same_bytes_each_time() -> None:
    assert serialise_report(example_report()) == serialise_report(replace(example_report()))


@pytest.mark.parametrize("phase", list(Phase))
def test_unknown_energy_is_absent_and_comes_back_as_none_never_as_zero(phase: Phase) -> None:
    unknown = PhaseEnergy(phase, None, 0.0, 1.0, "unknown", "", None)
    (message,) = energy_to([unknown])
    assert not message.HasField("energy_j")
    assert not message.HasField("uncertainty_j")
    (back,) = energy_from([message])
    assert back.energy_j is None
    assert back.uncertainty_j is None


@pytest.mark.parametrize("phase", list(Phase))
def test_no_joules_at_all_are_a_figure_and_stay_one(phase: Phase) -> None:
    (message,) = energy_to([PhaseEnergy(phase, 0.0, 0.0, 0.0, "measured", "s", 0.0)])
    assert message.HasField("energy_j")
    (back,) = energy_from([pb.PhaseEnergy.FromString(message.SerializeToString())])
    assert (back.energy_j, back.uncertainty_j) == (0.0, 0.0)


def test_the_terms_behind_an_uncertainty_stay_on_the_device() -> None:
    term = UncertaintyTerm("offset", 0.1)
    (back,) = energy_from(energy_to([PhaseEnergy(Phase.TRAIN, 1.0, 1.0, 0.0, "measured", "s", 0.2, (), (term,))]))
    assert back.budget == ()
    assert back.uncertainty_j == 0.2


def test_an_absent_budget_is_no_limit_and_a_zero_budget_is_one() -> None:
    for budget_j in (None, 0.0):
        back = order_from(order_to(replace(example_order(), budget_j=budget_j)))
        assert back.budget_j == budget_j  # type: ignore[union-attr]


def test_all_but_the_tensors_fits_the_envelope() -> None:
    crowded = tuple(PhaseEnergy(phase, 1.0, 1.0, 1.0, "measured", "s" * 256, 1.0, ("f" * 64,) * 8) for phase in Phase)
    report = replace(example_report(), energy=crowded, update=(), device_id="d" * 256, run_id="r" * 256)
    assert len(serialise_report(report)) < ENVELOPE_BYTES
    inputs = {f"{number:02}" + "x" * 254: 1.0 for number in range(64)}
    order = replace(example_order(), inputs=inputs, head=(), run_id="r" * 256)
    assert len(order_to(order).SerializeToString()) < ENVELOPE_BYTES
