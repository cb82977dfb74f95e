"""The Debian package of this checkout for arm64, made here as ``make deb`` makes it, but hardly compressed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import arm_cache
import arm_wheels

_PARTS = ("packaging", "CHANGELOG.md", "README.md", "LICENSE")


def package() -> Path:
    """The .deb, made now if these sources have none yet.

    Raises:
        Unavailable: wheels cannot be fetched.
        AssertionError: the package cannot be made of them.
    """
    wheels = arm_wheels.wheel_files()

    def make(place: Path) -> None:
        script = arm_wheels.ROOT / "packaging/build_deb.py"
        words = [sys.executable, script, "--arch", "arm64", "--quick", "--output", place, "--find-links", wheels]
        environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=environ)
        assert done.returncode == 0, done.stderr

    arm_wheels.forget_old("deb-arm64-", keep=4)
    place = arm_cache.kept("deb-arm64", [arm_wheels.digest_of(*_PARTS), wheels.name], make, fetches=False)
    (made,) = place.glob("edgejoule_*_arm64.deb")
    return made
