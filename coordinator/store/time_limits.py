"""No wait without limit for PostgreSQL: connecting, a statement, and an answer that never comes.

A server that is reachable ends a long statement by itself (`statement_timeout`). One that is not, or a network that
swallows what is sent, gives no answer at all, and the driver would wait for ever: a thread looks after every call that
is out, and shuts the socket of one that takes too long. The driver then finds the connection closed, and says so.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

CONNECT_S = 5
# What the server ends by itself; the longest statement sums what one run cost its devices.
STATEMENT_S = 15
# What is given up here: a little later, so that the server's own word comes first.
ANSWER_S = 20.0
# Whether the server still answers is asked before each transaction.
PING_S = 5.0
_LOOK_S = 0.25

_LIBPQ = ("psycopg", "psycopg2")


def connect_arguments(driver: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Limits for a new connection, but for those that the URL names itself.

    Args:
        driver: SQLAlchemy's name of it; one that is not libpq's gets none.
        given: the query of the URL.
    """
    if driver not in _LIBPQ:
        return {}
    limits = {
        "connect_timeout": CONNECT_S,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": int(ANSWER_S * 1000),
        # The last three: a coordinator whose machine is gone holds its lock no longer than this.
        "options": f"-c statement_timeout={STATEMENT_S}s -c lock_timeout={STATEMENT_S}s "
        "-c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3",
    }
    return {key: value for key, value in limits.items() if key not in given}


class Patience:
    """Shuts the socket of a call that is out for too long. Its thread begins with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[int, tuple[float, Any]] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, connection: Any, limit_s: float) -> None:
        """A call on this connection of the driver is sent now."""
        with self._lock:
            self._out[id(connection)] = (time.monotonic() + limit_s, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="time limits", daemon=True)
                self._thread.start()

    def done(self, connection: Any) -> None:
        """It was answered, or failed."""
        with self._lock:
            self._out.pop(id(connection), None)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_S):
            now_s = time.monotonic()
            with self._lock:
                late = [(key, one) for key, (limit_s, one) in self._out.items() if now_s >= limit_s]
                for key, connection in late:
                    del self._out[key]
                    _shut(connection)


def _shut(connection: Any) -> None:
    """End both directions of a connection's socket; the file number stays the driver's."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except Exception:
        return


def limit(engine: Engine) -> Patience:
    """Put a limit on every call of this engine."""
    patience = Patience()

    def checked_out(raw: Any, record: Any, proxy: Any) -> None:
        patience.begin(raw, PING_S)
        try:
            engine.dialect.do_ping(raw)
        except Exception as error:
            raise DisconnectionError(str(error)) from error
        finally:
            patience.done(raw)

    def sent(connection: Any, *rest: Any) -> None:
        # One that was lost before has no socket; whoever rolls it back does nothing to the database.
        if not connection.invalidated:
            patience.begin(connection.connection.driver_connection, ANSWER_S)

    def answered(connection: Any, *rest: Any) -> None:
        patience.done(connection.connection.driver_connection)

    def failed(context: Any) -> None:
        if context.connection is not None and not context.connection.invalidated:
            answered(context.connection)

    def rolled_back(raw: Any, *rest: Any) -> None:
        patience.begin(raw, ANSWER_S)

    def given_back(raw: Any, *rest: Any) -> None:
        if raw is not None:
            patience.done(raw)

    event.listen(engine, "checkout", checked_out)
    event.listen(engine, "before_cursor_execute", sent)
    event.listen(engine, "after_cursor_execute", answered)
    event.listen(engine, "handle_error", failed)
    # A commit is out until its connection goes back.
    event.listen(engine, "commit", sent)
    event.listen(engine, "rollback", sent)
    event.listen(engine, "reset", rolled_back)
    event.listen(engine, "checkin", given_back)
    event.listen(engine, "close", given_back)
    event.listen(engine, "invalidate", given_back)
    return patience
