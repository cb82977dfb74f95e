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


def _names_the_extra(environment: Path, extra: str, program: str, *words: str) -> None:
    """A command that needs an extra says so in one line, with advice that this very environment can follow."""
    done = subprocess.run(
        [environment / "bin" / program, *words], cwd=environment, capture_output=True, text=True, check=False
    )
    advice = f"{environment / 'bin' / 'python'} -m pip install 'edgejoule[{extra}]'"
    (line,) = done.stderr.splitlines() or [""]
    if done.returncode != 2 or advice not in line.replace("/python3 ", "/python "):
        sys.exit(f"{program} without the extra {extra}: exit code {done.returncode}, {done.stderr!r}")
    print(line)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "device"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        quiet = ["--quiet", "--disable-pip-version-check"]
        wheels, source = Path(folder) / "wheels", Path(folder) / "source"
        # setuptools builds where the sources are; a copy keeps the checkout as it was. What Python compiles comes and
        # goes while other checks run.
        ignored = shutil.ignore_patterns(".*", "demo-output", "build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, source, ignore=ignored)
        build = [sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "--wheel-dir", str(wheels), str(source)]
        subprocess.run(build, check=True)
        (wheel,) = wheels.glob("edgejoule-*.whl")
        subprocess.run([python, "-m", "pip", "install", *quiet, wheel], check=True)
        # -I: no current folder on the path, so the wheel itself is what is imported.
        subprocess.run([python, "-I", "-c", PROBE], check=True, cwd=folder)
        for program in ("edge-runtime", "coordinator", "firmware-tools"):
            helped = [environment / "bin" / program, "--help"]
            subprocess.run(helped, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        _names_the_extra(environment, "coordinator", "coordinator", "serve", "--state", "state")
        _names_the_extra(environment, "demo", "coordinator", "demo", "--output", "out")
        _names_the_extra(environment, "workshop", "firmware-tools", "pretrain", "digits", "-o", "out")
    print("the base install is a device: it imports, and nothing of a workstation is in it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
