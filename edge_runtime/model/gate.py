"""Predictions come first: training makes one piece at a time, and lets every prediction that waits go before the next.

One of both works at a time, so that the joules of either are its own. A prediction waits for the piece that is being
made, a step or an example, and for no more. Who predicts without a pause does not stop training for good: a piece that
has waited for :data:`PATIENCE_S` is made, and predictions wait for that one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["PATIENCE_S", "Gate"]

PATIENCE_S = 0.5


class Gate:
    """Between one thread that trains and any number that predict."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at_work = self._working = self._turn = self._inferring = False
        self._waiting = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A round: within, the training thread calls :meth:`between` before each piece."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False
            self._let_go()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Within a round the training thread waits for something: nothing is being made."""
        before, self._at_work = self._at_work, False
        self._let_go()
        try:
            yield
        finally:
            self._at_work = before

    def between(self) -> None:
        """A piece has ended, if there was one; the next begins when this returns. Outside of a round, nothing."""
        if not self._at_work:
            return
        with self._changed:
            self._working = self._turn = False
            if self._waiting or self._inferring:
                self._changed.notify_all()
                end_s = time.monotonic() + PATIENCE_S
                while (self._waiting or self._inferring) and (left_s := end_s - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                self._turn = self._waiting > 0
                while self._inferring:
                    self._changed.wait()
            self._working = True

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Within, nobody else works."""
        with self._changed:
            self._waiting += 1
            try:
                while self._working or self._turn or self._inferring:
                    self._changed.wait()
                self._inferring = True
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._changed:
                self._inferring = False
                self._changed.notify_all()

    def _let_go(self) -> None:
        with self._changed:
            self._working = self._turn = False
            self._changed.notify_all()
