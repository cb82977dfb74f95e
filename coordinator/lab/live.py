"""What a person sees of a run while it goes on: a table that grows on a terminal, one line a round elsewhere.

Unknown joules are ``?``, never 0.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from coordinator.operator.status import DeviceRound, RoundStatus, RunStatus
from coordinator.operator.tables import joules, percent, width_of

# Columns for more devices than this would not fit a line; their joules are shown as one sum.
_COLUMNS = 6
_CUT = "cut short by budget"


def joules_of(this_round: RoundStatus, devices: Sequence[str], *, each: bool = True) -> list[str]:
    """A cell for each device when they are few and asked for, else one cell with the sum."""
    by_name = {device.device_id: device for device in this_round.devices}
    if each and len(devices) <= _COLUMNS:
        return [_spent(by_name.get(name)) for name in devices]
    spent = [device.spent_j for device in this_round.devices if device.outcome == "accepted"]
    known = [value for value in spent if value is not None]
    return [joules(sum(known)) if known and len(known) == len(spent) else "?" if spent else "-"]


def _spent(device: DeviceRound | None) -> str:
    if device is None or device.outcome == "ordered":
        return "..." if device else "-"
    return joules(device.spent_j) if device.outcome == "accepted" else device.outcome


def cut_short(this_round: RoundStatus) -> list[str]:
    """Devices whose budget ended their training, with the share of the steps that they made."""
    return [
        f"{_short(device.device_id)} {device.steps_done}/{device.steps_planned}"
        for device in this_round.devices
        if device.outcome == "accepted" and device.stop_reason == "budget"
    ]


def _short(name: str) -> str:
    return name.removeprefix("device-").join(("#", "")) if name.startswith("device-") else name


# What a line says, from most to least: joules of each device or their sum, bytes, whom a budget cut short or how many.
@dataclass(frozen=True)
class _Detail:
    each: bool = True
    sizes: bool = True
    names: bool = True


_DETAILS = (_Detail(), _Detail(sizes=False), _Detail(each=False, sizes=False), _Detail(False, False, False))


def _headings(devices: Sequence[str], detail: _Detail, measure: str = "accuracy") -> list[str]:
    each = detail.each and len(devices) <= _COLUMNS
    shown = [f"J {_short(name)}" for name in devices] if each else [f"J of {len(devices)}"]
    return [
        "round",
        measure,
        "loss",
        *shown,
        *(["bytes up"] if detail.sizes else []),
        _CUT if detail.names else "cut short",
    ]


def _cells(this_round: RoundStatus, devices: Sequence[str], detail: _Detail) -> list[str]:
    cut = cut_short(this_round)
    listed = ", ".join(cut[:2]) + (f" and {len(cut) - 2} more" if len(cut) > 2 else "")
    if not detail.names and cut:
        listed = f"{len(cut)} of {len(devices)}"
    spent = joules_of(this_round, devices, each=detail.each)
    if this_round.round == 0:
        spent, listed = ["-" for _ in spent], ""
    sizes = ([str(this_round.bytes_up) if this_round.round else "-"]) if detail.sizes else []
    score = percent(this_round.accuracy) if this_round.measure == "accuracy" else f"{this_round.score:.4f}"
    return [str(this_round.round), score, _loss(this_round), *spent, *sizes, listed or "-"]


def layout(rounds: Sequence[RoundStatus], devices: Sequence[str], columns: int | None) -> list[str]:
    """A table of rounds, header first, in no more than ``columns``: columns are dropped or summed, and none is cut."""
    made: list[str] = []
    measure = next((this_round.measure for this_round in rounds if this_round.score is not None), "accuracy")
    for detail in _DETAILS:
        rows = [_headings(devices, detail, measure), *(_cells(this_round, devices, detail) for this_round in rounds)]
        widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
        made = [
            "  ".join(
                [*(cell.rjust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)), row[-1]]
            ).rstrip()
            for row in rows
        ]
        if columns is None or max(map(width_of, made)) <= columns:
            break
    return made


def screen(status: RunStatus, title: str, devices: Sequence[str], columns: int, height: int | None) -> list[str]:
    """What a terminal shows of a run: with more rounds than lines, the newest, and how many came before."""
    closed = max((this_round.round for this_round in status.rounds if this_round.state == "closed"), default=0)
    caption = f"{status.state}: {closed} of {status.rounds_planned} rounds"
    caption += f" ({status.reason})" if status.reason else ""
    above = textwrap.wrap(title, columns, break_long_words=False)
    below = textwrap.wrap(caption, columns, break_long_words=False)
    header, *rows = layout(
        [this_round for this_round in status.rounds if this_round.state != "abandoned"], devices, columns
    )
    room = len(rows) if height is None else max(1, height - len(above) - len(below) - 2)
    if len(rows) > room:
        rows = [f"... {len(rows) - room + 1} rounds before", *rows[len(rows) - room + 1 :]]
    return [*above, header, *rows, *below]


def _loss(this_round: RoundStatus) -> str:
    return "-" if this_round.loss is None else f"{this_round.loss:.3f}"


class LiveTable:
    """Shows a run until its ``with`` block ends; give it each new status with :meth:`update`."""

    def __init__(self, devices: Sequence[str], title: str) -> None:
        self._devices, self._title = devices, title
        self._printed = -1
        self._live: Any = None
        self._status: RunStatus | None = None
        self._widths = [len(heading) for heading in _headings(devices, _DETAILS[0])]

    def __enter__(self) -> LiveTable:
        if sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            # What it shows goes when it ends, and the whole table takes its place.
            self._live = Live(console=Console(), refresh_per_second=4, transient=True, vertical_overflow="crop")
            self._live.start()
        else:
            print(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            if self._status is not None:
                columns = self._live.console.width
                print("\n".join(screen(self._status, self._title, self._devices, columns, None)), flush=True)

    def update(self, status: RunStatus) -> None:
        """Show the newest state of the run."""
        if self._live is not None:
            from rich.text import Text

            self._status = status
            size = self._live.console.size
            shown = screen(status, self._title, self._devices, size.width, size.height)
            self._live.update(Text("\n".join(shown), no_wrap=True, overflow="ignore"))
            return
        for this_round in status.rounds:
            if this_round.round > self._printed and this_round.state == "closed":
                self._print(this_round)

    def _print(self, this_round: RoundStatus) -> None:
        if self._printed < 0:
            self._widths = [max(width, 9) for width in self._widths]
            self._line(_headings(self._devices, _DETAILS[0], this_round.measure))
        self._line(_cells(this_round, self._devices, _DETAILS[0]))
        self._printed = this_round.round

    def _line(self, cells: Sequence[str]) -> None:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True)), flush=True)
