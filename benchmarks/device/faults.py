"""What happens to a device in the field, provoked on real programs: one function a fault.

    .venv/bin/python benchmarks/device/faults.py --bundle BUNDLE/ --json OUT      # all of them, about two minutes
    .venv/bin/python benchmarks/device/faults.py --bundle BUNDLE/ --only late_data silent_bridge

Every fault is provoked on a coordinator, a daemon and, where a sensor matters, a bridge on a pseudo-terminal, each a
process of its own. A row says whether the daemon was still the same process at the end, how many seconds after the
mending it did what it should, and what `coordinator devices` showed of the trouble.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceStatus
from protos.atomic import write_whole
from protos.errors import EdgejouleError
from protos.model.bundle import Bundle, open_bundle
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

GIVE_UP_S = 90.0
# The daemon's command, whose rests after a full disk and a bridge without an answer are a part of what they are.
_QUICKER = """
import sys
from edge_runtime.daemon import serving
from edge_runtime.power.meters import late_meter
serving._FULL_AGAIN_S /= {0}
late_meter.SILENT_EACH_S /= {0}
late_meter.GONE_S /= {0}
from edge_runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""
NAME = "field-1"
DAEMON = "edge_runtime.cli"
Row = dict[str, Any]


class Rig:
    """Programs of one fault, ended with it.

    Args:
        folder: for all that they write.
        bundle: what devices train.
        quicker: how much shorter the longest rests of daemons are than in the field.
    """

    def __init__(self, folder: Path, bundle: Path, quicker: float = 1.0) -> None:
        self.quicker = quicker
        self.folder, self.bundle = folder, open_bundle(bundle)
        self._processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data.npz"
        self.address = ""
        self._runs = 0
        self.others_first = False

    def start(self, name: str, module: str, *arguments: object, **more: Any) -> subprocess.Popen[bytes]:
        """Start ``python3 -m module``; its lines go to ``name.log``."""
        if self.others_first and module != DAEMON:
            more["preexec_fn"] = _as_if_elsewhere
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.program(module), *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT, **more
            )
        self._processes.append(process)
        return process

    def program(self, module: str) -> list[str]:
        """The words that start a module."""
        if module == DAEMON and self.quicker != 1.0:
            return [sys.executable, "-c", _QUICKER.format(self.quicker)]
        return [sys.executable, "-m", module]

    def serve(self, listen: str = "127.0.0.1:0") -> subprocess.Popen[bytes]:
        """Start the coordinator."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        process = self.start("coordinator", "coordinator.cli", "serve", "--state", self.folder / "coordinator",
                             "--listen", listen, "--ready-file", ready)  # fmt: skip
        until(ready.exists)
        self.address = ready.read_text().strip()
        return process

    def device(self, *flags: object, name: str = NAME, state: str = "state", **more: Any) -> subprocess.Popen[bytes]:
        """Start a daemon."""
        return self.start(name, DAEMON, "run", "--coordinator", self.address, "--device-id", name,
                          "--data", self.data, "--state", self.folder / state, "--wait-for-coordinator", 600,
                          *flags, **more)  # fmt: skip

    def bridge(self) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a simulated bridge; the process, and the name of its port."""
        link = self.folder / "ttyINA"
        process = self.start("bridge", "firmware_tools.cli", "bridge", "sim", "--load", "constant:4.0", "--link", link)
        until(link.exists)
        return process, link

    def write_data(self, count: int = 90, **changes: Any) -> Path:
        """Examples that the bundle can learn: a pattern for each class, under noise."""
        manifest = self.bundle.manifest
        shape, classes = tuple(manifest.backbone.input_shape), len(manifest.classes)
        patterns = np.random.default_rng(0).integers(0, 196, (classes, *shape))
        y = (np.arange(count) % classes).astype(np.int32)
        x = (patterns[y] + np.random.default_rng(1).integers(0, 60, (count, *shape))).astype(np.uint8)
        part = self.data.with_name("part.npz")
        np.savez(part, **{"x": x, "y": y, **changes})
        part.replace(self.data)
        return self.data

    def shown(self, name: str = NAME) -> DeviceStatus | None:
        """What `coordinator devices` shows of a device, or None when it does not know it."""
        with contextlib.suppress(EdgejouleError), Operator(self.address) as operator:
            return next((device for device in operator.devices() if device.device_id == name), None)
        return None

    def says(self, words: str, name: str = NAME) -> str:
        """Wait until the coordinator shows a reason with these words; the reason."""
        until(lambda: (one := self.shown(name)) is not None and words in one.reason)
        found = self.shown(name)
        return found.reason if found is not None else ""

    def begin_run(self, rounds: int = 1, more: str = "", *, epochs: int = 1) -> str:
        """Start a run for one device; its id."""
        self._runs += 1
        plan = (
            f'[run]\nbundle = "{self.bundle.path}"\nname = "run-{self._runs}"\nrounds = {rounds}\nseed = 7\n'
            f'[round]\ndevices = 1\ndeadline_s = 60\n[train]\nepochs = {epochs}\n[update]\ncodec = "float32"\n{more}'
        )
        with Operator(self.address) as operator:
            return operator.start_run(plan, self.folder)

    def await_run(self, run_id: str) -> float:
        """Wait until a run has finished; seconds."""
        begun_s = time.monotonic()
        until(lambda: self.state_of(run_id) not in ("waiting", "running"))
        if (state := self.state_of(run_id)) != "finished":
            raise AssertionError(f"the run {state}")
        return time.monotonic() - begun_s

    def round_works(self) -> float:
        """A run from its start to its end; seconds."""
        return self.await_run(self.begin_run())

    def state_of(self, run_id: str) -> str:
        """A run's state, in a word."""
        with Operator(self.address) as operator:
            return operator.status(run_id)[0].state

    def log(self, name: str = NAME) -> list[str]:
        """The lines of a program."""
        return (self.folder / f"{name}.log").read_text(errors="replace").splitlines()

    def close(self) -> None:
        """End what was started."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes:
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _as_if_elsewhere() -> None:
    """Of a program that has a machine of its own in the field. Without the right to it nothing changes."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)


def until(holds: Callable[[], object], give_up_s: float = GIVE_UP_S) -> float:
    """Wait for a condition; seconds that it took.

    Raises:
        TimeoutError: it never came true.
    """
    begun_s = time.monotonic()
    while not holds():
        if time.monotonic() - begun_s > give_up_s:
            raise TimeoutError(f"what was waited for did not come within {give_up_s:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - begun_s


def row(name: str, daemon: subprocess.Popen[bytes], recovered_s: float, reason: str) -> Row:
    """A row of `benchmarks/field.py`."""
    alive = daemon.poll() is None
    return {"name": name, "daemon_alive": alive, "recovered_s": round(recovered_s, 2), "reason_shown": reason}


# ------------------------------------------------------------ data


def data_of_another_shape(rig: Rig) -> Row:
    """A run whose bundle takes other examples than this device has; then the data are exchanged."""
    rig.serve()
    rig.write_data(x=np.zeros((90, 5, 7, 1), np.uint8))
    daemon = rig.device()
    run_id = rig.begin_run()
    reason = rig.says("shape")
    rig.write_data()
    return row("data of another shape", daemon, rig.await_run(run_id), reason)


def too_many_bad_labels(rig: Rig) -> Row:
    """A quarter of the labels is outside the classes; then they are mended."""
    rig.serve()
    rig.write_data(y=np.where(np.arange(90) % 4 == 0, 4711, 0))
    daemon = rig.device()
    run_id = rig.begin_run()
    reason = rig.says("label 4711")
    rig.write_data()
    return row("a quarter of bad labels", daemon, rig.await_run(run_id), reason)


def one_bad_label(rig: Rig) -> Row:
    """One label is outside the classes: it is set aside, and the round goes on."""
    rig.serve()
    y = (np.arange(90) % len(rig.bundle.manifest.classes)).astype(np.int32)
    y[17] = 4711
    rig.write_data(y=y)
    daemon = rig.device()
    recovered_s = rig.round_works()
    return row("one bad label", daemon, recovered_s, rig.says("1 of 90 examples set aside"))


def broken_image(rig: Rig) -> Row:
    """One truncated image and a folder that is no class."""
    from PIL import Image

    rig.serve()
    manifest = rig.bundle.manifest
    height, width, channels = manifest.backbone.input_shape
    rig.data = rig.folder / "photos"
    for number in range(30):
        path = rig.data / manifest.classes[number % len(manifest.classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((height + number, width, 3), 4 * number, np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    strange = rig.data / "holiday" / "beach.png"
    strange.parent.mkdir()
    strange.write_bytes(whole)
    daemon = rig.device()
    recovered_s = rig.round_works()
    return row("a broken image and a strange folder", daemon, recovered_s, rig.says("2 of 31 examples set aside"))


def late_data(rig: Rig) -> Row:
    """The data are not there when the board starts: a disk that is mounted later."""
    rig.serve()
    daemon = rig.device()
    reason = rig.says("no such file")
    run_id = rig.begin_run()
    rig.write_data()
    return row("data that come later", daemon, rig.await_run(run_id), reason)


def growing_data(rig: Rig) -> Row:
    """More examples than the device declared, between two runs. Reports of them were refused."""
    rig.serve()
    rig.write_data(90)
    daemon = rig.device()
    rig.round_works()
    rig.write_data(150)
    recovered_s = rig.round_works()
    found = rig.shown()
    shown = f"{found.train_examples} examples" if found is not None else ""
    assert shown == "150 examples", shown
    return row("data that grow", daemon, recovered_s, shown)


# ------------------------------------------------------------ the sensor


def _measured(rig: Rig) -> bool:
    found = rig.shown()
    return found is not None and found.meter.method == "measured"


def _unknown(rig: Rig) -> bool:
    found = rig.shown()
    return found is not None and found.state == "present" and found.meter.method == "unknown"


def late_bridge(rig: Rig) -> Row:
    """No bridge at the start; it is plugged in later."""
    rig.serve()
    rig.write_data()
    daemon = rig.device("--sensor", f"serial:{rig.folder / 'ttyINA'}")
    until(lambda: _unknown(rig))
    reason = rig.says("serial port")
    rig.round_works()
    rig.bridge()
    recovered_s = until(lambda: _measured(rig))
    return row("a bridge that comes later", daemon, recovered_s, reason)


def lost_bridge(rig: Rig) -> Row:
    """The bridge is pulled out while the device runs, and comes back."""
    rig.serve()
    rig.write_data()
    bridge, link = rig.bridge()
    daemon = rig.device("--sensor", f"serial:{link}")
    until(lambda: _measured(rig))
    bridge.terminate()
    bridge.wait()
    until(lambda: _unknown(rig))
    reason = rig.says("no samples")
    rig.round_works()
    rig.bridge()
    recovered_s = until(lambda: _measured(rig))
    return row("a bridge that goes and comes back", daemon, recovered_s, reason)


def silent_bridge(rig: Rig) -> Row:
    """The bridge hangs for 30 s: nothing is heard through an open port. It must be said, and not each time."""
    rig.serve()
    rig.write_data()
    bridge, link = rig.bridge()
    daemon = rig.device("--sensor", f"serial:{link}")
    until(lambda: _measured(rig))
    bridge.send_signal(signal.SIGSTOP)
    reason = rig.says("no samples")
    time.sleep(20.0 / rig.quicker)
    bridge.send_signal(signal.SIGCONT)
    recovered_s = until(lambda: _measured(rig))
    told = [line for line in rig.log() if "power bridge" in line]
    assert len(told) <= 2, told
    return row("a bridge that hangs", daemon, recovered_s, reason)


# ------------------------------------------------------------ machine and coordinator


def full_disk(rig: Rig) -> Row:
    """No file may grow when the daemon starts, which is a full disk to it; then there is space."""
    rig.serve()
    rig.write_data()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    lines_to = rig.folder / f"{NAME}.log"
    # Its lines go through a pipe: the log is a file as well.
    reader, writer = os.pipe()
    command = [*rig.program(DAEMON), "run", "--coordinator", rig.address, "--device-id", NAME,
               "--data", str(rig.data), "--state", str(rig.folder / "state")]  # fmt: skip
    daemon = subprocess.Popen(
        command, stderr=writer, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    )
    rig._processes.append(daemon)
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        run_id = rig.begin_run()
        reason = rig.says("cannot be written")
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))
        found = row("a full disk", daemon, rig.await_run(run_id), reason)
        daemon.terminate()
        lines_to.write_bytes(lines.read())
    return found


class _Newer(rpc.DeviceServiceServicer):
    def __init__(self) -> None:
        self.joins = 0

    def Join(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.joins += 1
        return pb.JoinResponse(protocol_major=2, protocol_minor=0, software_version="newer", check_in_s=1.0)


def newer_coordinator(rig: Rig) -> Row:
    """A coordinator of another protocol; then one that the device understands."""
    newer = _Newer()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    rpc.add_DeviceServiceServicer_to_server(newer, server)  # type: ignore[no-untyped-call]
    rig.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    rig.write_data()
    daemon = rig.device()
    until(lambda: newer.joins >= 2)
    server.stop(0).wait()
    rig.serve(rig.address)
    recovered_s = until(lambda: (one := rig.shown()) is not None and one.state == "present")
    (said,) = [line for line in rig.log() if "speaks protocol 2.0" in line]
    return row("a coordinator of another protocol", daemon, recovered_s, said)


def two_of_one_name(rig: Rig) -> Row:
    """Two boards with one name: one works, the other is refused, and takes the name when it is free."""
    rig.serve()
    rig.write_data()
    first = rig.device()
    until(lambda: rig.shown() is not None)
    second = rig.device(state="other")
    reason = rig.says("second device")
    rig.round_works()
    assert first.poll() is None
    first.terminate()
    first.wait()
    return row("two boards of one name", second, rig.round_works(), reason)


def clock_that_is_behind(rig: Rig) -> Row:
    """All that earlier starts left is of two years from now, as after a clock that jumped; new things must stay."""
    rig.serve()
    future_s = time.time() + 2 * 365 * 86400.0
    recovered_s = 0.0
    for number in range(6):
        rig.write_data(60 + number)
        daemon = rig.device("--max-rounds", 1)
        rig.round_works()
        daemon.wait(GIVE_UP_S)
        for path in (rig.folder / "state").rglob("*"):
            os.utime(path, (future_s - number, future_s - number))
    daemon = rig.device()
    recovered_s = rig.round_works()
    found = sorted((rig.folder / "state" / "embeddings").iterdir())
    kept = [json.loads((path / "progress.json").read_bytes())["identity"]["shape"][0] for path in found]
    assert max(kept) == 65, kept
    rounds = [line for line in rig.log() if "embeddings are cached" in line]
    return row("a clock that is behind", daemon, recovered_s, rounds[-1] if rounds else "")


def hang_up(rig: Rig) -> Row:
    """The terminal or tunnel that holds the daemon goes away: it says goodbye, and its next start is welcome."""
    rig.serve()
    rig.write_data()
    daemon = rig.device()
    until(lambda: rig.shown() is not None)
    daemon.send_signal(signal.SIGHUP)
    daemon.wait(GIVE_UP_S)
    assert daemon.returncode == 0, daemon.returncode
    reason = rig.says("SIGHUP")
    daemon = rig.device()
    return row("a hang-up", daemon, rig.round_works(), reason)


FAULTS: tuple[Callable[[Rig], Row], ...] = (
    data_of_another_shape,
    too_many_bad_labels,
    one_bad_label,
    broken_image,
    late_data,
    growing_data,
    late_bridge,
    lost_bridge,
    silent_bridge,
    full_disk,
    newer_coordinator,
    two_of_one_name,
    clock_that_is_behind,
    hang_up,
)


def provoke(fault: Callable[[Rig], Row], folder: Path, bundle: Bundle, quicker: float = 1.0) -> Row:
    """One fault on programs of its own. One that is not mended is a row too."""
    rig = Rig(folder / fault.__name__, bundle.path, quicker)
    try:
        return fault(rig)
    except (AssertionError, TimeoutError, EdgejouleError) as error:
        return {
            "name": fault.__name__,
            "daemon_alive": False,
            "recovered_s": None,
            "reason_shown": f"not mended: {error}",
        }
    finally:
        rig.close()


def rows(folder: Path, bundle: Bundle, faults: tuple[Callable[[Rig], Row], ...] = FAULTS) -> Iterator[Row]:
    """The faults, one after the other."""
    for fault in faults:
        yield provoke(fault, folder, bundle)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="what devices train; any with image input")
    parser.add_argument("--folder", type=Path, default=Path("field-faults"), help="for logs and states; made anew")
    parser.add_argument("--only", nargs="*", metavar="FAULT", help=", ".join(fault.__name__ for fault in FAULTS))
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows as JSON")
    options = parser.parse_args()
    chosen = tuple(fault for fault in FAULTS if not options.only or fault.__name__ in options.only)
    found = []
    for mapping in rows(options.folder, open_bundle(options.bundle), chosen):
        print(json.dumps(mapping), flush=True)
        found.append(mapping)
    if options.json is not None:
        with write_whole(options.json) as file:
            file.write(json.dumps({"faults": found}, indent=2).encode())
    return 0 if all(one["daemon_alive"] and one["recovered_s"] is not None for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
