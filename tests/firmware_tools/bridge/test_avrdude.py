"""What the real avrdude says when it cannot do its work becomes one line."""

from __future__ import annotations

import os
import shutil

import pytest

from firmware_tools.bridge.images import avrdude
from firmware_tools.bridge.images.avrdude import avrdude_line, run_avrdude
from firmware_tools.bridge.images.manifest import IMAGES, image_of
from protos.errors import EdgejouleError, FlashError

IMAGE = IMAGES / image_of("atmega328p").file
needs_avrdude = pytest.mark.skipif(shutil.which("avrdude") is None, reason="needs avrdude (apt install avrdude)")


@needs_avrdude
def test_a_port_that_does_not_open(tmp_path, capsys):
    port = str(tmp_path / "gone")
    with pytest.raises(FlashError, match="unable to open") as caught:
        run_avrdude(avrdude_line(port, IMAGE), log=tmp_path / "log")
    assert caught.value.where == port
    assert "--old-bootloader" in (caught.value.fix or "")
    assert "cannot open port" in (tmp_path / "log").read_text()
    with pytest.raises(FlashError, match="unable to open"):
        run_avrdude(avrdude_line(port, IMAGE), log=tmp_path / "no" / "log")
    assert "the log cannot be written" in capsys.readouterr().err


@needs_avrdude
def test_a_board_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(avrdude, "PATIENCE_S", 1.0)
    master, slave = os.openpty()
    try:
        with pytest.raises(FlashError, match="did not end in 1 s"):
            run_avrdude(avrdude_line(os.ttyname(slave), IMAGE))
    finally:
        os.close(master)
        os.close(slave)


def test_a_program_that_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgejouleError, match="apt install avrdude"):
        run_avrdude(avrdude_line("x", IMAGE))
