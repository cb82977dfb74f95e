"""A whole fleet on one machine: bridges, coordinator and devices as separate programs that meet on loopback.

Each device reads a simulated INA219 of its own over a pseudo-terminal; the load of that sensor follows the CPU time
of the device's process. All else is what runs on a board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.lab.processes import Children
from coordinator.lab.shards import Shards, device_names
from protos.catalog import pick
from protos.energy.boards import BOARDS

# Ended first to last: devices say goodbye to a coordinator that still answers, and are metered to their end.
_DEVICES, _COORDINATOR, _BRIDGES = 0, 1, 2
SENSORS = ("bridge", "estimate", "none")
START_S = 120.0


@dataclass(frozen=True)
class FleetPlan:
    """How the fleet is made up.

    Attributes:
        boards: power profiles, taken in turn.
        sensor: "bridge" for a simulated INA219 each, "estimate" for the board table, "none".
        seed: of the simulated sensors' errors.
    """

    boards: Sequence[str]
    sensor: str = "bridge"
    sensor_profile: str = "energy"
    seed: int = 0

    def board_of(self, index: int) -> str:
        """The board of the device with this index."""
        return self.boards[index % len(self.boards)]


def check_boards(names: Sequence[str]) -> None:
    """Raise UsageError unless every board has a power profile."""
    for name in names:
        pick(BOARDS, name, what="board", where="--boards")


def start_coordinator(children: Children, folder: Path) -> str:
    """Start `coordinator serve` on a free port; returns its address."""
    ready = folder / "coordinator.address"
    state = folder / "coordinator"
    arguments: list[str | Path] = ["serve", "--state", state, "--listen", "127.0.0.1:0", "--ready-file", ready]
    children.start("coordinator", "coordinator.cli", arguments, order=_COORDINATOR)
    children.wait_for(ready, what="the coordinator", timeout_s=START_S)
    return ready.read_text().strip()


def start_devices(children: Children, folder: Path, plan: FleetPlan, shards: Shards, address: str) -> tuple[str, ...]:
    """Start the bridges and one daemon a shard; returns the devices' ids."""
    names = device_names(len(shards.devices))
    homes = [folder / "devices" / name for name in names]
    for home in homes:
        home.mkdir(parents=True, exist_ok=True)
    if plan.sensor == "bridge":
        _start_bridges(children, folder, plan, homes)
    for index, (name, home, data) in enumerate(zip(names, homes, shards.devices, strict=True)):
        board = plan.board_of(index)
        sensor = {
            "bridge": f"serial:{home / 'tty'}?profile={plan.sensor_profile}",
            "estimate": f"estimate:{board}",
            "none": "none",
        }[plan.sensor]
        arguments: list[str | Path] = ["run", "--coordinator", address, "--device-id", name, "--board", board]
        arguments += ["--data", data, "--state", home / "state", "--sensor", sensor]
        arguments += ["--pid-file", home / "pid", "--wait-for-coordinator", str(int(START_S))]
        children.start(name, "edge_runtime.cli", arguments, order=_DEVICES)
    return names


def _start_bridges(children: Children, folder: Path, plan: FleetPlan, homes: Sequence[Path]) -> None:
    arguments: list[str | Path] = ["bridge", "sim", "--die-with-parent", "--sensor-profile", plan.sensor_profile]
    arguments += ["--truth", folder / "true-joules.json"]
    for index, home in enumerate(homes):
        fields = f"board={plan.board_of(index)},pid-file={home / 'pid'},link={home / 'tty'},seed={plan.seed + index}"
        arguments += ["--bridge", fields]
    children.start("bridges", "firmware_tools.cli", arguments, order=_BRIDGES)
    for home in homes:
        children.wait_for(home / "tty", what="a bridge", timeout_s=START_S)
