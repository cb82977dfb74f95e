"""The bridge is flashed, read back, asked what it runs; and what it does not hold is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protos.errors import MismatchError


def _with_one_byte_changed(hexadecimal: str) -> str:
    """An Intel hex file in which the last data byte of the tenth record differs; its check sums are right."""
    lines = hexadecimal.splitlines()
    record = bytearray.fromhex(lines[9][1:])
    record[-2] ^= 0x01
    record[-1] = -sum(record[:-1]) & 0xFF
    lines[9] = f":{record.hex().upper()}"
    return "\n".join(lines) + "\n"


@pytest.mark.destructive
@pytest.mark.needs("ina219-bridge", "flash")
def test_a_board_takes_an_image_holds_it_and_runs_it(bench, flasher, clock, measure, bench_files):
    wanted = flasher.image()
    with bench.blank_board():
        begun_s = clock.monotonic()
        outcome = flasher.flash(wanted)
        measure("flash, read back, HELLO", clock.monotonic() - begun_s, "s")
        measure("image", len(wanted.data), "B")
        assert outcome.written
        if bench.simulated:
            assert outcome.before is None, "the board was blank"
        assert outcome.after["build"] == wanted.build_id
        if flasher.board == "atmega328p":
            other = bench_files / "other.hex"
            other.write_text(_with_one_byte_changed(wanted.path.read_text()))
            with pytest.raises(MismatchError):
                flasher.verify(replace(wanted, path=other))
    with pytest.raises(MismatchError):
        flasher.verify(replace(wanted, build_id="0123456789abcdef"))
    after = bench.hello()
    assert after.build.hex() == wanted.build_id
    assert after.sensors[bench.sensor].state == 0, "and it measures"
