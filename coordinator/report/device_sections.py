"""The sections of a report that tell of its devices: what they spent and sent, who took part, what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coordinator.operator.status import RunEvent
from coordinator.operator.tables import joules, percent
from coordinator.report.charts import Bar, Line, bars, lines, strips
from coordinator.report.joules import JouleSum
from coordinator.report.markup import Markup, element
from coordinator.report.record import OUTCOMES, DeviceRow, RunRecord
from coordinator.report.tables import table
from coordinator.report.words import bytes_, counted, day, seconds, sum_of
from coordinator.run.reports.reasons import REASONS
from protos.energy.trace import Phase

PHASES = (Phase.RECEIVE, Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)
LISTED = 60
_EVENTS = 200


def energy(record: RunRecord) -> Sequence[Markup | None]:
    """Joules by device and phase."""
    if not record.devices:
        return [element("h3", "Energy"), element("p", "No device was asked to do anything.")]
    listed = [device for device in _by_spent(record) if device.spent.known][:LISTED]
    chart = bars(
        [
            Bar(
                device.device_id,
                [part.known_j if (part := device.phases.get(phase)) else 0.0 for phase in PHASES],
                device.spent.uncertainty_j,
                f"{sum_of(device.spent)} J",
            )
            for device in listed
        ],
        [str(phase) for phase in PHASES],
        title="Joules by device and phase, with the 95 % interval of their sum",
        x_label="joules",
    )
    rows = []
    for device in record.devices:
        parts = [device.phases.get(phase) for phase in PHASES]
        idle = device.phases.get(Phase.IDLE)
        covered, bare = device.spent.covered_s, device.spent.uncovered_s
        rows.append(
            [
                device.device_id,
                sum_of(device.spent),
                *("-" if part is None else sum_of(part) for part in parts),
                "-" if idle is None else sum_of(idle),
                "-" if (watts := device.spent.mean_w) is None else f"{watts:.3g}",
                percent(covered / (covered + bare)) if covered + bare > 0 else "-",
                methods_of(device.spent),
                counted(dict(device.spent.flags)),
            ]
        )
    return [
        element("h3", "Energy by device and phase"),
        side_by_side([chart]),
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


def methods_of(total: JouleSum) -> str:
    """How the joules of a sum are known, in words."""
    said = [name for name in ("measured", "estimated") if total.methods[name]]
    return " and ".join([*said, *(["unknown"] if total.unknown else [])]) or "-"


def side_by_side(made: Sequence[Markup | None]) -> Markup | None:
    """The charts that there is something to draw in, side by side; None without any."""
    there = [chart for chart in made if chart is not None]
    return element("div", *there, class_="charts") if there else None


def _by_spent(record: RunRecord) -> list[DeviceRow]:
    return sorted(record.devices, key=lambda device: (-device.spent.known_j, device.device_id))


def budgets(record: RunRecord) -> Sequence[Markup | None]:
    """What was granted, against what was spent."""
    limited = [row for row in record.rounds if row.budget_j is not None]
    chart = None
    if limited:
        numbers: list[float | None] = [float(row.round) for row in limited]
        chart = lines(
            [
                Line("granted", numbers, [row.budget_j for row in limited]),
                Line(
                    "spent",
                    numbers,
                    [row.spent.at_least_j for row in limited],
                    [_end(row.spent, -1) for row in limited],
                    [_end(row.spent, 1) for row in limited],
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
            str(account.orders),
            joules(account.granted_j),
            joules(account.spent_j),
            joules(account.uncertain_j),
            percent(account.spent_j / account.granted_j) if account.granted_j > 0 else "-",
            str(account.unlimited) if account.unlimited else "-",
        ]
        for name, account in sorted(record.budgets.items())
    ]
    said = None
    if not limited:
        said = element("p", "The plan set no limit of joules on any order.")
    return [
        element("h3", "Budget against spent"),
        said,
        side_by_side([chart]),
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


def traffic(record: RunRecord) -> Sequence[Markup | None]:
    """Bytes up and down, by round."""
    rounds = [row for row in record.rounds if row.devices]
    if not rounds:
        return []
    numbers: list[float | None] = [float(row.round) for row in rounds]
    chart = lines(
        [
            Line("up", numbers, [row.bytes_up / 1000 for row in rounds]),
            Line("down", numbers, [row.bytes_down / 1000 for row in rounds]),
        ],
        title="Bytes by round, all devices",
        x_label="round",
        y_label="kB",
        from_zero=True,
    )
    up, down = sum(row.bytes_up for row in rounds), sum(row.bytes_down for row in rounds)
    accepted = sum(row.outcomes["accepted"] for row in rounds)
    each = f", {bytes_(round(up / accepted))} for each accepted report" if accepted else ""
    said = f"{up} bytes came up in reports{each}; {down} bytes went down in orders."
    return [element("h3", "Bytes up and down"), element("p", said), side_by_side([chart])]


def weights(record: RunRecord) -> Sequence[Markup | None]:
    """How much say each device had, against an unbiased one."""
    shares = record.example_shares()
    counted_ = [device for device in record.devices if device.say_of_weight() is not None]
    if not counted_:
        return []
    biased = [row for row in record.rounds if row.bias is not None]
    numbers: list[float | None] = [float(row.round) for row in biased]
    chart = lines(
        [
            Line("from the plan's weights", numbers, [row.bias.from_plan if row.bias else None for row in biased]),
            Line("from examples alone", numbers, [row.bias.from_examples if row.bias else None for row in biased]),
        ],
        title="How far the weights of a round are, in expectation, from unbiased ones (total variation, 0 to 1)",
        x_label="round",
        y_label="total variation",
        from_zero=True,
    )
    rows = []
    for device in counted_:
        used, fair = device.say_of_weight() or 0.0, shares.get(device.device_id)
        rows.append(
            [
                device.device_id,
                str(device.closed),
                f"{used:.4f}",
                "-" if fair is None else f"{fair:.4f}",
                "-" if not fair else f"{used / fair:.3g}",
                str(device.examples),
            ]
        )
    return [
        element("h3", "Weights used, against unbiased ones"),
        side_by_side([chart]),
        table(
            ["device", "closed rounds", "mean weight used", "share of examples", "ratio", "examples"],
            rows,
            caption="Mean share of each device in the rounds that asked it, and its share of all examples, which a "
            "mean without bias would give it if all took part",
        ),
    ]


def participation(record: RunRecord) -> Sequence[Markup | None]:
    """What became of the orders of each device."""
    if not record.devices:
        return []
    listed = record.devices[:LISTED]
    chart = strips(
        [(device.device_id, [share for share, _ in record.strip(device)]) for device in listed],
        max(row.round for row in record.rounds),
        title="Participation: the fuller, the more orders of those rounds ended in an accepted report; red: none",
    )
    rows = [
        [
            device.device_id,
            str(device.outcomes.total()),
            *(str(device.outcomes[name]) for name in OUTCOMES),
            f"{device.steps_done}/{device.steps_planned}",
            counted(dict(device.cut)),
        ]
        for device in record.devices
    ]
    return [
        element("h3", "Who took part"),
        side_by_side([chart]),
        table(
            ["device", "asked", *OUTCOMES[:-1], "at work", "steps", "cut short"],
            rows,
            caption="What became of each device's orders",
        ),
    ]


def troubles(record: RunRecord) -> Sequence[Markup | None]:
    """What was late, refused or missing, and what devices say of themselves."""
    refused: Counter[str] = Counter()
    for device in record.devices:
        refused.update(device.refused)
    rows = [
        [code, str(count), REASONS[code].meaning if code in REASONS else "", ", ".join(_who(record, code))]
        for code, count in refused.most_common()
    ]
    last = [
        [device.device_id, counted(dict(device.refused)), device.last_refusal]
        for device in record.devices
        if device.refused.total()
    ]
    outcomes: Counter[str] = Counter()
    for row in record.rounds:
        outcomes.update(row.outcomes)
    missed = {name: outcomes[name] for name in ("late", "rejected", "missing")}
    none = "none late, rejected or missing"
    said = f"Of {outcomes.total()} orders: {counted(missed) if any(missed.values()) else none}."
    abandoned = [row.round for row in record.rounds if row.state == "abandoned"]
    told = [said] + ([f"Rounds abandoned: {', '.join(map(str, abandoned))}."] if abandoned else [])
    away = [
        [name, card.state, card.reason]
        for name, card in sorted(record.cards.items())
        if card.reason and any(device.device_id == name for device in record.devices)
    ]
    return [
        element("h3", "Faults and rejections"),
        *(element("p", device) for device in told),
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
    names = [device.device_id for device in record.devices if device.refused[code]]
    return names if len(names) <= 8 else [*names[:8], f"and {len(names) - 8} more"]


def _events(events: Sequence[RunEvent]) -> Markup | None:
    if not events:
        return None
    kinds = Counter(event.kind for event in events)
    shown = events[-_EVENTS:]
    left = len(events) - len(shown)
    caption = f"What happened: {counted(dict(kinds))}" + (f"; the last {_EVENTS} of {len(events)}" if left else "")
    rows = [
        ["-" if event.round is None else str(event.round), day(event.unix_s), event.kind, event.detail]
        for event in shown
    ]
    return table(["round", "when", "what", "in words"], rows, caption=caption, words=["in words"])


def temperatures(record: RunRecord) -> Sequence[Markup | None]:
    """What devices had to bear."""
    told = [device for device in record.devices if device.hottest_c is not None or device.heat_s or device.busy_s]
    hot = [row for row in record.rounds if row.hottest_c is not None]
    if not told and not hot:
        return [element("h3", "Temperatures"), element("p", "No device told a temperature.")]
    chart = lines(
        [Line("hottest device", [float(row.round) for row in hot], [row.hottest_c for row in hot])],
        title="Hottest temperature that a device told, by round",
        x_label="round",
        y_label="°C",
    )
    rows = [
        [
            device.device_id,
            "?" if device.hottest_c is None else f"{device.hottest_c:.1f}",
            seconds(device.heat_s),
            seconds(device.busy_s),
            str(device.throttled),
            str(device.under_voltage),
        ]
        for device in told
    ]
    return [
        element("h3", "Temperatures"),
        side_by_side([chart]),
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
