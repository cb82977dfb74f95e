"""One run of a report, section by section. Each says in words what is missing instead of drawing nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from coordinator.operator.tables import joules
from coordinator.report.charts import Line, lines
from coordinator.report.device_sections import (
    budgets,
    energy,
    methods_of,
    participation,
    side_by_side,
    temperatures,
    traffic,
    troubles,
    weights,
)
from coordinator.report.markup import Markup, element
from coordinator.report.record import RoundRow, RunRecord
from coordinator.report.tables import table
from coordinator.report.words import bytes_, day, of_score, seconds, sum_of

__all__ = ["facts", "run_section"]


def run_section(record: RunRecord, index: int, *, several: bool) -> Markup:
    """All that a report tells of one run."""
    run = record.run
    heading = f"{run.name} ({run.run_id})" if several else "The run"
    first = element("h2", heading, id=f"run-{index}", class_=None if several else "first")
    return element(
        "section",
        first,
        _standing(record),
        facts(record),
        *_learning(record),
        *energy(record),
        *budgets(record),
        *traffic(record),
        *weights(record),
        *participation(record),
        *troubles(record),
        *temperatures(record),
        *_rounds(record),
        *_repeating(record),
        aria_labelledby=f"run-{index}",
    )


def _standing(record: RunRecord) -> Markup:
    run = record.run
    if not run.is_over:
        doing = (
            run.reason if run.reason.startswith(run.state) else f"{run.state}{f', {run.reason}' if run.reason else ''}"
        )
        said = f"This run is not over: {doing}. Figures are as of now."
        return element("p", said, class_="bad")
    if run.state == "finished":
        return element("p", f"Finished {day(run.finished_unix_s)}{f': {run.reason}' if run.reason else ''}.")
    return element("p", f"This run {run.state} {day(run.finished_unix_s)}: {run.reason or 'no reason'}.", class_="bad")


def facts(record: RunRecord) -> Markup:
    """The few figures that people look for first."""
    run, rounds = record.run, record.rounds
    closed = [row for row in rounds if row.state == "closed"]
    scored = [row for row in closed if row.score is not None]
    best = max(scored, key=lambda row: row.score or 0.0, default=None)
    told = [
        ("State", run.state),
        ("Rounds closed", f"{sum(row.round > 0 for row in closed)} of {run.rounds_planned}"),
        ("Devices asked", str(len(record.devices))),
        (
            f"Best {record.measure}",
            "-" if best is None else f"{of_score(record.measure, best.score)}, round {best.round}",
        ),
        (f"Last {record.measure}", of_score(record.measure, scored[-1].score if scored else None)),
        ("Joules spent", sum_of(record.spent)),
        ("How they are known", methods_of(record.spent)),
        ("Sent up", bytes_(sum(row.bytes_up for row in rounds))),
        ("Sent down", bytes_(sum(row.bytes_down for row in rounds))),
        ("Lasted", seconds(None if run.finished_unix_s is None else run.finished_unix_s - run.started_unix_s)),
    ]
    if run.privacy is not None:
        spent = run.privacy
        told.append(("Epsilon", f"{spent.epsilon:.3g} of {spent.limit:g} at delta {spent.delta:g}"))
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in told), class_="facts"
    )


def _learning(record: RunRecord) -> Sequence[Markup | None]:
    measure, rounds = record.measure, record.rounds
    times, unit = (100.0, " (%)") if measure == "accuracy" else (1.0, "")
    scores = [None if row.score is None else times * row.score for row in rounds]
    numbers: list[float | None] = [float(row.round) for row in rounds]
    total = record.spent
    by_joule = None
    if total.known:
        ends = [row.uncertainty_so_far_j for row in rounds]
        spent = [row.known_so_far_j for row in rounds]
        by_joule = lines(
            [
                Line(
                    measure,
                    spent,
                    scores,
                    [None if end is None else max(0.0, at - end) for at, end in zip(spent, ends, strict=True)],
                    [None if end is None else at + end for at, end in zip(spent, ends, strict=True)],
                    bar_along_x=True,
                )
            ],
            title=f"{measure} by joule",
            x_label=f"joules of all devices so far{' (at least)' if total.unknown else ''}",
            y_label=f"{measure}{unit}",
        )
    charts = [
        lines(
            [Line(measure, numbers, scores)],
            title=f"{measure} by round",
            x_label="round",
            y_label=f"{measure}{unit}",
        ),
        by_joule,
        lines(
            [Line("loss", numbers, [row.loss for row in rounds])],
            title="loss by round",
            x_label="round",
            y_label="loss",
        ),
    ]
    said = []
    if all(score is None for score in scores):
        said.append("No head of this run was evaluated: its plan names no held-out data, and no device has any.")
    if not total.known and total.unknown:
        said.append("No joules are known: no device that took part had a meter. There is no curve by joule.")
    elif total.unknown:
        said.append(
            f"{total.unknown} of {total.known + total.unknown} records of phases have no joules: the axis of joules is "
            "a bound from below."
        )
    if total.known and total.unbounded:
        said.append(
            f"{total.unbounded} records do not say how wrong their joules may be: sums with them have no error bars."
        )
    return [element("h3", "What was learnt"), *(element("p", sentence) for sentence in said), side_by_side(charts)]


def _rounds(record: RunRecord) -> Sequence[Markup | None]:
    rows = [_round(record, row) for row in record.rounds]
    return [
        element("h3", "Rounds"),
        table(
            ["round", "state", record.measure, "loss", "spent J", "granted J", "bytes up", "bytes down", "accepted",
             "took", "head"],
            rows,
            caption="Rounds; round 0 is the head before any training",
        )
        if rows
        else element("p", "No round has opened."),
    ]  # fmt: skip


def _round(record: RunRecord, row: RoundRow) -> list[Markup | str]:
    return [
        str(row.round),
        row.state,
        of_score(record.measure, row.score),
        "-" if row.loss is None else f"{row.loss:.4f}",
        sum_of(row.spent),
        "-" if row.budget_j is None else joules(row.budget_j),
        str(row.bytes_up),
        str(row.bytes_down),
        f"{row.outcomes['accepted']}/{row.devices}" if row.devices else "-",
        seconds(None if row.closed_unix_s is None else row.closed_unix_s - row.opened_unix_s) if row.round else "-",
        row.head_version[:12],
    ]


def _repeating(record: RunRecord) -> Sequence[Markup | None]:
    run, details = record.run, record.details
    rows = [
        [
            device.device_id,
            card.board or "?",
            str(card.engine),
            " ".join(part for part in (card.meter.method, card.meter.sensor, card.meter.calibration_id) if part),
            card.software_version,
            str(card.train_examples),
        ]
        for device in record.devices
        if (card := record.cards.get(device.device_id)) is not None
    ]
    gone = [device.device_id for device in record.devices if device.device_id not in record.cards]
    made = [
        element("h3", "Plan and versions"),
        element(
            "dl",
            *(
                element("div", element("dt", name), element("dd", element("small", value)))
                for name, value in (
                    ("Plan", run.plan_id),
                    ("Bundle", run.bundle_id),
                    ("Coordinator", details.software_version if details is not None else "?"),
                    ("Started", day(run.started_unix_s)),
                )
            ),
            class_="facts",
        ),
        table(
            ["device", "board", "engine", "meter", "version", "examples"],
            rows,
            caption="Devices as they are known now",
            words=["meter"],
        )
        if rows
        else None,
        element("p", f"Not on the list any more: {', '.join(gone)}.", class_="soft") if gone else None,
        element("h3", "How to repeat it"),
    ]
    if details is None or not details.plan_toml:
        text = "This coordinator is too old to tell the plan. Take the one that the run was started with."
        return [*made, element("p", text)]
    directory = shlex.quote(details.plan_directory)
    again = f"cd {directory}\ncoordinator check-plan plan.toml\ncoordinator start plan.toml --wait"
    return [
        *made,
        element(
            "p",
            f"Put the plan below into {details.plan_directory}/plan.toml on the coordinator: its paths are relative to "
            f"that folder. It takes the bundle {run.bundle_id}, and as many devices with the same data. The seed in "
            "the plan draws all that is drawn; with the same engine the heads are the same, bit by bit. Joules are "
            "measured anew.",
        ),
        element("pre", again),
        element("details", element("summary", "The plan"), element("pre", details.plan_toml), open=True),
    ]
