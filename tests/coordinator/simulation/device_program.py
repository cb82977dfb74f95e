"""A device as a process that can lose power: the real daemon, round, outbox and link, on virtual time.

What is not real: the head is trained by arithmetic whose result a test can say beforehand, in place of TFLite; the
meter knows every joule; and examples are embedded already.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from network import Network, Stub
from virtual_time import Program, VirtualLoop

from edge_runtime.config import resolve
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.outbox import Outbox
from edge_runtime.daemon.serving import Daemon
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.model.gate import Gate
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import CostHistory, Reserve
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.training_basis import HeldBasis
from edge_runtime.round.work import Workbench
from protos.energy.trace import Phase, PhaseEnergy
from protos.model.bundle import Bundle
from protos.model.head import Head
from protos.orders import DeviceCard, Engine, MeterCard
from protos.update.trees import Tree

ENGINE = Engine("ai-edge-litert", "2.3.0", "xnnpack")
WATTS = 2.0
STEP_S = 0.05


class VirtualStopping(Stopping):
    """Waits in virtual time."""

    def __init__(self, program: Callable[[], Program]) -> None:
        super().__init__()
        super().close()
        self._program = program

    def nap(self, timeout_s: float) -> None:
        self._program().wait(timeout_s)

    def wake(self) -> None:
        self._program().wake()

    def close(self) -> None:
        return None


class _Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def process_time(self) -> float:
        return self._loop.time()

    def wait(self, event: Any, timeout_s: float) -> bool:
        raise NotImplementedError


class Meter:
    """Knows what it draws. ``spent`` is the truth of what budgets hold down: it outlives the process that spent it."""

    identity = MeterIdentity("measured", "ina219:simulated", "none", "calibrated")

    def __init__(self, now_s: Callable[[], float], spent: list[float]) -> None:
        self._now_s, self._spent = now_s, spent
        self.start()

    def start(self) -> None:
        self._phase, self._since_s = Phase.IDLE, self._now_s()
        self._seconds: dict[Phase, float] = {Phase.IDLE: 0.0}

    def _pass(self) -> None:
        now_s = self._now_s()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now_s - self._since_s
        # What sending takes in a bad network no budget can hold down; it is reported, and charged afterwards.
        if self._phase not in (Phase.IDLE, Phase.SEND):
            self._spent[0] += WATTS * (now_s - self._since_s)
        self._since_s = now_s

    def mark(self, phase: Phase) -> None:
        self._pass()
        self._phase = phase
        self._seconds.setdefault(phase, 0.0)

    def spent_j(self) -> float | None:
        self._pass()
        return WATTS * sum(seconds for phase, seconds in self._seconds.items() if phase is not Phase.IDLE)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        self._pass()
        done, self._seconds = self._seconds, {self._phase: 0.0}
        return tuple(
            PhaseEnergy(phase, WATTS * seconds, seconds, 0.0, "measured", self.identity.sensor, 0.0)
            for phase, seconds in done.items()
        )

    def close(self) -> None:
        self._pass()


class _Head(Head):
    """Moves every weight by the same amount at each step: 1/16 of the device's own number. In place of the compiled
    signatures alone: all else is the device's own head."""

    def __init__(self, bundle: Bundle, number: int, rest: Callable[[float], None], step_s: float) -> None:
        self._by, self._rest, self._step_s = np.float32(number / 16), rest, step_s
        super().__init__(bundle)

    def _runners(self, path: Path) -> dict[str, Any]:
        return {"write": self._written, "read": lambda: self._values, "train": self._stepped}

    def _written(self, **values: Any) -> None:
        self._values: Tree = {name: value.copy() for name, value in values.items()}

    def _stepped(self, **given: Any) -> dict[str, Any]:
        self._rest(self._step_s)
        self._values = {name: value + self._by for name, value in self._values.items()}
        return {"loss": np.ones(1, np.float32)}


class SimulatedLink(Link):
    """The daemon's own link, but for the connection."""

    def __init__(self, stub: Stub, stopping: Stopping) -> None:
        self._simulated: Any = stub
        super().__init__("127.0.0.1:1", stopping)

    def _connect(self) -> None:
        self._channel: Any = SimpleNamespace(close=lambda: None)
        self._stub = self._simulated


class DeviceProgram:
    """One board: what is on its disk, and the process that runs or does not.

    Args:
        number: from 1; decides how far it moves the head.
        examples: that it declares.
        step_s: how long one step takes.

    Attributes:
        spent: the joules that it has truly spent, of all phases but idling and sending.
        up: whether a process runs.
        lost_power: whether it ever stopped before its time.
    """

    def __init__(
        self, loop: VirtualLoop, network: Network, dice: random.Random, folder: Path, bundle: Bundle,
        *, number: int, examples: int, step_s: float,
    ) -> None:  # fmt: skip
        self._loop, self._network, self._dice, self._bundle = loop, network, dice, bundle
        self.device_id, self.folder, self.examples, self._step_s = f"board-{number}", folder, examples, step_s
        self._number = number
        self.spent = [0.0]
        # After so many more steps: do this.
        self.at_work: tuple[int, Callable[[], None]] | None = None
        self.slack_j = 2 * WATTS * step_s
        self.failures: list[BaseException] = []
        self._starts = 0
        self.up = self.lost_power = False
        self.program: Program | None = None
        for name in ("outbox", "heads", "memory", "bases"):
            (folder / name).mkdir(parents=True)

    def start(self) -> None:
        """Power on."""
        self._starts += 1
        self.up = True
        self.program = Program(self._loop, self._serve, self._ended)
        self.program.start()

    def kill(self) -> None:
        """Power off, in the middle of whatever it does."""
        assert self.program is not None
        self.up, self.lost_power = False, True
        if self._meter is not None:
            self._meter.close()
        self.program.kill()

    def stop(self) -> None:
        """SIGTERM. What an order cost that brought no report nobody is told."""
        self.lost_power = True
        self._stopping.request("SIGTERM")

    _meter: Meter | None = None
    _daemon: Daemon | None = None

    def _ended(self, failure: BaseException | None) -> None:
        self.up = False
        if failure is not None:
            self.failures.append(failure)

    def _here(self) -> Program:
        assert self.program is not None
        return self.program

    def _rest(self, seconds: float) -> None:
        if self.at_work is not None:
            left, happens = self.at_work
            self.at_work = (left - 1, happens) if left > 1 else None
            if left <= 1:
                self._loop.call_later(seconds / 2, happens)
        self._here().wait(seconds)

    def _serve(self) -> None:
        program = self._here()
        self._stopping = VirtualStopping(lambda: program)
        link = SimulatedLink(Stub(self._network, self.device_id, lambda: program), self._stopping)
        self._daemon = Daemon(self._device(program), link, self._stopping)
        self._daemon.serve()

    @property
    def answered(self) -> tuple[str, int, int | None] | None:
        """Run, round and attempt of the last order that the daemon takes for done."""
        return None if self._daemon is None else self._daemon._answered

    def _device(self, program: Program) -> Any:
        clock = _Clock(self._loop)
        self._meter = Meter(self._loop.time, self.spent)
        costs = CostHistory(self.folder / "costs.json")
        outbox, heads, memory = (
            kind(self.folder / name)
            for kind, name in ((Outbox, "outbox"), (HeldHeads, "heads"), (CodecMemory, "memory"))
        )
        bases = HeldBasis(self.folder / "bases")
        labels = np.zeros(self.examples, np.int32)
        stored = np.zeros((self.examples, self._bundle.manifest.backbone.embedding_width), np.int8)
        reserve = Reserve(costs, self._bundle.bundle_id)
        session = f"{self.device_id}-{self._starts}"
        none: Any = SimpleNamespace(release=lambda: None)
        bench = Workbench(
            device_id=self.device_id,
            bundle=self._bundle,
            head=_Head(self._bundle, self._number, self._rest, self._step_s),
            examples=none,
            summary=SimpleNamespace(train_count=self.examples, labels=labels),  # type: ignore[arg-type]
            cache=SimpleNamespace(complete=True, view=lambda: stored),  # type: ignore[arg-type]
            engine=ENGINE,
            meter=self._meter,
            reserve=reserve,
            clock=clock,
            heads=heads,  # type: ignore[arg-type]
            memory=memory,  # type: ignore[arg-type]
            bases=bases,
        )
        card = DeviceCard(
            self.device_id, session, "0", "pi4", ENGINE, MeterCard("measured", "ina219:simulated"), self.examples, 8
        )
        return SimpleNamespace(
            settings=_settings(self.device_id, self.folder), clock=clock, session=session, outbox=outbox, heads=heads,
            memory=memory, reserve=reserve, bench=bench, meter=self._meter, card=lambda: card, costs=costs, bases=bases,
            refresh=lambda: None, data_fault=None, data_changed=lambda: False, look_at_data=lambda: None,
            forget_data=lambda: None, complaints=(), state=SimpleNamespace(path=self.folder), gate=Gate(),
            bundle_cache=SimpleNamespace(may_run=lambda bundle_id: True, find=lambda bundle_id, twin: self._bundle),
            accelerator=SimpleNamespace(available=False), take_up=lambda bundle: bench, take_inbox=lambda: None,
        )  # fmt: skip


def _settings(device_id: str, folder: Path) -> Any:
    """A machine without sensors of heat, which never pauses, and which takes no model to work."""
    flags = {"device_id": device_id, "state": str(folder), "pause_above_c": "0", "throttled_from": "none"}
    flags["adopt"] = "never"
    return resolve(
        {**flags, "machine_root": str(folder / "machine"), "wait_for_coordinator_s": "1e7"}, {}, None
    ).settings
