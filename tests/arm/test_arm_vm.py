"""The service on a whole emulated board of 512 MB: installed as a user installs it, two rounds of 5,000 examples.

The coordinator is outside, and a native device does the same round to compare with. Times and the processor's errors
are those of an emulator; memory is what it would be.
"""

from __future__ import annotations

import hashlib

import pytest
from arm_figures import Figures
from arm_round import compare
from arm_trial import EPOCHS, EXAMPLES, MACHINE, MEMORY_MAX_MB, Shown

pytestmark = [pytest.mark.arm, pytest.mark.workshop]
RSS_LIMIT_MB = 150.0


def megabytes(kib: int) -> float:
    return kib * 1024 / 1e6


def test_the_machine_is_a_small_board(shown: Shown, figures: Figures) -> None:
    found = shown.found
    assert found["cortex_a53"]
    figures.note(MACHINE, "machine", f"{found['machine']}, Cortex-A53, {found['systemd']}")
    total_mb = megabytes(found["total_kb"])
    figures.note(MACHINE, "MemTotal", f"{total_mb:.0f} MB", limit="at most 512 MiB", ok=total_mb <= 512 * 1.048576)


def test_the_service_installs_hardened_and_runs(shown: Shown, figures: Figures) -> None:
    found = shown.found
    assert (found["active"], found["type"]) == ("active", "notify")
    assert len(found["ready"]) == 2
    assert all("(xnnpack)" in line for line in found["ready"])
    assert found["restarts"] == 0
    assert found["stopped"] == "success"
    secret = found["credential"]
    assert secret["same"]
    assert secret["mode"] == "0o400"
    assert secret["user"] >= 61184, "the user of the service is a dynamic one"
    figures.note(MACHINE, "service", "notify, dynamic user, credential read, xnnpack, 0 restarts")
    (exposure,) = found["exposure"]
    score = float(next(word for word in exposure.split() if word.replace(".", "").isdigit()))
    figures.note(MACHINE, "systemd-analyze security", score, limit="2.0", ok=score <= 2.0)


def test_both_rounds_end_with_the_head_of_x86(shown: Shown, figures: Figures) -> None:
    native, (first, second) = shown.native, shown.outcomes
    assert first.steps == second.steps == native.steps == (-(-EXAMPLES // 32) * EPOCHS,)
    assert (first.embedded, second.embedded) == ((EXAMPLES,), (0,))
    assert native.embeddings is not None
    equal = shown.found["embeddings_sha256"] == hashlib.sha256(native.embeddings).hexdigest()
    figures.note(MACHINE, "embeddings against x86-64", "bit-equal" if equal else "differ", limit="bit-equal", ok=equal)
    close = compare(first.head, native.head)
    figures.note(MACHINE, "head against x86-64", close.as_row(), limit="1e-4", ok=close.largest <= 1e-4)
    again = compare(second.head, first.head)
    figures.note(MACHINE, "the same from cached embeddings", again.as_row(), limit="bit-equal", ok=not again.unequal)
    before = first.status.rounds[0].accuracy
    assert before is not None
    figures.note(MACHINE, "accuracy", f"{before:.1%} to {first.accuracy:.1%}", limit="better",
                 ok=first.accuracy > before + 0.1)  # fmt: skip


def test_5000_cached_embeddings_of_width_1024_train_within_the_limit(shown: Shown, figures: Figures) -> None:
    assert shown.found["cached"]["pid"] != shown.found["embedding"]["pid"], "the cached round has a process of its own"
    for name, what in (("cached", "round on 5,000 cached embeddings"), ("embedding", "round that embeds them")):
        peak_mb = megabytes(shown.found[name]["peak_kb"])
        figures.note(MACHINE, f"peak RSS, {what}", f"{peak_mb:.1f} MB", limit=f"{RSS_LIMIT_MB:g} MB",
                     ok=peak_mb <= RSS_LIMIT_MB)  # fmt: skip


def test_the_limit_of_memory_is_kept(shown: Shown, figures: Figures) -> None:
    found = shown.found
    assert int(found["memory_max"]) == int(found["cgroup"]["memory.max"]) == MEMORY_MAX_MB << 20
    assert "oom_kill 0" in found["cgroup"]["memory.events"].splitlines()
    peak = int(found["cgroup"]["memory.peak"])
    figures.note(MACHINE, "memory charged to the unit", f"{peak / 1e6:.1f} MB",
                 limit=f"MemoryMax={MEMORY_MAX_MB}M", ok=peak <= MEMORY_MAX_MB << 20)  # fmt: skip
    figures.note(MACHINE, "a unit that takes three times its MemoryMax", found["greedy"], limit="oom-kill",
                 ok=found["greedy"] == "oom-kill")  # fmt: skip
