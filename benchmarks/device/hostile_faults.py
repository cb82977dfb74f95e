"""Faults that somebody or something makes while work goes on: disks, files, clocks, sensors and applications.

Those of disks mount one in memory, which needs root. All are functions as those of `faults.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.device.faults import Rig, Row, row, until
from edge_runtime.client import Client
from edge_runtime.data.store import Bounds, ExampleStore
from edge_runtime.model.socket_server import MOST_CONNECTIONS

__all__ = ["HOSTILE_FAULTS", "NEED_ROOT"]

# Put in front of the C library: for all of a process the clock of the day is as many seconds off as a file says.
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long off(void) {
    static long known; static time_t looked = -1;
    static int (*real)(clockid_t, struct timespec *);
    struct timespec now;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_MONOTONIC, &now);
    if (now.tv_sec * 20 + now.tv_nsec / 50000000 != looked) {
        FILE *file = fopen(getenv("CLOCK_OFF"), "r");
        looked = now.tv_sec * 20 + now.tv_nsec / 50000000;
        if (file) { if (fscanf(file, "%ld", &known) != 1) known = 0; fclose(file); }
    }
    return known;
}
int clock_gettime(clockid_t which, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(which, found);
    if (code == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) found->tv_sec += off();
    return code;
}
int gettimeofday(struct timeval *found, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec; found->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
"""


@contextlib.contextmanager
def _disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own, in memory.

    Raises:
        AssertionError: this needs root.
    """
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    assert done.returncode == 0, f"no disk can be mounted here: {done.stderr.decode().strip()}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Not a byte is free any more."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def _patterns(rig: Rig, count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    manifest = rig.bundle.manifest
    shape, classes = tuple(manifest.backbone.input_shape), len(manifest.classes)
    means = np.random.default_rng(0).integers(0, 196, (classes, *shape))
    y = np.arange(first, first + count) % classes
    return (means[y] + np.random.default_rng(1 + first).integers(0, 60, (count, *shape))).astype(np.uint8), y


def _store(rig: Rig, folder: Path, count: int) -> ExampleStore:
    store = ExampleStore(folder)
    x, y = _patterns(rig, count)
    for one, label in zip(x, y, strict=True):
        store.add(one, rig.bundle.manifest.classes[label])
    return store


def _to_inbox(rig: Rig, folder: Path, number: int) -> Path:
    (x,), (label,) = _patterns(rig, 1, number)
    inbox = folder / "inbox" / rig.bundle.manifest.classes[label]
    inbox.mkdir(parents=True, exist_ok=True)
    np.save(inbox / f".{number}.npy", x)
    return (inbox / f".{number}.npy").rename(inbox / f"{number}.npy")


def _counts(rig: Rig, count: int) -> float:
    return until(lambda: (one := rig.shown()) is not None and one.train_examples == count)


def read_only_data(rig: Rig) -> Row:
    """The disk of a store with a full inbox is made read-only, as a failing card is; then it is mended."""
    rig.serve()
    with _disk(rig.folder / "disk", "8m") as disk:
        rig.data = disk / "own"
        _store(rig, rig.data, 20)
        daemon = rig.device()
        rig.round_works()
        _to_inbox(rig, rig.data, 20)
        _remount(disk, "ro")
        rig.round_works()
        reason = rig.says("Read-only file system")
        _remount(disk, "rw")
        recovered_s = rig.round_works() + _counts(rig, 21)
        found = rig.shown()
        assert found is not None
        assert not found.reason, found.reason
        return row("a data disk that is made read-only", daemon, recovered_s, reason)


def full_data_disk(rig: Rig) -> Row:
    """The disk of a store fills while its inbox is taken up; then there is room."""
    rig.serve()
    with _disk(rig.folder / "disk", "2m") as disk:
        rig.data = disk / "own"
        _store(rig, rig.data, 20)
        daemon = rig.device()
        rig.round_works()
        for number in range(20, 24):
            _to_inbox(rig, rig.data, number)
        filler = _fill(disk)
        rig.round_works()
        reason = rig.says("No space left on device")
        filler.unlink()
        recovered_s = rig.round_works() + _counts(rig, 24)
        return row("a data disk that fills", daemon, recovered_s, reason)


def full_state_disk(rig: Rig) -> Row:
    """The disk of the state fills between two rounds; then there is room."""
    rig.serve()
    rig.write_data()
    with _disk(rig.folder / "disk", "16m") as disk:
        daemon = rig.device(state="disk/state")
        rig.round_works()
        filler = _fill(disk)
        rig.write_data(150)
        run_id = rig.begin_run()
        reason = rig.says("cannot be written")
        filler.unlink()
        found = row("a state folder on a disk that fills", daemon, rig.await_run(run_id), reason)
        daemon.terminate()
        daemon.wait(60.0)
        assert daemon.returncode == 0, daemon.returncode
    return found


def _write_idx(folder: Path, rig: Rig, count: int) -> Path:
    x, y = _patterns(rig, count)
    height, width = x.shape[1:3]
    folder.mkdir()
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    images.write_bytes(struct.pack(">HBBIII", 0, 8, 3, count, height, width) + x[..., 0].tobytes())
    labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, count) + y.astype(np.uint8).tobytes())
    return labels


def vanished_labels(rig: Rig) -> Row:
    """The labels of a pair are moved away, and later they are back."""
    rig.serve()
    rig.data = rig.folder / "pair"
    labels = _write_idx(rig.data, rig, 40)
    daemon = rig.device()
    rig.round_works()
    labels.rename(rig.folder / "labels")
    run_id = rig.begin_run()
    reason = rig.says("has no labels file")
    (rig.folder / "labels").rename(labels)
    return row("a labels file that disappears", daemon, rig.await_run(run_id), reason)


def changing_files(rig: Rig) -> Row:
    """A program rewrites, moves and deletes pictures all the time while rounds go on; then it ends."""
    from PIL import Image

    rig.serve()
    manifest, over = rig.bundle.manifest, threading.Event()
    rig.data = rig.folder / "photos"

    def paint(number: int, seed: int) -> None:
        (x,), (label,) = _patterns(rig, 1, number)
        path = rig.data / manifest.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(x, seed)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)

    for number in range(60):
        paint(number, 0)

    def disturb() -> None:
        random = np.random.default_rng(5)
        while not over.is_set():
            number = int(random.integers(60))
            found = next(rig.data.glob(f"*/{number}.png"), None)
            match int(random.integers(3)):
                case 1 if found is not None:
                    found.unlink()
                case 2 if found is not None:
                    found.write_bytes(b"\x89PNG half")
                case _:
                    paint(number, int(random.integers(9)))
            time.sleep(0.002)

    daemon = rig.device("--bad-examples", 90)
    rig.round_works()
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        run_id = rig.begin_run(3)
        time.sleep(8.0)
    finally:
        over.set()
        thread.join()
    for number in range(60):
        paint(number, 0)
    # A folder that never holds still may cost a run its attempts; what counts is that the board goes on afterwards.
    until(lambda: rig.state_of(run_id) not in ("waiting", "running"))
    recovered_s = rig.round_works() + _counts(rig, 60)
    found = rig.shown()
    assert found is not None
    assert not found.reason, found.reason
    said = f"{sum('looked at again' in line for line in rig.log())} looks again; the run {rig.state_of(run_id)}"
    return row("pictures that change while they are read", daemon, recovered_s, said)


def clock_that_jumps(rig: Rig) -> Row:
    """The clock jumps back two years, and forward four, while a round trains."""
    rig.serve()
    rig.write_data(900)
    said, shim = rig.folder / "clock", rig.folder / "clock.so"
    said.write_text("0")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "needs a C compiler"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), "-x", "c", "-", "-ldl"]
    subprocess.run(words, input=_CLOCK.encode(), check=True)
    daemon = rig.device(env={**os.environ, "LD_PRELOAD": str(shim), "CLOCK_OFF": str(said)})
    rig.round_works()
    run_id = rig.begin_run(4, epochs=150)
    for years in (-2, 2, -2, 0):
        _write(said, years)
        time.sleep(1.5)
    recovered_s = rig.await_run(run_id)
    _write(said, -3)
    recovered_s += rig.round_works()
    told = rig.shown()
    assert told is not None
    seen = {line[:4] for line in rig.log()}
    assert len(seen) > 1, "the clock did not jump"
    return row("a clock that jumps during a round", daemon, recovered_s, f"{told.state}; in {len(seen)} years")


def _write(said: Path, years: int) -> None:
    part = said.with_name("part")
    part.write_text(str(years * 365 * 86400))
    part.replace(said)


def another_bridge(rig: Rig) -> Row:
    """A bridge is exchanged for one with older firmware and a shunt that nobody named, under the same name."""
    rig.serve()
    rig.write_data()
    bridge, link = rig.bridge()
    daemon = rig.device("--sensor", f"serial:{link}")
    until(lambda: (one := rig.shown()) is not None and one.meter.method == "measured")
    first = rig.shown()
    rig.round_works()
    bridge.terminate()
    bridge.wait()
    other = rig.start("bridge", "firmware_tools.cli", "bridge", "sim", "--load", "constant:4.0", "--link", link,
                      "--old", "--uncalibrated", "--shunt-ohm", "0.05", "--seed", 9)  # fmt: skip
    reason = rig.says("shunt")
    rig.round_works()
    other.terminate()
    other.wait()
    rig.start("bridge", "firmware_tools.cli", "bridge", "sim", "--load", "constant:4.0", "--link", link, "--seed", 4)
    recovered_s = until(lambda: (one := rig.shown()) is not None and one.meter.method == "measured")
    again = rig.shown()
    assert first is not None
    assert again is not None
    assert again.meter.calibration_id != first.meter.calibration_id, again.meter
    rig.round_works()
    return row("another bridge under the same name", daemon, recovered_s, reason)


def one_port_for_two(rig: Rig) -> Row:
    """Two devices are given the same port: each would hear a part of what the bridge says."""
    rig.serve()
    rig.write_data()
    _, link = rig.bridge()
    first = rig.device("--sensor", f"serial:{link}")
    until(lambda: (one := rig.shown()) is not None and one.meter.method == "measured")
    rig.device("--sensor", f"serial:{link}", name="field-2", state="other")
    reason = rig.says("use", name="field-2")
    rig.round_works()
    found = rig.shown()
    assert found is not None
    assert found.meter.method == "measured", found.meter
    first.terminate()
    first.wait()
    recovered_s = until(lambda: (one := rig.shown("field-2")) is not None and one.meter.method == "measured")
    return row("one port for two devices", rig._processes[-1], recovered_s, reason)


def hanging_clients(rig: Rig) -> Row:
    """More applications than may connect hang, send half a question, or hang up in the middle; one asks properly."""
    rig.serve()
    rig.write_data()
    daemon = rig.device()
    rig.round_works()
    path = rig.folder / "state" / "model.sock"
    until(lambda: (rig.folder / "state" / "current").exists())
    held: list[socket.socket] = []
    try:
        for number in range(3 * MOST_CONNECTIONS):
            near = socket.socket(socket.AF_UNIX)
            held.append(near)
            near.connect(str(path))
            near.settimeout(30.0)
            with contextlib.suppress(OSError):
                if number % 4 == 1:
                    near.sendall(b'{"call": "info"}\n')
                    near.shutdown(socket.SHUT_WR)
                elif number % 4 == 2:
                    near.sendall(b"[" * 60_000 + b"\n")
                elif number % 4 == 3:
                    near.sendall(b'{"call": "events"}\n')
        begun_s = time.monotonic()
        with Client(path) as client:
            version = client.info()["version"]
        recovered_s = time.monotonic() - begun_s
        rig.round_works()
    finally:
        for near in held:
            near.close()
    return row("applications that hang", daemon, recovered_s, f"answered by {version}")


def retention_in_training(rig: Rig) -> Row:
    """An application adds so many examples that those which are being embedded and trained on are let go of."""
    rig.serve()
    rig.data = rig.folder / "own"
    _store(rig, rig.data, 60).keep(Bounds(most_count=60))
    daemon = rig.device()
    rig.round_works()
    path, over, added = rig.folder / "state" / "model.sock", threading.Event(), list[str]()

    def add() -> None:
        with Client(path) as client:
            while not over.is_set():
                (x,), (label,) = _patterns(rig, 1, 100 + len(added))
                added.append(client.add(x, rig.bundle.manifest.classes[label]))

    thread = threading.Thread(target=add)
    thread.start()
    try:
        recovered_s = rig.await_run(rig.begin_run(4))
        until(lambda: len(added) > 120)
    finally:
        over.set()
        thread.join()
    recovered_s += rig.round_works() + _counts(rig, 60)
    names = [entry.name for entry in ExampleStore(rig.data).entries()]
    assert names == added[-60:]
    return row("retention of what is being trained on", daemon, recovered_s, f"{len(added)} came meanwhile")


NEED_ROOT = (read_only_data, full_data_disk, full_state_disk)
HOSTILE_FAULTS: tuple[Callable[[Rig], Row], ...] = (
    *NEED_ROOT,
    vanished_labels,
    changing_files,
    clock_that_jumps,
    another_bridge,
    one_port_for_two,
    hanging_clients,
    retention_in_training,
)
