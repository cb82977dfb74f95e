"""What a person sees of a run while it goes on: a table that grows on a terminal, one line a round elsewhere.

Unknown joules are ``?``, never 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from coordinator.operator.status import DeviceRound, RoundStatus, RunStatus
from coordinator.operator.tables import joules, percent

# Columns for more devices than this would not fit a line; their joules are shown as one sum.
_COLUMNS = 6


def joules_of(one: RoundStatus, devices: Sequence[str]) -> list[str]:
    """A cell for each device when they are few, else one cell with the sum."""
    by_name = {device.device_id: device for device in one.devices}
    if len(devices) <= _COLUMNS:
        return [_spent(by_name.get(name)) for name in devices]
    spent = [device.spent_j for device in one.devices if device.outcome == "accepted"]
    known = [value for value in spent if value is not None]
    return [joules(sum(known)) if known and len(known) == len(spent) else "?" if spent else "-"]


def _spent(device: DeviceRound | None) -> str:
    if device is None or device.outcome == "ordered":
        return "..." if device else "-"
    return joules(device.spent_j) if device.outcome == "accepted" else device.outcome


def cut_short(one: RoundStatus) -> list[str]:
    """Devices whose budget ended their training, with the share of the steps that they made."""
    return [
        f"{_short(device.device_id)} {device.steps_done}/{device.steps_planned}"
        for device in one.devices
        if device.outcome == "accepted" and device.stop_reason == "budget"
    ]


def _short(name: str) -> str:
    return name.removeprefix("device-").join(("#", "")) if name.startswith("device-") else name


def _headings(devices: Sequence[str]) -> list[str]:
    shown = [f"J {_short(name)}" for name in devices] if len(devices) <= _COLUMNS else [f"J of {len(devices)}"]
    return ["round", "accuracy", "loss", *shown, "bytes up", "cut short by budget"]


def _cells(one: RoundStatus, devices: Sequence[str]) -> list[str]:
    cut = cut_short(one)
    listed = ", ".join(cut[:2]) + (f" and {len(cut) - 2} more" if len(cut) > 2 else "")
    if one.round == 0:
        return ["0", percent(one.accuracy), _loss(one), *("-" for _ in joules_of(one, devices)), "-", "-"]
    return [
        str(one.round),
        percent(one.accuracy),
        _loss(one),
        *joules_of(one, devices),
        str(one.bytes_up),
        listed or "-",
    ]


def _loss(one: RoundStatus) -> str:
    return "-" if one.loss is None else f"{one.loss:.3f}"


class LiveTable:
    """Shows a run until its ``with`` block ends; give it each new status with :meth:`update`."""

    def __init__(self, devices: Sequence[str], title: str) -> None:
        self._devices, self._title = devices, title
        self._printed = -1
        self._live: Any = None
        self._widths = [len(heading) for heading in _headings(devices)]

    def __enter__(self) -> LiveTable:
        if sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(), refresh_per_second=4, transient=False)
            self._live.start()
        else:
            print(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, status: RunStatus) -> None:
        """Show the newest state of the run."""
        if self._live is not None:
            self._live.update(self._table(status))
            return
        for one in status.rounds:
            if one.round > self._printed and one.state == "closed":
                self._print(one)

    def _print(self, one: RoundStatus) -> None:
        cells = _cells(one, self._devices)
        if self._printed < 0:
            self._widths = [max(width, 9) for width in self._widths]
            self._line(_headings(self._devices))
        self._line(cells)
        self._printed = one.round

    def _line(self, cells: Sequence[str]) -> None:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True)), flush=True)

    def _table(self, status: RunStatus) -> Any:
        from rich.table import Table

        closed = max((one.round for one in status.rounds if one.state == "closed"), default=0)
        caption = f"{status.state}: {closed} of {status.rounds_planned} rounds"
        caption += f" ({status.reason})" if status.reason else ""
        table = Table(title=self._title, title_justify="left", caption=caption, caption_justify="left", box=None)
        for index, heading in enumerate(_headings(self._devices)):
            table.add_column(heading, justify="left" if index == len(self._widths) - 1 else "right")
        for one in status.rounds:
            if one.state != "abandoned":
                table.add_row(*_cells(one, self._devices), style=None if one.state == "closed" else "dim")
        return table
