"""`coordinator status` and `coordinator devices`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

from coordinator.commands.parts import add_address, add_json, example, operator
from coordinator.operator import as_json
from coordinator.operator.client import Operator
from coordinator.operator.status import (
    DeviceStatus,
    FederatedEvaluation,
    PrivacySpent,
    RoundStatus,
    RunStatus,
    WeightBias,
)
from coordinator.operator.tables import UNKNOWN, ago, joules, percent, say, show, when
from protos.commands.json_document import document
from protos.energy.trace import Phase
from protos.orders import Strain

_SPENT = (Phase.RECEIVE, Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    status = commands.add_parser(
        "status",
        help="show runs, or one run round by round",
        description="Without RUN: every run. With RUN (an id, the beginning of one, or a name): its rounds.",
        **example("coordinator status digits --json"),
    )
    status.add_argument("which", nargs="?", default="", metavar="RUN")
    add_json(status)
    add_address(status)
    status.set_defaults(run=run_status)
    devices = commands.add_parser(
        "devices",
        help="show every device that ever joined, or forget one",
        **example("coordinator devices --json\n  coordinator devices forget pi-3"),
    )
    add_json(devices)
    add_address(devices)
    devices.set_defaults(run=run_devices)
    forget = devices.add_subparsers(metavar="").add_parser(
        "forget",
        help="take devices that are gone off the list",
        description="Takes devices that are gone off the list, with what their work was found to cost. What they did "
        "in runs stays. One that comes back joins as a new one.",
        **example("coordinator devices forget pi-3"),
    )
    forget.add_argument("names", nargs="+", metavar="DEVICE")
    add_address(forget)
    forget.set_defaults(run=run_forget)


def run_status(arguments: argparse.Namespace) -> int:
    """Show runs."""
    with operator(arguments) as connection:
        found = connection.status(arguments.which) if arguments.which else connection.runs()
        devices = connection.devices() if arguments.which and not arguments.json else []
        reports = {} if arguments.which else connection.report_counts()
        why = _why_left_out(connection, found[0]) if arguments.which and not arguments.json else {}
    if arguments.json:
        runs = document("runs", {"runs": [as_json.newest(run) for run in found], "reports": reports})
        print(as_json.dump(as_json.run(found[0]) if arguments.which else runs))
    elif arguments.which:
        show_run(found[0], why)
        show_troubles(devices, found[0])
    elif found:
        show(
            [
                "run",
                "name",
                "state",
                "round",
                "score" if any(map(_measured, found)) else "accuracy",
                "started",
                "reason",
            ],
            [
                [run.run_id, run.name, run.state, _progress(run), _accuracy(run), when(run.started_unix_s), run.reason]
                for run in found
            ],
        )
        refused = [f"{count} {code}" for code, count in reports.items() if code not in ("accepted", "duplicate")]
        if refused:
            say(f"reports not taken since the coordinator started: {', '.join(refused)}")
    else:
        print("no runs yet; start one with: coordinator start PLAN.toml")
    return 0


def _why_left_out(connection: Operator, run: RunStatus) -> dict[str, str]:
    """Why the planner could not ask a device in the newest round, by its name."""
    last = run.rounds[-1] if run.rounds else None
    if last is None or last.bias is None or not last.bias.left_out:
        return {}
    events = connection.details(run.run_id).events
    told = (event.detail.partition(": ") for event in events if event.kind == "left out" and event.round == last.round)
    return {device_id: why for device_id, _, why in told}


def show_run(run: RunStatus, why: Mapping[str, str] | None = None) -> None:
    """One run as two tables: rounds, and devices in the newest round.

    Args:
        why: reasons of devices that were left out of that round, by name.
    """
    reason = f" ({run.reason})" if run.reason else ""
    if run.state == "scheduled":
        say(f"{run.run_id} {run.name}: {_times(run)}{reason}")
        return
    measure = _measured(run) or "accuracy"
    show(
        [
            "round",
            "state",
            measure,
            "RMSE" if any(round_.rmse for round_ in run.rounds) else "loss",
            "devices",
            "spent J",
            "bytes up",
            "bytes down",
            "cut short",
        ],
        [_round_row(round_) for round_ in run.rounds],
        title=f"{run.run_id} {run.name}: {_times(run)}{reason}",
    )
    last = run.rounds[-1] if run.rounds else None
    if last is not None and last.devices:
        print()
        told = {record.phase for device in last.devices for record in device.energy}
        # Devices of an earlier release say nothing of what came in.
        phases = [phase for phase in _SPENT if phase is not Phase.RECEIVE or phase in told]
        show(
            ["device", "outcome", "steps", "weight", "budget J", *(f"{phase} J" for phase in phases), "strain"],
            [
                [
                    device.device_id,
                    device.outcome,
                    f"{device.steps_done}/{device.steps_planned}",
                    f"{device.weight:.3f}",
                    "-" if device.budget_j is None else joules(device.budget_j),
                    *(_phase_j(device.energy, phase) for phase in phases),
                    borne(device.strain),
                ]
                for device in last.devices
            ],
            title=f"devices in round {last.round}",
        )
        if last.bias is not None:
            say(say_of(last.bias, why or {}))
    if (looked := [round_ for round_ in run.rounds if round_.federated is not None]) and looked[
        -1
    ].federated is not None:
        show_classes(looked[-1].round, looked[-1].federated)
    if run.privacy is not None:
        say(say_of_privacy(run.privacy))


def say_of_privacy(spent: PrivacySpent) -> str:
    """What was spent, of what.

    >>> say_of_privacy(PrivacySpent(3.21, 1e-5, 8.0, 4))
    'privacy    epsilon 3.21 of 8 spent at delta 1e-05, in 4 rounds of the device that was asked most often'
    """
    return (
        f"privacy    epsilon {spent.epsilon:.3g} of {spent.limit:g} spent at delta {spent.delta:g}, in {spent.rounds} "
        "rounds of the device that was asked most often"
    )


def show_troubles(devices: Sequence[DeviceStatus], run: RunStatus | None = None) -> None:
    """A line for each device that left or cannot train, with the reason in its own words.

    Args:
        run: leave out devices that were not asked in its newest round.
    """
    asked = {device.device_id for device in run.rounds[-1].devices} if run is not None and run.rounds else None
    for device in devices:
        if device.reason and (asked is None or (device.device_id in asked and device.state != "present")):
            say(f"{device.device_id}: {device.reason}")


def show_accounts(devices: Sequence[DeviceStatus]) -> None:
    """A line for each device whose data were not all read as they lie there: what became of them."""
    for device in devices:
        if ";" in device.account:
            say(f"{device.device_id}: {device.account}")


def show_classes(number: int, found: FederatedEvaluation) -> None:
    """What devices say of a head: by class, and whether they work with it."""
    if found.examples:
        print()
        show(
            ["class", "examples", "right"],
            [
                [str(index), str(of), percent(right / of) if of else "-"]
                for index, (of, right) in enumerate(zip(found.class_examples, found.class_correct, strict=True))
            ],
            title=f"head after round {number}, on {found.examples} held-out examples of {found.devices} devices",
        )
    if found.adopted or found.kept:
        say(f"delivered: {found.adopted} devices work with it, {found.kept} kept what they had")


def _times(run: RunStatus) -> str:
    started = f"{run.state}, started {when(run.started_unix_s)}"
    return started if run.finished_unix_s is None else f"{started}, ended {when(run.finished_unix_s)}"


def say_of(bias: WeightBias, why: Mapping[str, str]) -> str:
    """How far the devices' say is from the plan's weights and from examples alone; who was left out, and why."""

    def ratio(value: float | None) -> str:
        return "somebody has no say" if value is None else f"at most a factor of {value:.3g}"

    told = (device_id + (f" ({why[device_id]})" if device_id in why else "") for device_id in bias.left_out)
    left_out = "".join(f"\n           left out: {words}" for words in told)
    return (
        f"weights    {bias.from_plan:.3f} from the plan's ({ratio(bias.from_plan_ratio)}),\n"
        f"           {bias.from_examples:.3f} from examples alone ({ratio(bias.from_examples_ratio)}){left_out}"
    )


def borne(strain: Strain | None) -> str:
    """Pauses and what made joules untypical, in a few words; `-` when there was nothing.

    >>> borne(Strain(heat_s=42.0, throttled=True)), borne(Strain())
    ('42 s too hot, throttled', '-')
    """
    if strain is None:
        return "-"
    told = [(strain.heat_s, f"{strain.heat_s:.0f} s too hot"), (strain.busy_s, f"{strain.busy_s:.0f} s busy"),
            (strain.throttled, "throttled"), (strain.under_voltage, "under-voltage")]  # fmt: skip
    return ", ".join(words for there, words in told if there) or "-"


def _round_row(this_round: RoundStatus) -> list[str]:
    accepted = [device for device in this_round.devices if device.outcome == "accepted"]
    cut = [device.device_id for device in accepted if device.stop_reason == "budget"]
    cut += [
        f"{device.device_id} ({device.stop_reason})" for device in accepted if device.stop_reason in ("heat", "busy")
    ]
    return [
        str(this_round.round),
        this_round.state,
        scored(this_round),
        errors(this_round) or loss_of(this_round),
        f"{len(accepted)}/{len(this_round.devices)}",
        spent_in(this_round),
        str(this_round.bytes_up),
        str(this_round.bytes_down),
        ", ".join(cut),
    ]


def accuracy_of(this_round: RoundStatus) -> str:
    """On the coordinator's held-out data; where it has none, on those of the devices, weighted by their counts."""
    found = this_round.federated
    if this_round.accuracy is None and found is not None and found.accuracy is not None:
        return f"{percent(found.accuracy)} ({found.devices} devices)"
    return percent(this_round.accuracy)


def loss_of(this_round: RoundStatus) -> str:
    """Likewise."""
    loss = this_round.loss
    if (
        loss is None
        and this_round.accuracy is None
        and this_round.federated is not None
        and this_round.federated.examples
    ):
        loss = this_round.federated.loss
    return "-" if loss is None else f"{loss:.4f}"


def spent_in(this_round: RoundStatus) -> str:
    """Joules of a round over its accepted devices. The joules of sending come with the next call of a device: until
    all have come, the figure is marked."""
    accepted = [device for device in this_round.devices if device.outcome == "accepted"]
    if not accepted:
        return "-"
    spent = [device.spent_j for device in accepted]
    known = [j for j in spent if j is not None]
    if len(known) < len(spent):
        return UNKNOWN
    sent = all(any(record.phase is Phase.SEND for record in device.energy) for device in accepted)
    return joules(sum(known)) + ("" if sent else " (+ sending)")


def _phase_j(energy: tuple, phase: Phase) -> str:  # type: ignore[type-arg]
    return joules(next((phase_energy.energy_j for phase_energy in energy if phase_energy.phase is phase), None))


def _progress(run: RunStatus) -> str:
    closed = [round_.round for round_ in run.rounds if round_.state == "closed"]
    return f"{max(closed, default=0)}/{run.rounds_planned}"


def _accuracy(run: RunStatus) -> str:
    last = next((round_ for round_ in reversed(run.rounds) if round_.state == "closed"), None)
    if last is None:
        return percent(None)
    return scored(last) if last.measure == "accuracy" else f"{last.measure} {scored(last)}"


def _measured(run: RunStatus) -> str:
    """What the heads of a run are ranked by, where that is not accuracy; else ""."""
    return next((round_.measure for round_ in run.rounds if round_.measure != "accuracy"), "")


def scored(this_round: RoundStatus) -> str:
    """What a head is ranked by: per cent of accuracy, R2 or AUC as a number."""
    if this_round.measure == "accuracy":
        return accuracy_of(this_round)
    return f"{this_round.score:.4f}"


def errors(this_round: RoundStatus) -> str:
    """RMSE of each quantity of a regression, or ""."""
    return ", ".join(f"{name} {value:.4g}" for name, value in this_round.rmse.items())


def run_devices(arguments: argparse.Namespace) -> int:
    """Show devices."""
    with operator(arguments) as connection:
        found = connection.devices()
    if arguments.json:
        print(as_json.dump(document("devices", {"devices": [as_json.device(device) for device in found]})))
    elif found:
        show(
            ["device", "state", "board", "engine", "meter", "examples", "spent J", "seen"],
            [_device_row(device) for device in found],
        )
        show_accounts(found)
        show_troubles(found)
    else:
        print("no devices yet; start one with: edge-runtime run")
    return 0


def run_forget(arguments: argparse.Namespace) -> int:
    """Forget devices."""
    with operator(arguments) as connection:
        for name in arguments.names:
            connection.forget_device(name)
            print(f"{name}: forgotten")
    return 0


def _device_row(device: DeviceStatus) -> list[str]:
    unknown = f" (+ {device.unknown_phases} unknown)" if device.unknown_phases and device.energy_j is not None else ""
    return [
        device.device_id,
        device.state,
        device.board or UNKNOWN,
        str(device.engine),
        " ".join(part for part in (device.meter.method, device.meter.sensor) if part),
        str(device.train_examples),
        joules(device.energy_j) + unknown,
        ago(device.last_seen_unix_s, time.time()),
    ]
