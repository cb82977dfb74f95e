"""Installs the base distribution alone in a clean environment and imports the daemon there.

What is asserted: the wheel installs with no extra; ``edge-runtime --help`` runs; the daemon imports; TensorFlow and
everything else that belongs to a workstation cannot be imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import importlib, importlib.util, sys
import edge_runtime.daemon.process, edge_runtime.cli
from protos.model import engine
print("engine", engine.engine_identity())
absent = ["tensorflow", "keras", "rich", "sqlalchemy", "sklearn", "pytest"]
present = [name for name in absent if importlib.util.find_spec(name)]
if present:
    sys.exit(f"a device must not have: {present}")
print("not there:", ", ".join(absent))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "device"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        quiet = ["--quiet", "--disable-pip-version-check"]
        wheels, source = Path(folder) / "wheels", Path(folder) / "source"
        # setuptools builds where the sources are; a copy keeps the checkout as it was.
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "demo-output", "build", "*.egg-info"))
        build = [sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "--wheel-dir", str(wheels), str(source)]
        subprocess.run(build, check=True)
        (wheel,) = wheels.glob("edgejoule-*.whl")
        subprocess.run([python, "-m", "pip", "install", *quiet, wheel], check=True)
        # -I: no current folder on the path, so the wheel itself is what is imported.
        subprocess.run([python, "-I", "-c", PROBE], check=True, cwd=folder)
        helped = [environment / "bin" / "edge-runtime", "--help"]
        subprocess.run(helped, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    print("the base install is a device: it imports, and nothing of a workstation is in it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
