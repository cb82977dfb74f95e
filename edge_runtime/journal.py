"""One line per event on stderr: plain for people, with a priority prefix for the systemd journal.

No raw example, no model value and no secret ever goes into a line.
"""

from __future__ import annotations

import logging
import os
import sys

LOGGER = "edgejoule.device"
LEVELS = ("debug", "info", "warning", "error")
# sd-daemon(3): "<N>" at the start of a line is its syslog priority.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _OneLine(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(super().format(record).split())
        return f"<{_PRIORITY.get(record.levelno, 6)}>{line}" if self._journal else line


def log() -> logging.Logger:
    """The logger of the daemon."""
    return logging.getLogger(LOGGER)


def start_logging(level: str) -> None:
    """Send the daemon's lines of ``level`` and above to stderr. Repeating it replaces the earlier choice."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(journal=bool(os.environ.get("JOURNAL_STREAM"))))
    logger = log()
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
