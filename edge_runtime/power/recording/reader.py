"""Reading a recording: its header, a quick look at what is in it, and its entries in order.

A file that was cut or damaged gives everything that is whole; what was left out is told as ``damage``, never hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from edge_runtime.power.recording.blocks import Block, Damage, Kind, Scan
from edge_runtime.power.recording.columns import DamagedBlock
from edge_runtime.power.recording.entries import Entry, Gap, decode, summary
from edge_runtime.power.recording.header import Header
from protos.errors import DataError

__all__ = ["Overview", "Recording"]

_FIX = "give a file written by measure --record; for another instrument's file add --format mlperf-tiny or csv"


@dataclass(frozen=True, slots=True)
class Overview:
    """What is in a recording, from the blocks' own summaries.

    Args:
        blocks: data blocks.
        samples: samples in them.
        begin_s: host time of the first event that has one; NaN without any.
        end_s: host time of the last one.
        size_bytes: length of the file.
        damage: what could not be read.
    """

    blocks: int
    samples: int
    begin_s: float
    end_s: float
    size_bytes: int
    damage: Damage


class Recording:
    """A recording on disk.

    Raises:
        DataError: the file cannot be read, holds no whole block of a recording, or none of the copies of its header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = Damage()
        strange, found = 0, False
        with self._opened() as file:
            for block in Scan(file):
                found = True
                if block.kind == Kind.HEADER:
                    try:
                        self.header = Header.decode(block.body)
                        return
                    except DamagedBlock:
                        strange += 1
        if not found:
            raise DataError("is no recording", where=str(path), fix=_FIX)
        what = "its header cannot be read" if strange else "its header is lost"
        raise DataError(what, where=str(path), fix="the file is damaged or of a newer version; fetch it again")

    def overview(self) -> Overview:
        """A quick look: every block is checked, none unpacked."""
        blocks = samples = 0
        begin_s, end_s = math.inf, -math.inf
        for block, _ in self._blocks():
            try:
                of_block = summary(block.body)
            except DamagedBlock:
                self.damage = replace(self.damage, strange_blocks=self.damage.strange_blocks + 1)
                continue
            blocks, samples = blocks + 1, samples + of_block.samples
            begin_s = min(begin_s, math.inf if math.isnan(of_block.begin_s) else of_block.begin_s)
            end_s = max(end_s, -math.inf if math.isnan(of_block.end_s) else of_block.end_s)
        size_bytes = self.path.stat().st_size
        if begin_s > end_s:
            begin_s = end_s = math.nan
        return Overview(blocks, samples, begin_s, end_s, size_bytes, self.damage)

    def entries(self) -> Iterator[Entry]:
        """Every entry of every whole block, and a :class:`Gap` where blocks are missing.

        ``damage`` is complete when the iteration is.
        """
        for block, after_gap in self._blocks():
            if after_gap:
                yield Gap()
            try:
                entries = decode(block.body)
            except DamagedBlock:
                self.damage = replace(self.damage, strange_blocks=self.damage.strange_blocks + 1)
                yield Gap()
                continue
            yield from entries

    def _blocks(self) -> Iterator[tuple[Block, bool]]:
        """The data blocks, and of each whether one is missing before it."""
        self.damage = Damage()
        missing = 0
        with self._opened() as file:
            scan = Scan(file)
            for block in scan:
                if block.kind == Kind.DATA:
                    yield block, scan.damage.missing_blocks > missing
                    missing = scan.damage.missing_blocks
            self.damage = replace(scan.damage, strange_blocks=self.damage.strange_blocks)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as cause:
            raise DataError(f"cannot be read: {cause.strerror or cause}", where=str(self.path)) from cause
