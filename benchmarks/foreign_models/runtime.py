"""What boards and networks do that no file tells: a shunt that nobody told, wires the wrong way round, IPv6, a proxy.

Part of `benchmarks/any_model.py`. The bridge is the firmware in the project's own simulator, on a pseudo-terminal: what
a real INA219 does beyond that, these rows cannot say. Clients with bad data are judged as files: `D03-arrays/nan.npz`
and `from1.npz`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.foreign_models.data import RowFields
from protos.datafiles import dataset
from protos.errors import EdgejouleError

NAME, KIND = "R01-runtime", "running"
_DEAD_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
_LIMIT_S = 120.0
# By case: what the simulated sensor is, what follows the port's name, exit code, words.
_SENSORS = {
    "shunt_unsaid": ("load=constant:2.5", "", 14, "nobody has told the bridge its shunt"),
    "reversed": ("load=constant:-1.5,shunt-ohm=0.1", "?shunt=0.1", 0, "reversed: swap VIN+ and VIN-"),
    "right_way": ("load=constant:1.5,shunt-ohm=0.1", "?shunt=0.1", 0, "100.0% covered"),
}


def runtime_rows() -> Iterator[RowFields]:
    """Rows of programs as they run: case, kind, expected, got, ok."""
    with tempfile.TemporaryDirectory(prefix="edgejoule-run-") as scratch:
        folder = Path(scratch)
        for case, (sensor, told, code, words) in _SENSORS.items():
            yield _measured(folder, case, sensor, told, code, words)
        for case, listen, around in (
            ("ipv6", "[::1]:0", {}),
            ("localhost", "localhost:0", {}),
            ("proxy", "127.0.0.1:0", _DEAD_PROXY),
        ):
            yield _served(folder, case, listen, around)
        yield _lost_and_found(folder / "disk")


def _measured(folder: Path, case: str, sensor: str, told: str, code: int, words: str) -> RowFields:
    port = folder / f"{case}.tty"
    with _program("firmware_tools.cli", "bridge", "machine", "--pty", str(port), "--sensor", sensor):
        _until(port)
        done = _run("edge_runtime.cli", "measure", "--sensor", f"serial:{port}{told}", "--for", "3s")
    said = _said(done, folder)
    expected = f"exit code {code}, says {words!r}"
    return f"{NAME}/{case}", KIND, expected, f"exit code {done.returncode}: {said}", _right(done, code, words)


def _served(folder: Path, case: str, listen: str, around: dict[str, str]) -> RowFields:
    ready = folder / f"{case}.ready"
    words = ("serve", "--state", str(folder / case), "--listen", listen, "--ready-file", str(ready))
    with _program("coordinator.cli", *words):
        _until(ready)
        done = _run("coordinator.cli", "devices", "--coordinator", ready.read_text().strip(), "--json", around=around)
    ok = _right(done, 0, '"devices": []')
    return f"{NAME}/{case}", KIND, "a client gets its answer", f"exit code {done.returncode}: {_said(done, folder)}", ok


def _lost_and_found(folder: Path) -> RowFields:
    """A data disk with the folder that its file system makes, which is root's alone."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for at in range(3):
            Image.fromarray(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(folder / name / f"{at}.png")
    closed = folder / "lost+found"
    closed.mkdir(mode=0o000)
    try:
        found = dataset.account_of(dataset.load(folder, image_shape=(12, 12, 3)))
        ok = found.startswith("6 examples read")
    except EdgejouleError as error:
        found, ok = str(error).replace(str(folder), "DISK"), False
    finally:
        closed.chmod(0o700)
        shutil.rmtree(folder)
    return f"{NAME}/lost_and_found", KIND, "6 examples read", found, ok


@contextlib.contextmanager
def _program(*words: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(_LIMIT_S)


def _run(*words: str, around: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], env={**os.environ, **(around or {})}, capture_output=True, text=True,
        timeout=_LIMIT_S, check=False,
    )  # fmt: skip


def _until(path: Path) -> None:
    end_s = time.monotonic() + _LIMIT_S
    while not path.exists() or (path.is_file() and not path.read_text()):
        if time.monotonic() > end_s:
            return
        time.sleep(0.1)


def _right(done: subprocess.CompletedProcess[str], code: int, words: str) -> bool:
    text = done.stdout + done.stderr
    return done.returncode == code and words in text and "Traceback" not in text


def _said(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    return " ".join((done.stderr + done.stdout).split()).replace(f"{folder}/", "")[:300]
