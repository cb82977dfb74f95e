"""One line per event: plain text on stderr for people; to the systemd journal with fields, when stderr leads there.

No raw example, no model value and no secret ever goes into a line.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from edge_runtime.systemd.journal import JOURNAL_SOCKET, PRIORITY, NativeJournal, stream_is_journal

LOGGER = "edgejoule.device"
# Sensors log under the names of their modules.
_ROOMS = "edge_runtime"
LEVELS = ("debug", "info", "warning", "error")


class _OneLine(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(super().format(record).split())
        # sd-daemon(3): "<N>" at the start of a line is its syslog priority.
        return f"<{PRIORITY.get(record.levelno, 6)}>{line}" if self._journal else line


def log() -> logging.Logger:
    """The logger of the daemon."""
    return logging.getLogger(LOGGER)


def start_logging(level: str, *, journal: Path = JOURNAL_SOCKET) -> None:
    """Send the daemon's lines of ``level`` and above on their way. Repeating it replaces the earlier choice.

    Args:
        journal: the socket that takes entries with fields, used when stderr is connected to the journal.
    """
    handler: logging.Handler
    if stream_is_journal(os.environ) and journal.exists():
        handler = NativeJournal(journal)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLine(journal=bool(os.environ.get("JOURNAL_STREAM"))))
        handler.addFilter(lambda record: not getattr(record, "journal_only", False))
    for logger in (log(), logging.getLogger(_ROOMS)):
        for earlier in logger.handlers:
            earlier.close()
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
