"""What a person sees while boards are worked on, on stderr: a live table on a terminal, one line a board elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

from coordinator.testbed.across import Outcome, Progress

__all__ = ["Display"]

_REFRESH_S = 0.1
_BAR = 12


class Display:
    """Shows the boards until its ``with`` block ends."""

    def __init__(self, count: int, *, quiet: bool = False) -> None:
        self._count, self._quiet = count, quiet
        self._going: dict[str, Progress] = {}
        self._failed: list[Outcome] = []
        self._good = 0
        self._live: Any = None
        self._drawn_s = 0.0

    def __enter__(self) -> Display:
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        if not self._quiet and sys.stderr.isatty() and not plain:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begun(self, progress: Progress) -> None:
        """A board has its turn."""
        self._going[progress.board.name] = progress
        self.changed()

    def changed(self) -> None:
        """Draw again, if the last time was a while ago."""
        if self._live is not None and time.monotonic() - self._drawn_s >= _REFRESH_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def done(self, outcome: Outcome) -> None:
        """A board is through."""
        self._going.pop(outcome.board.name, None)
        if outcome.error is None:
            self._good += 1
        else:
            self._failed.append(outcome)
        if self._live is None and not self._quiet:
            said = outcome.failure or "done"
            print(f"{outcome.board.name}: {said} ({outcome.took_s:.1f} s)", file=sys.stderr, flush=True)
        self._drawn_s = 0.0 if outcome.error else self._drawn_s
        self.changed()

    def lines(self, height: int) -> list[str]:
        """What the table says, in at most so many lines."""
        head = f"{self._good} of {self._count} boards done, {len(self._failed)} failed"
        rows = [f"{outcome.board.name}: {outcome.failure}" for outcome in self._failed]
        for name, progress in self._going.items():
            bar = (
                ""
                if progress.share is None
                else f" [{'#' * round(_BAR * progress.share):<{_BAR}}] {100 * progress.share:.0f} %"
            )
            rows.append(f"{name}: {progress.doing}{bar}")
        room = max(1, height - 2)
        return [head, *rows[:room], *([f"... and {len(rows) - room} more"] if len(rows) > room else [])]

    def _table(self) -> Any:
        from rich.text import Text

        size = self._live.console.size
        shown = [
            line if len(line) <= size.width else line[: size.width - 3] + "..." for line in self.lines(size.height)
        ]
        return Text("\n".join(shown), no_wrap=True)
