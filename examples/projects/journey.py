"""The way of each project: examples, a bundle, a simulated fleet, what came of it. Each step is a command, shown.

Published models and data are no part of the repository. They are looked for in the folder that EDGEJOULE_REFERENCE_DATA
names, or in ``../shared/data`` beside the clone; where they are absent a project says so, and what it takes instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "firmware-tools": "firmware_tools.cli",
    "coordinator": "coordinator.cli",
    "edge-runtime": "edge_runtime.cli",
}


def options(description: str | None, **folders: str) -> argparse.Namespace:
    """``-o FOLDER`` and ``--small``, which every project takes, and further folders by name, with their help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="keep everything there (default: nowhere)")
    parser.add_argument("--small", action="store_true", help="fewer examples, boards and rounds: seconds")
    for name, text in folders.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=text)
    return parser.parse_args()


@contextlib.contextmanager
def room(output: Path | None) -> Iterator[Path]:
    """The folder that is kept, which must be new or empty, or one that is thrown away."""
    if output is None:
        with tempfile.TemporaryDirectory(prefix="edgejoule-project-") as folder:
            yield Path(folder)
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SystemExit(f"{output}: is not empty; name a new folder")
    output.mkdir(parents=True, exist_ok=True)
    yield output.resolve()


def reference(*names: str) -> Path | None:
    """A file or folder of the reference data; None, and a line that says so, where it is absent."""
    base = Path(os.environ.get("EDGEJOULE_REFERENCE_DATA") or ROOT.parent / "shared" / "data")
    path = base.joinpath(*names)
    if path.exists():
        return path
    print(f"{'/'.join(names)} is not among the reference data ({base}): something else stands in for it", flush=True)
    return None


def keep(
    path: Path,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    held_out: npt.NDArray[np.bool_],
    device: npt.NDArray[np.str_] | None = None,
    names: list[str] | None = None,
) -> Path:
    """Write examples as docs/data.md has them.

    Args:
        x: [N, ...] uint8, int8 or float32; y: [N] integers; held_out: [N] those that no board gets.
        device: [N] whose they are, for ``--partition natural``.
        names: of the classes.
    """
    more: dict[str, Any] = {} if device is None else {"device": device}
    if names is not None:
        more["class_names"] = np.array(names)
    np.savez(path, x=x, y=y.astype(np.int32), is_test=held_out, **more)
    return path


def command(program: str, *words: str | Path) -> str:
    """Show a command, run it, and give what it printed; what goes wrong in it ends the project.

    ``coordinator`` and the others are run as modules of this Python, so that a clone does.
    """
    given = [str(word) for word in words]
    print(f"\n$ {shlex.join([program, *given])}", flush=True)
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", PROGRAMS[program], *given],
        stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def script(path: Path, folder: Path) -> None:
    """Run a script that makes a model, in a folder: it reads ``seen.npz`` there (x, y) and writes its ``.keras``."""
    print(f"\n$ python3 {path.relative_to(ROOT)}", flush=True)
    done = subprocess.run([sys.executable, str(path)], cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)


def fleet(
    folder: Path, plan: Path, data: Path, *words: str | Path, devices: int, boards: str, partition: str
) -> dict[str, Any]:
    """Run the plan on simulated boards, and give its outcome: docs/simulation.md says what of it is reckoned."""
    command(
        "coordinator", "simulate", plan, "--bundle", folder / "bundle", "--data", data, "--devices", str(devices),
        "--boards", boards, "--partition", partition, "--seed", "1", "-o", folder / "run", *words,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "run" / "outcome.json").read_text())
    return found


def conclude(found: dict[str, Any], judged_by: str = "accuracy") -> None:
    """A line of what came of it: by how much the model is better, and for how many joules and bytes."""
    first, last = (found["rounds"][at][judged_by] for at in (0, -1))
    reports = sum(this_round["accepted"] for this_round in found["rounds"][1:])
    print(
        f"\n{judged_by} {first:.4f} -> {last:.4f} in {len(found['rounds']) - 1} round(s), {reports} reports: "
        f"{found['energy_j']:.3f} J (estimated), {found['bytes_up']} bytes up, {found['bytes_down']} bytes down"
    )
