"""One run of a report, section by section. Each says in words what is missing instead of drawing nothing."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from coordinator.operator.status import RunEvent
from coordinator.operator.tables import joules, percent
from coordinator.report.charts import Bar, Line, bars, lines, strips
from coordinator.report.joules import JouleSum
from coordinator.report.markup import Markup, element
from coordinator.report.record import OUTCOMES, DeviceRow, RoundRow, RunRecord
from coordinator.report.tables import table
from coordinator.report.words import bytes_, counted, day, of_score, seconds, sum_of
from coordinator.run.reports.reasons import REASONS
from protos.energy.trace import Phase

__all__ = ["LISTED", "PHASES", "facts", "run_section"]

PHASES = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)
LISTED = 60
_EVENTS = 200


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
        *_energy(record),
        *_budgets(record),
        *_traffic(record),
        *_weights(record),
        *_participation(record),
        *_troubles(record),
        *_temperatures(record),
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
    closed = [one for one in rounds if one.state == "closed"]
    scored = [one for one in closed if one.score is not None]
    best = max(scored, key=lambda one: one.score or 0.0, default=None)
    told = [
        ("State", run.state),
        ("Rounds closed", f"{sum(one.round > 0 for one in closed)} of {run.rounds_planned}"),
        ("Devices asked", str(len(record.devices))),
        (
            f"Best {record.measure}",
            "-" if best is None else f"{of_score(record.measure, best.score)}, round {best.round}",
        ),
        (f"Last {record.measure}", of_score(record.measure, scored[-1].score if scored else None)),
        ("Joules spent", sum_of(record.spent)),
        ("How they are known", _methods(record.spent)),
        ("Sent up", bytes_(sum(one.bytes_up for one in rounds))),
        ("Sent down", bytes_(sum(one.bytes_down for one in rounds))),
        ("Lasted", seconds(None if run.finished_unix_s is None else run.finished_unix_s - run.started_unix_s)),
    ]
    if run.privacy is not None:
        spent = run.privacy
        told.append(("Epsilon", f"{spent.epsilon:.3g} of {spent.limit:g} at delta {spent.delta:g}"))
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in told), class_="facts"
    )


def _methods(total: JouleSum) -> str:
    said = [name for name in ("measured", "estimated") if total.methods[name]]
    return " and ".join([*said, *(["unknown"] if total.unknown else [])]) or "-"


def _learning(record: RunRecord) -> Sequence[Markup | None]:
    measure, rounds = record.measure, record.rounds
    times, unit = (100.0, " (%)") if measure == "accuracy" else (1.0, "")
    scores = [None if one.score is None else times * one.score for one in rounds]
    numbers: list[float | None] = [float(one.round) for one in rounds]
    total = record.spent
    by_joule = None
    if total.known:
        ends = [one.uncertainty_so_far_j for one in rounds]
        spent = [one.known_so_far_j for one in rounds]
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
            [Line("loss", numbers, [one.loss for one in rounds])],
            title="loss by round",
            x_label="round",
            y_label="loss",
        ),
    ]
    said = []
    if all(one is None for one in scores):
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
    return [element("h3", "What was learnt"), *(element("p", one) for one in said), _charts(charts)]


def _charts(made: Sequence[Markup | None]) -> Markup | None:
    there = [one for one in made if one is not None]
    return element("div", *there, class_="charts") if there else None


def _by_spent(record: RunRecord) -> list[DeviceRow]:
    return sorted(record.devices, key=lambda one: (-one.spent.known_j, one.device_id))


def _energy(record: RunRecord) -> Sequence[Markup | None]:
    if not record.devices:
        return [element("h3", "Energy"), element("p", "No device was asked to do anything.")]
    listed = [one for one in _by_spent(record) if one.spent.known][:LISTED]
    chart = bars(
        [
            Bar(
                one.device_id,
                [part.known_j if (part := one.phases.get(phase)) else 0.0 for phase in PHASES],
                one.spent.uncertainty_j,
                f"{sum_of(one.spent)} J",
            )
            for one in listed
        ],
        [str(phase) for phase in PHASES],
        title="Joules by device and phase, with the 95 % interval of their sum",
        x_label="joules",
    )
    rows = []
    for one in record.devices:
        parts = [one.phases.get(phase) for phase in PHASES]
        idle = one.phases.get(Phase.IDLE)
        covered, bare = one.spent.covered_s, one.spent.uncovered_s
        rows.append(
            [
                one.device_id,
                sum_of(one.spent),
                *("-" if part is None else sum_of(part) for part in parts),
                "-" if idle is None else sum_of(idle),
                "-" if (watts := one.spent.mean_w) is None else f"{watts:.3g}",
                percent(covered / (covered + bare)) if covered + bare > 0 else "-",
                _methods(one.spent),
                counted(dict(one.spent.flags)),
            ]
        )
    return [
        element("h3", "Energy by device and phase"),
        _charts([chart]),
        table(
            [
                "device",
                "spent J",
                *(f"{phase} J" for phase in PHASES),
                "idle J",
                "mean W",
                "covered",
                "method",
                "flags",
            ],
            rows,
            caption="Joules by device and phase over all rounds; ± half the 95 % interval",
            words=["flags"],
        ),
    ]


def _budgets(record: RunRecord) -> Sequence[Markup | None]:
    limited = [one for one in record.rounds if one.budget_j is not None]
    chart = None
    if limited:
        numbers: list[float | None] = [float(one.round) for one in limited]
        chart = lines(
            [
                Line("granted", numbers, [one.budget_j for one in limited]),
                Line(
                    "spent",
                    numbers,
                    [one.spent.at_least_j for one in limited],
                    [_end(one.spent, -1) for one in limited],
                    [_end(one.spent, 1) for one in limited],
                ),
            ],
            title="Granted and spent by round, all devices",
            x_label="round",
            y_label="joules",
            from_zero=True,
        )
    rows = [
        [
            name,
            str(one.orders),
            joules(one.granted_j),
            joules(one.spent_j),
            joules(one.uncertain_j),
            percent(one.spent_j / one.granted_j) if one.granted_j > 0 else "-",
            str(one.unlimited) if one.unlimited else "-",
        ]
        for name, one in sorted(record.budgets.items())
    ]
    said = None
    if not limited:
        said = element("p", "The plan set no limit of joules on any order.")
    return [
        element("h3", "Budget against spent"),
        said,
        _charts([chart]),
        table(
            ["device", "orders", "granted J", "spent J", "uncertain J", "spent of granted", "without limit, unknown"],
            rows,
            caption="The ledger. Uncertain: granted to orders that were not answered in full",
        )
        if rows
        else None,
    ]


def _end(total: JouleSum, side: int) -> float | None:
    width = total.uncertainty_j
    return None if width is None else max(0.0, total.known_j + side * width)


def _traffic(record: RunRecord) -> Sequence[Markup | None]:
    rounds = [one for one in record.rounds if one.devices]
    if not rounds:
        return []
    numbers: list[float | None] = [float(one.round) for one in rounds]
    chart = lines(
        [
            Line("up", numbers, [one.bytes_up / 1000 for one in rounds]),
            Line("down", numbers, [one.bytes_down / 1000 for one in rounds]),
        ],
        title="Bytes by round, all devices",
        x_label="round",
        y_label="kB",
        from_zero=True,
    )
    up, down = sum(one.bytes_up for one in rounds), sum(one.bytes_down for one in rounds)
    accepted = sum(one.outcomes["accepted"] for one in rounds)
    each = f", {bytes_(round(up / accepted))} for each accepted report" if accepted else ""
    said = f"{up} bytes came up in reports{each}; {down} bytes went down in orders."
    return [element("h3", "Bytes up and down"), element("p", said), _charts([chart])]


def _weights(record: RunRecord) -> Sequence[Markup | None]:
    shares = record.example_shares()
    counted_ = [one for one in record.devices if one.say_of_weight() is not None]
    if not counted_:
        return []
    biased = [one for one in record.rounds if one.bias is not None]
    numbers: list[float | None] = [float(one.round) for one in biased]
    chart = lines(
        [
            Line("from the plan's weights", numbers, [one.bias.from_plan if one.bias else None for one in biased]),
            Line("from examples alone", numbers, [one.bias.from_examples if one.bias else None for one in biased]),
        ],
        title="How far the weights of a round are, in expectation, from unbiased ones (total variation, 0 to 1)",
        x_label="round",
        y_label="total variation",
        from_zero=True,
    )
    rows = []
    for one in counted_:
        used, fair = one.say_of_weight() or 0.0, shares.get(one.device_id)
        rows.append(
            [
                one.device_id,
                str(one.closed),
                f"{used:.4f}",
                "-" if fair is None else f"{fair:.4f}",
                "-" if not fair else f"{used / fair:.3g}",
                str(one.examples),
            ]
        )
    return [
        element("h3", "Weights used, against unbiased ones"),
        _charts([chart]),
        table(
            ["device", "closed rounds", "mean weight used", "share of examples", "ratio", "examples"],
            rows,
            caption="Mean share of each device in the rounds that asked it, and its share of all examples, which a "
            "mean without bias would give it if all took part",
        ),
    ]


def _participation(record: RunRecord) -> Sequence[Markup | None]:
    if not record.devices:
        return []
    listed = record.devices[:LISTED]
    chart = strips(
        [(one.device_id, [share for share, _ in record.strip(one)]) for one in listed],
        max(one.round for one in record.rounds),
        title="Participation: the fuller, the more orders of those rounds ended in an accepted report; red: none",
    )
    rows = [
        [
            one.device_id,
            str(one.outcomes.total()),
            *(str(one.outcomes[name]) for name in OUTCOMES),
            f"{one.steps_done}/{one.steps_planned}",
            counted(dict(one.cut)),
        ]
        for one in record.devices
    ]
    return [
        element("h3", "Who took part"),
        _charts([chart]),
        table(
            ["device", "asked", *OUTCOMES[:-1], "at work", "steps", "cut short"],
            rows,
            caption="What became of each device's orders",
        ),
    ]


def _troubles(record: RunRecord) -> Sequence[Markup | None]:
    refused: Counter[str] = Counter()
    for one in record.devices:
        refused.update(one.refused)
    rows = [
        [code, str(count), REASONS[code].meaning if code in REASONS else "", ", ".join(_who(record, code))]
        for code, count in refused.most_common()
    ]
    last = [
        [one.device_id, counted(dict(one.refused)), one.last_refusal] for one in record.devices if one.refused.total()
    ]
    outcomes: Counter[str] = Counter()
    for row in record.rounds:
        outcomes.update(row.outcomes)
    missed = {name: outcomes[name] for name in ("late", "rejected", "missing")}
    none = "none late, rejected or missing"
    said = f"Of {outcomes.total()} orders: {counted(missed) if any(missed.values()) else none}."
    abandoned = [one.round for one in record.rounds if one.state == "abandoned"]
    told = [said] + ([f"Rounds abandoned: {', '.join(map(str, abandoned))}."] if abandoned else [])
    away = [
        [name, card.state, card.reason]
        for name, card in sorted(record.cards.items())
        if card.reason and any(one.device_id == name for one in record.devices)
    ]
    return [
        element("h3", "Faults and rejections"),
        *(element("p", one) for one in told),
        table(
            ["reason", "reports", "meaning", "devices"],
            rows,
            caption="Reports that were refused, by reason",
            words=["meaning", "devices"],
        )
        if rows
        else element("p", "No report was refused."),
        table(
            ["device", "refused", "last one"], last, caption="By device, in the words of the last", words=["last one"]
        )
        if last
        else None,
        table(["device", "now", "says"], away, caption="Devices that say what is wrong with them", words=["says"])
        if away
        else None,
        _events(record.details.events) if record.details is not None else None,
    ]


def _who(record: RunRecord, code: str) -> list[str]:
    names = [one.device_id for one in record.devices if one.refused[code]]
    return names if len(names) <= 8 else [*names[:8], f"and {len(names) - 8} more"]


def _events(events: Sequence[RunEvent]) -> Markup | None:
    if not events:
        return None
    kinds = Counter(one.kind for one in events)
    shown = events[-_EVENTS:]
    left = len(events) - len(shown)
    caption = f"What happened: {counted(dict(kinds))}" + (f"; the last {_EVENTS} of {len(events)}" if left else "")
    rows = [["-" if one.round is None else str(one.round), day(one.unix_s), one.kind, one.detail] for one in shown]
    return table(["round", "when", "what", "in words"], rows, caption=caption, words=["in words"])


def _temperatures(record: RunRecord) -> Sequence[Markup | None]:
    told = [one for one in record.devices if one.hottest_c is not None or one.heat_s or one.busy_s]
    hot = [one for one in record.rounds if one.hottest_c is not None]
    if not told and not hot:
        return [element("h3", "Temperatures"), element("p", "No device told a temperature.")]
    chart = lines(
        [Line("hottest device", [float(one.round) for one in hot], [one.hottest_c for one in hot])],
        title="Hottest temperature that a device told, by round",
        x_label="round",
        y_label="°C",
    )
    rows = [
        [
            one.device_id,
            "?" if one.hottest_c is None else f"{one.hottest_c:.1f}",
            seconds(one.heat_s),
            seconds(one.busy_s),
            str(one.throttled),
            str(one.under_voltage),
        ]
        for one in told
    ]
    return [
        element("h3", "Temperatures"),
        _charts([chart]),
        table(
            [
                "device",
                "hottest °C",
                "paused for heat",
                "paused while busy",
                "rounds throttled",
                "rounds under-voltage",
            ],
            rows,
            caption="What devices had to bear",
        ),
    ]


def _rounds(record: RunRecord) -> Sequence[Markup | None]:
    rows = [_round(record, one) for one in record.rounds]
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


def _round(record: RunRecord, one: RoundRow) -> list[Markup | str]:
    return [
        str(one.round),
        one.state,
        of_score(record.measure, one.score),
        "-" if one.loss is None else f"{one.loss:.4f}",
        sum_of(one.spent),
        "-" if one.budget_j is None else joules(one.budget_j),
        str(one.bytes_up),
        str(one.bytes_down),
        f"{one.outcomes['accepted']}/{one.devices}" if one.devices else "-",
        seconds(None if one.closed_unix_s is None else one.closed_unix_s - one.opened_unix_s) if one.round else "-",
        one.head_version[:12],
    ]


def _repeating(record: RunRecord) -> Sequence[Markup | None]:
    run, details = record.run, record.details
    rows = [
        [
            one.device_id,
            card.board or "?",
            str(card.engine),
            " ".join(part for part in (card.meter.method, card.meter.sensor, card.meter.calibration_id) if part),
            card.software_version,
            str(card.train_examples),
        ]
        for one in record.devices
        if (card := record.cards.get(one.device_id)) is not None
    ]
    gone = [one.device_id for one in record.devices if one.device_id not in record.cards]
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
