"""A device with tflite-runtime on armv7, emulated: a real round with a coordinator on this machine.

The runtime has no XNNPACK here, so its embeddings have other bits than those of x86-64 and aarch64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from arm_figures import Figures
from arm_round import compare, plain_environ, play
from arm_userland import Userland

pytestmark = [pytest.mark.arm, pytest.mark.workshop]
MACHINE = "armv7 programs"
EXAMPLES = 1000


def test_a_round_on_armv7_ends_close_to_the_head_of_x86(
    old_board: Userland, workload: Callable[[int], Path], tmp_path: Path, figures: Figures
) -> None:
    work = workload(EXAMPLES)
    native = play(tmp_path / "native", work, [sys.executable, "-m", "edge_runtime.cli"], plain_environ())
    device = play(tmp_path / "armv7", work, [old_board.python, old_board.program], old_board.environ())
    said = (tmp_path / "armv7/device.log").read_text()
    assert "tflite-runtime 2.14.0 (builtin)" in said
    figures.note(MACHINE, "runtime", f"qemu {old_board.qemu}, tflite-runtime 2.14.0, built-in kernels")
    assert device.steps == native.steps
    assert (device.embedded, native.embedded) == ((EXAMPLES,), (EXAMPLES,))
    before = device.status.rounds[0].accuracy
    assert before is not None
    figures.note(MACHINE, "round: accuracy", f"{before:.1%} to {device.accuracy:.1%}", limit="better",
                 ok=device.accuracy > before + 0.1)  # fmt: skip
    assert native.embeddings is not None
    assert device.embeddings is not None
    # Both files begin with the same .npy header; what follows is int8.
    one, other = (
        np.frombuffer(raw, np.int8)[-EXAMPLES * 1024 :].astype(np.int16)
        for raw in (device.embeddings, native.embeddings)
    )
    apart = np.abs(one - other)
    said = f"{(apart > 0).mean():.2%} differ, by {apart.max()} at most"
    figures.note(MACHINE, "round: embeddings against x86-64", said, limit="by 2", ok=apart.max() <= 2)
    close = compare(device.head, native.head)
    limit = 0.01 * max(float(np.abs(value).max()) for value in native.head.values())
    figures.note(MACHINE, "round: head against x86-64", close.as_row(), limit=f"{limit:.2g}", ok=close.largest <= limit)
