"""The power of one board as it is, as an operator's call: an iterator that another thread may end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from coordinator.operator.failures import error_of
from protos.convert.checks import MAX_NAME, said
from protos.convert.watts import bins_from
from protos.energy.bins import PowerBins

__all__ = ["WattsCall", "WattsSeen"]


@dataclass(frozen=True)
class WattsSeen:
    """What is new.

    Attributes:
        bins: on the board's own monotonic clock; None: nothing came.
        reason: what is wrong with them, or why there are none; empty when nothing is.
        skipped: messages so far that the caller was too slow for.
    """

    bins: PowerBins | None
    reason: str
    skipped: int


class WattsCall:
    """One call that is open.

    Args:
        call: of gRPC.
        address: of the coordinator, for errors.
    """

    def __init__(self, call: Any, address: str) -> None:
        self._call, self._address = call, address
        self._ended = False

    def __iter__(self) -> Iterator[WattsSeen]:
        """What comes, until the call is ended here, or the coordinator stops.

        Raises:
            UnreachableError: no coordinator answers; else what it refused for.
        """
        try:
            for one in self._call:
                bins = bins_from(one.bins) if one.HasField("bins") else None
                yield WattsSeen(bins, said(one.reason, MAX_NAME), one.skipped)
        except grpc.RpcError as error:
            if not self._ended:
                raise error_of(error, self._address) from error

    def end(self) -> None:
        """End it; the board is asked no more. Any thread may, and again."""
        self._ended = True
        self._call.cancel()
