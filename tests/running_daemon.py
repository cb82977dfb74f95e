"""A daemon in a thread of the test, so that what ends it can be looked at."""

from __future__ import annotations

import threading

from edge_runtime.config import Settings
from edge_runtime.daemon import process as daemon
from edge_runtime.daemon.stopping import Stopping


class RunningDaemon:
    """A daemon in a thread, with what ended it."""

    def __init__(self, settings: Settings, *, rows: bool = False) -> None:
        self.stopping = Stopping()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(settings, rows))
        self._thread.start()

    def _run(self, settings: Settings, rows: bool) -> None:
        try:
            daemon.run(settings, stopping=self.stopping, rows=rows)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Wait until it has ended, however it did."""
        self._thread.join(90.0)
        assert not self._thread.is_alive()

    def end(self) -> None:
        """Wait until it has ended; raises what ended it."""
        self.join()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stopping.request("test")
        self.end()
