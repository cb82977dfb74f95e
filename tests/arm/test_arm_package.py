"""The Debian package for arm64 on the emulated board: installed by dpkg, configured, a round, removed, purged.

It comes after the service of an environment, on the same machine, with a state of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arm_figures import Figures
from arm_trial import FEW_EPOCHS, FEW_EXAMPLES, Shown

pytestmark = [pytest.mark.arm, pytest.mark.workshop]
MACHINE = "package on it"
NOTHING = {"here": [], "loaded": "not-found", "active": "inactive", "processes": 0}
RSS_LIMIT_MB = 150.0


@pytest.fixture(scope="module")
def life(shown: Shown) -> dict[str, Any]:
    found: dict[str, Any] = shown.found["package"]
    assert "error" not in found, f"{found['error']}\n{found.get('journal')}"
    return found


def test_dpkg_installs_it_whole_and_nothing_starts(life: dict[str, Any], figures: Figures) -> None:
    assert life["before"] == NOTHING, "the board has nothing of us"
    arch, version, state = life["recorded"].split()
    assert (arch, state) == ("arm64", "installed")
    assert life["verified"] == "", "no file is missing or changed"
    figures.note(MACHINE, "dpkg -i", f"edgejoule {version} {arch}, {life['bytes'] / 1e6:.0f} MB with compiled modules")
    assert life["compiled"] > 300, "the service may not write there, and would compile at each start"
    assert "copy /etc/edgejoule/device.toml.example to /etc/edgejoule/device.toml" in life["said"]
    after = life["installed"]
    figures.note(MACHINE, "started before it is configured", after["processes"], limit="0",
                 ok=after == NOTHING | {"here": ["example", "home", "program", "settings"]})  # fmt: skip


def test_it_is_a_service_once_it_is_configured(life: dict[str, Any], figures: Figures) -> None:
    assert life["active"] == ["active", "running", "notify"]
    assert {"unit", "state", "config"} <= set(life["configured"]["here"])
    assert life["configured"]["loaded"] == "loaded"
    (ready,) = life["ready"]
    assert "(xnnpack)" in ready
    vitals = life["vitals"]
    assert (vitals["environment"], vitals["delegate"]) == ("/usr/lib/edgejoule", "xnnpack")
    assert vitals["answered_s"] is not None
    figures.note(MACHINE, "service of its example's settings", f"active, ready, joined; {life['restarts']} restarts",
                 limit="0 restarts", ok=life["restarts"] == 0)  # fmt: skip
    figures.note(MACHINE, "kernels", vitals["delegate"], limit="xnnpack", ok=vitals["delegate"] == "xnnpack")


def test_its_service_does_a_round(life: dict[str, Any], shown: Shown, figures: Figures) -> None:
    assert shown.packaged is not None
    assert shown.packaged.embedded == (FEW_EXAMPLES,), "the state before it was gone"
    assert shown.packaged.steps == (-(-FEW_EXAMPLES // 32) * FEW_EPOCHS,)
    assert all(np.isfinite(value).all() for value in shown.packaged.head.values())
    before = shown.packaged.status.rounds[0].accuracy
    assert before is not None
    figures.note(MACHINE, "round: accuracy", f"{before:.1%} to {shown.packaged.accuracy:.1%}", limit="better",
                 ok=shown.packaged.accuracy > before + 0.1)  # fmt: skip
    peak_mb = life["memory"]["peak_kb"] * 1024 / 1e6
    figures.note(MACHINE, "peak RSS, that round", f"{peak_mb:.1f} MB", limit=f"{RSS_LIMIT_MB:g} MB",
                 ok=peak_mb <= RSS_LIMIT_MB)  # fmt: skip


def test_removing_keeps_what_is_the_boards_and_purging_keeps_nothing(life: dict[str, Any], figures: Figures) -> None:
    kept = ["config", "example", "link", "settings", "state"]
    figures.note(MACHINE, "after dpkg --remove", "state and settings", limit="no program, no unit, no process",
                 ok=life["removed"] == NOTHING | {"here": kept})  # fmt: skip
    figures.note(MACHINE, "after dpkg --purge", ", ".join(life["purged"]["here"]) or "nothing", limit="nothing",
                 ok=life["purged"] == NOTHING)  # fmt: skip
