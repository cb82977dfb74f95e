"""Puts firmware onto a bench's bridge, with the programs that a user runs."""

from __future__ import annotations

from pathlib import Path

from firmware_tools.bridge.images.chosen_image import ChosenImage, wanted_image
from firmware_tools.bridge.images.flash import BACK_S, Outcome, flash_by_drive, flash_by_serial, verify
from hw_tests.bench.bench import Bench

__all__ = ["Flasher"]


class Flasher:
    """The bridge's bootloader.

    Args:
        bench: an open one; nobody may have its port open meanwhile.
        logs: folder for what the programmer says.
    """

    def __init__(self, bench: Bench, logs: Path) -> None:
        self._bench, self._logs = bench, logs
        section = bench.environment.section("bridge")
        self.board = str(section["board"])
        self._baud = int(section["bootloader_baud"])
        self._volume = None if section["volume"] is None else Path(section["volume"])

    def image(self, file: Path | None = None) -> ChosenImage:
        """The committed image of the bench's board, or one in a file. Raises as ``wanted_image``."""
        return wanted_image(self.board, file)

    def flash(self, wanted: ChosenImage) -> Outcome:
        """Write it, whatever runs there; returns when the board says its build id.

        Raises:
            FlashError, MismatchError, SensorError, EdgejouleError: as ``firmware-tools bridge flash``.
        """
        say = self._bench.diary.note
        if self.board == "rp2040":
            return flash_by_drive(self._bench.port, self._volume, wanted, say=say, force=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / "avrdude.log"
        return flash_by_serial(self._bench.port, wanted, say=say, baud=self._baud, force=True, log=log)

    def verify(self, wanted: ChosenImage) -> None:
        """Ask who runs there, and where the board allows it read its flash back.

        Raises:
            MismatchError: it is another image.
            SensorError, FlashError: nobody answers; it cannot be read.
        """
        read = self.board == "atmega328p"
        verify(self._bench.port, wanted, say=self._bench.diary.note, read=read, baud=self._baud, wait_s=BACK_S)
