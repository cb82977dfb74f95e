"""A run as it goes, in a terminal: what it learns, each device's joules, and who is late and why.

Keys change a run only after a question was answered with yes. Names come from devices and may be anything: they are
shown as plain text, without markup and without control characters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from coordinator.live.following import Following
from coordinator.operator.client import Operator
from coordinator.operator.tables import UNKNOWN, ago, joules, percent
from protos.errors import EdgejouleError

__all__ = ["WatchApp", "plain", "sparks"]

POLL_S = 1.0
SHARE = 20
LONGEST_S = 30.0
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDE = 100
_COLUMNS = ("device", "round", "spent J", "train W", "left J", "°C", "seen", "J by round", "why")


def plain(text: str) -> str:
    """A text that a terminal only shows: what is no printable character becomes a question mark.

    >>> plain("pi\\x1b[2J")
    'pi�[2J'
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def sparks(values: Sequence[float | None], width: int) -> str:
    """The last values as blocks of eight heights, from 0 or the lowest to the highest; a gap where one is not known.

    >>> sparks([0.0, 1.0, None, 2.0], 10), sparks([], 10)
    ('▁▄ █', '')
    """
    shown = list(values)[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return " " * len(shown)
    low, high = min(0.0, *known), max(known)
    span = (high - low) or 1.0
    return "".join(" " if value is None else _BLOCKS[int((value - low) / span * 7)] for value in shown)


class Question(ModalScreen[bool]):
    """Asks before something is done; y does it, and every other way out does not."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]
    CSS = """
    Question { align: center middle; }
    #question { width: 64; max-width: 95%; height: auto; border: thick $warning; padding: 1 2; background: $surface; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(f"{self._text}\n\ny  yes        n  no", id="question", markup=False)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Inspection(ModalScreen[None]):
    """All that is known of one device."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,i", "dismiss", "back")]
    CSS = """
    Inspection { align: center middle; }
    #inspection { width: 72; max-width: 95%; height: auto; max-height: 90%; border: thick $primary; padding: 1 2;
      background: $surface; }
    """

    def __init__(self, one: dict[str, Any]) -> None:
        super().__init__()
        self._one = one

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="inspection"):
            yield Static(plain_lines(inspected(self._one)), markup=False)


def plain_lines(lines: Sequence[str]) -> str:
    """Lines that a terminal only shows."""
    return "\n".join(plain(line) for line in lines)


def inspected(device: dict[str, Any]) -> list[str]:
    """One device, line by line."""
    lines = [
        device["device_id"],
        "",
        f"state      {device['state']}, seen {_seen(device)}",
        f"board      {device['board'] or UNKNOWN}",
        f"meter      {device['meter'] or UNKNOWN}",
        f"all time   {joules(device['total_j'])} J"
        + (f", {device['total_unknown']} unknown" if device["total_unknown"] else ""),
    ]
    if device["round"] is not None:
        lines.append(
            f"round      {device['round']}: {device['outcome']}, {device['steps_done']}/{device['steps_planned']} steps"
        )
    if device["granted_j"] is not None:
        lines.append(f"budget     {joules(device['left_j'])} J left of {joules(device['granted_j'])} J")
    if device["temperature_c"] is not None:
        lines.append(f"hottest    {device['temperature_c']:.1f} °C")
    if device["standing"]:
        lines.append(f"why        {device['standing']}")
    if device["phases"]:
        lines += ["", f"round {device['reported_round']}      joules           mean watts"]
        for phase, record in device["phases"].items():
            width = record["uncertainty_j"]
            told = joules(record["energy_j"]) + (f" ± {width:.2g}" if width is not None else "")
            lines.append(f"  {phase:<8} {told:<16} {joules(record['power_w'])}")
    return [*lines, "", f"joules by round  {sparks(device['sparks'], 40)}"]


def _seen(one: dict[str, Any]) -> str:
    seen = one["last_seen_unix_s"]
    return UNKNOWN if seen is None else ago(seen, time.time())


def _last_joules(closed: Sequence[dict[str, Any]]) -> str:
    known = [row["spent_j"] for row in closed if row["spent_j"] is not None]
    return f"{joules(known[-1])} J" if known else "-"


class WatchApp(App[None]):
    """The view.

    Args:
        connect: makes the connection to the coordinator; closed at the end.
        run: see :class:`coordinator.live.following.Following`.
    """

    TITLE = "edgejoule"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "pause/resume"),
        Binding("s", "stop", "stop"),
        Binding("i,enter", "inspect", "inspect", priority=False),
        Binding("t", "trouble", "trouble only"),
        Binding("q", "quit", "quit"),
    ]
    CSS = """
    #top { height: auto; padding: 0 1; }
    #run { height: auto; }
    #curves { height: auto; color: $primary; }
    #trouble { color: $error; height: auto; display: none; }
    #trouble.shown { display: block; }
    DataTable { height: 1fr; }
    #why { height: auto; max-height: 4; padding: 0 1; color: $text-muted; }
    """

    def __init__(self, connect: Callable[[], Operator], run: str = "") -> None:
        super().__init__()
        self._connection = connect()
        self._following = Following(self._connection, run)
        self.shown: dict[str, Any] = {"run": None, "rounds": {}, "devices": {}}
        self._only_trouble = False

    def compose(self) -> ComposeResult:
        with Vertical(id="top"):
            yield Static("connecting …", id="run", markup=False)
            yield Static("", id="curves", markup=False)
            yield Static("", id="trouble", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Static("", id="why", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for name in _COLUMNS:
            table.add_column(name, key=name)
        table.focus()
        self._poll()

    def on_unmount(self) -> None:
        self._connection.close()

    def on_resize(self) -> None:
        self._show_run()

    @work(thread=True, group="poll")
    def _poll(self) -> None:
        began_s = time.monotonic()
        try:
            found, trouble = self._following.poll(), ""
        except EdgejouleError as error:
            found, trouble = None, str(error)
        except ValueError:
            # The connection was closed: the view is ending.
            return
        wait_s = min(LONGEST_S, max(POLL_S, SHARE * (time.monotonic() - began_s)))
        if self.is_running:
            self.call_from_thread(self._take, found, trouble, wait_s)

    def _take(self, found: dict[str, Any] | None, trouble: str, wait_s: float) -> None:
        if found is not None:
            self.shown = found
            self._show_run()
            self._show_devices()
        line = self.query_one("#trouble", Static)
        line.set_class(bool(trouble), "shown")
        line.update(plain(f"figures are old: {trouble}") if trouble else "")
        self.set_timer(wait_s, self._poll)

    def _show_run(self) -> None:
        run, rounds = self.shown["run"], list(self.shown["rounds"].values())
        if run is None:
            self.query_one("#run", Static).update("no run yet; start one with: coordinator start PLAN.toml")
            return
        closed = [this_round for this_round in rounds if this_round["state"] == "closed"]
        scored = [row for row in closed if row["score"] is not None]
        spent = [this_round["spent_j"] for this_round in rounds if this_round["spent_j"] is not None]
        unknown = sum(this_round["unknown"] for this_round in rounds)
        told = f"{'≥ ' if unknown else ''}{joules(sum(spent))} J" if spent else f"{UNKNOWN} J" if unknown else "- J"
        score = "-"
        if scored:
            newest = scored[-1]
            value = percent(newest["score"]) if newest["measure"] == "accuracy" else f"{newest['score']:.4f}"
            score = f"{newest['measure']} {value}"
            score += "" if newest["loss"] is None else f"  loss {newest['loss']:.4f}"
        reason = run["reason"] if run["reason"].startswith(run["state"]) else f"{run['state']}: {run['reason']}"
        number = closed[-1]["round"] if closed else 0
        self.query_one("#run", Static).update(
            plain(f"{run['name']} ({run['run_id']})  round {number}/{run['rounds_planned']}  {score}  {told}")
            + "\n"
            + plain(reason.rstrip(": "))
        )
        width = max(10, self.size.width - 24)
        curves = [
            ("score", [this_round["score"] for this_round in rounds], score.split("  ")[0]),
            ("joules", [row["spent_j"] for row in closed if row["asked"]], _last_joules(closed)),
        ]
        self.query_one("#curves", Static).update(
            "\n".join(f"{name:<7}{sparks(values, width)} {last}" for name, values, last in curves)
        )

    def _show_devices(self) -> None:
        table = self.query_one(DataTable)
        rows = self.shown["devices"]
        if self._only_trouble:
            rows = {name: row for name, row in rows.items() if row["trouble"]}
        for key in [key for key in table.rows if key.value not in rows]:
            table.remove_row(key)
        there = {key.value for key in table.rows}
        for name, row in rows.items():
            cells = self._cells(row)
            if name in there:
                for column, cell in zip(_COLUMNS, cells, strict=True):
                    if table.get_cell(name, column) != cell:
                        table.update_cell(name, column, cell, update_width=True)
            else:
                table.add_row(*cells, key=name)
        self._show_why()
        if there != set(rows):
            self.call_after_refresh(self._draw_again)

    def _draw_again(self) -> None:
        """Rows that were drawn before their columns had their widths stay cut until a cell changes."""
        table = self.query_one(DataTable)
        if table.row_count:
            key = table.coordinate_to_cell_key(table.cursor_coordinate)
            table.update_cell(
                key.row_key, key.column_key, table.get_cell(key.row_key, key.column_key), update_width=True
            )

    def _cells(self, device: dict[str, Any]) -> list[Text]:
        train = device["phases"].get("train")
        left = "" if device["granted_j"] is None else joules(device["left_j"])
        width = device["uncertainty_j"]
        spent = "" if device["reported_round"] is None else joules(device["spent_j"])
        cells = [
            plain(device["device_id"]),
            "" if device["round"] is None else f"{device['round']} {device['outcome']}",
            spent + (f" ± {width:.2g}" if width is not None and self.size.width >= _WIDE else ""),
            "" if train is None else joules(train["power_w"]),
            left,
            "" if device["temperature_c"] is None else f"{device['temperature_c']:.0f}",
            _seen(device).removesuffix(" ago"),
            sparks(device["sparks"], 8 if self.size.width < _WIDE else 24),
            plain(device["standing"]),
        ]
        return [
            Text(cell, style="bold red" if device["trouble"] and at in (0, 8) else "") for at, cell in enumerate(cells)
        ]

    def _chosen(self) -> dict[str, Any] | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        found: dict[str, Any] | None = self.shown["devices"].get(key)
        return found

    def action_inspect(self) -> None:
        """Show all that is known of the device under the cursor."""
        if (one := self._chosen()) is not None:
            self.push_screen(Inspection(one))

    def on_data_table_row_highlighted(self) -> None:
        self._show_why()

    def _show_why(self) -> None:
        """The words of the device under the cursor, whole: a narrow terminal cuts them in the table."""
        one = self._chosen()
        said = "" if one is None or not one["standing"] else f"{one['device_id']}: {one['standing']}"
        self.query_one("#why", Static).update(plain(said))

    def on_data_table_row_selected(self) -> None:
        self.action_inspect()

    def action_trouble(self) -> None:
        """Show only devices with trouble, or all again."""
        self._only_trouble = not self._only_trouble
        self._show_devices()

    def action_pause(self) -> None:
        """Let the run rest, or go on, after a question."""
        run = self.shown["run"]
        if run is None or run["state"] not in ("waiting", "running", "paused"):
            self.notify("there is no run that could be paused", severity="warning")
        elif run["state"] == "paused":
            self._ask(f"Let {run['name']} ({run['run_id']}) go on?", self._connection.resume_run, run["run_id"])
        else:
            text = (
                f"Pause {run['name']} ({run['run_id']})? Its devices stop within a second; what they reported is kept."
            )
            self._ask(text, self._connection.pause_run, run["run_id"])

    def action_stop(self) -> None:
        """End the run, after a question."""
        run = self.shown["run"]
        if run is None or run["state"] not in ("waiting", "running", "paused"):
            self.notify("there is no run that could be stopped", severity="warning")
            return
        text = f"Stop {run['name']} ({run['run_id']}) for good? Its heads are kept; it cannot go on afterwards."
        self._ask(text, self._connection.stop_run, run["run_id"])

    def _ask(self, text: str, do: Callable[[str], str], run_id: str) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._do(do, run_id)

        self.push_screen(Question(plain(text)), answered)

    @work(thread=True, group="act")
    def _do(self, do: Callable[[str], str], run_id: str) -> None:
        try:
            told, severity = f"{run_id} is {do(run_id)}", "information"
        except EdgejouleError as error:
            told, severity = str(error), "error"
        self.call_from_thread(self.notify, plain(told), severity=severity, markup=False)
