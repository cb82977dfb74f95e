"""Prices before the first measurement: operations of the bundle times joules per operation of the board.

Watts are those of :mod:`protos.energy.boards`. Two speeds are measured: MobileNetV2 224 int8 (300 M
multiply-accumulates) takes 128 ms on a Pi 4 and 216 ms on the CPU of a Coral Dev Board (traces of deepedgebench
c663180). Speeds of other boards, and all figures of links, are **assumptions** within a factor of a few; a device's own
figures replace them after its first round.
"""

from __future__ import annotations

from coordinator.budgets.cost_model import Prices
from protos.energy.boards import BOARDS, BoardProfile

# Multiply-accumulates a second, int8 in the backbone, one core. Pi 4, Coral: measured; others: by clock and issue.
_SPEED = {"pi4": 2.3e9, "pi-zero-2": 0.8e9, "pi5": 5.6e9, "coral-dev": 1.4e9, "pi3b-plus": 1.1e9}
# A step of the head runs in float32, forward and backward, through an interpreter.
_STEP_SPEED_SHARE = 0.1
_STEP_OVERHEAD_S = 0.0005
_BUSY_CORES = 1.0
# Loading a model; writing a head; coding; a call with its handshake and its write to disk.
_EMBED_FIXED_S, _TRAIN_FIXED_S, _ENCODE_FIXED_S, _SEND_FIXED_S = 0.05, 0.005, 0.01, 0.03
_ENCODE_COORDINATES_A_S = 2e6
_LINK_BYTES_A_S = 2e6
_UNCOUNTED_MACS = 20e6


def board_of(name: str) -> BoardProfile:
    """The profile that a device's own words name best; a Pi 4 where none does.

    >>> board_of("Raspberry Pi Zero 2 W Rev 1.0").name, board_of("x86_64").name
    ('pi-zero-2', 'pi4')
    """
    return known_board(name) or BOARDS["pi4"]


def known_board(name: str) -> BoardProfile | None:
    """The profile that a device's own words name; None where none does."""
    words = name.lower()
    for part, key in (
        ("zero 2", "pi-zero-2"),
        ("pi 5", "pi5"),
        ("pi 4", "pi4"),
        ("pi 3", "pi3b-plus"),
        ("coral", "coral-dev"),
    ):
        if part in words:
            return BOARDS[key]
    return BOARDS.get(words)


def prices_of(board: str, *, macs: int | None, coordinates: int, batch_size: int) -> Prices:
    """Prices of a device that was never metered.

    Args:
        board: in the device's own words.
        macs: multiply-accumulates of the backbone for one example; None when nobody counted them.
        coordinates: of the head.
        batch_size: examples in a step.
    """
    profile = board_of(board)
    work_w = work_w_of(board)
    speed = _SPEED.get(profile.name, _SPEED["pi4"])
    step_s = _STEP_OVERHEAD_S + 3.0 * coordinates * batch_size / (speed * _STEP_SPEED_SHARE)
    return Prices(
        embed_fixed_j=work_w * _EMBED_FIXED_S,
        embedding_j=work_w * max(macs or _UNCOUNTED_MACS, 1) / speed,
        train_fixed_j=work_w * _TRAIN_FIXED_S,
        step_j=work_w * step_s,
        encode_j=work_w * (_ENCODE_FIXED_S + coordinates / _ENCODE_COORDINATES_A_S),
        send_fixed_j=work_w * _SEND_FIXED_S,
        up_j=work_w / _LINK_BYTES_A_S,
        idle_w=profile.idle_w,
        down_j=(work_w - profile.idle_w) / _LINK_BYTES_A_S,
    )


def work_w_of(board: str) -> float:
    """Watts of a board at work, by the table."""
    return board_of(board).power_w(_BUSY_CORES)
