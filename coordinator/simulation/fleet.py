"""What is simulated: the settings of a fleet, checked, and its boards, made of them and of one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.lab.partition import check_scheme
from coordinator.lab.shards import Divided, device_names
from coordinator.simulation.costs import BoardCosts, costs_of_board
from coordinator.simulation.devices import Shared, VirtualBoard
from coordinator.simulation.links import LINKS, Link
from protos.catalog import pick
from protos.energy.boards import BOARDS
from protos.errors import UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.model.engine import engine_identity, try_in_subprocess
from protos.model.head import Head
from protos.orders import Engine
from protos.progress import heard_by
from protos.update import trees
from protos.update.codecs import generator

MOST_DEVICES = 100_000
ENGINES = ("exact", "vectorised", "ray")


@dataclass(frozen=True)
class FleetSettings:
    """A fleet that does not exist. Everything random is drawn from the seed.

    Attributes:
        devices: how many boards, from 1.
        data: what they and the held-out part are made of, as ``coordinator demo --data`` takes it.
        partition: who gets which examples, as ``coordinator demo --partition`` takes it.
        seed: of the partition, the boards, and what happens to them; the plan's ``run.seed`` is the training's.
        boards: names of the table of boards, taken in turn.
        links: names of the table of links, or :class:`Link`, taken in turn.
        costs: what work takes a board, by name of the board; None: as the table has it.
        spread: standard deviation of the logarithm of how much slower one board of a kind is than another, >= 0.
        noise: the same of one round of a board beside another, >= 0.
        stragglers: share of the boards, 0 to 1, that work ``slowdown`` times slower.
        dropout: chance, 0 to 1, that a board loses its power while it works on an order; it is back after a time that
            is drawn from an exponential distribution of mean ``away_s``.
        budget_j: the boards' own limit a round, or None.
    """

    devices: int
    data: str
    partition: str = "dirichlet:0.5"
    seed: int = 0
    boards: Sequence[str] = ("pi4", "pi5", "pi-zero-2", "coral-dev")
    links: Sequence[str | Link] = ("wifi",)
    costs: Mapping[str, BoardCosts] | None = None
    spread: float = 0.3
    noise: float = 0.05
    stragglers: float = 0.0
    slowdown: float = 4.0
    dropout: float = 0.0
    away_s: float = 60.0
    budget_j: float | None = None
    renames: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise UsageError for the first setting that cannot be."""
        _within("devices", self.devices, 1, MOST_DEVICES)
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("spread", self.spread, 0.0, 3.0)
        _within("noise", self.noise, 0.0, 3.0)
        _within("stragglers", self.stragglers, 0.0, 1.0)
        _within("slowdown", self.slowdown, 1.0, 1e6)
        _within("dropout", self.dropout, 0.0, 1.0)
        _within("away_s", self.away_s, 0.0, 1e9)
        if self.budget_j is not None and not 0 < self.budget_j < 1e9:
            raise UsageError(f"{self.budget_j:g} is no number of joules", where="budget_j", fix="give more than 0")
        check_scheme(self.partition)
        for what, given in (("boards", self.boards), ("links", self.links)):
            if isinstance(given, str) or not given:
                raise UsageError(f"{given!r} is no list of {what}", where=what, fix="give one or more")
        for name in self.boards:
            pick(BOARDS, name, what="board", where="boards")
            if self.costs is not None and name not in self.costs:
                known = ", ".join(sorted(self.costs))
                raise UsageError(
                    f"nothing says what work takes a {name}", where="costs", fix=f"take boards of: {known}"
                )
        for link in self.links:
            if isinstance(link, str):
                pick(LINKS, link, what="link", where="links")

    def board_of(self, index: int) -> str:
        """The board of the device with this index."""
        return self.boards[index % len(self.boards)]

    def link_of(self, index: int) -> Link:
        """Its link: boards are gone through before the next link is taken, so that every pair occurs."""
        link = self.links[index // len(self.boards) % len(self.links)]
        return LINKS[link] if isinstance(link, str) else link

    def costs_of(self, index: int, bundle: Bundle, coordinates: int) -> BoardCosts:
        """What work takes the device with this index, its own deviation and slowness in it."""
        board = self.board_of(index)
        common = self.costs[board] if self.costs is not None else costs_of_board(board, bundle.manifest, coordinates)
        random = generator(self.seed, "board", index)
        times = float(np.exp(self.spread * random.standard_normal()))
        if random.random() < self.stragglers:
            times *= self.slowdown
        return common.slower(times) if times != 1.0 else common


def _within(what: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{value!r} is not a number from {least:g} to {most:g}", where=what)


def embedded(
    bundle: Bundle, made: Divided, say: Callable[[str], None], stopping: Callable[[], object]
) -> tuple[Shared, npt.NDArray[Any]]:
    """The frozen backbone over all examples, once: what the boards share, and the embeddings of the held-out ones.

    Raises:
        ModelError: the bundle's models do not run. They are tried in a child process first.
    """
    try_in_subprocess(bundle.backbone_path, bundle.head_path)
    say(f"embedding {len(made.train)} examples, and {len(made.test)} held out")
    backbone = Backbone(bundle, threads=2)
    with heard_by(stopping):
        embeddings, held_out = backbone.embed(made.train.x), backbone.embed(made.test.x)
    one = engine_identity()
    engine = Engine(one.name, one.version, one.delegate)
    return Shared(bundle, Head(bundle), engine, embeddings, made.train.y, made.train.source), held_out


def boards_of(
    settings: FleetSettings,
    shared: Shared,
    parts: Sequence[npt.NDArray[np.int64]],
    home: Path,
    now_s: Callable[[], float],
    kind: Callable[..., VirtualBoard] = VirtualBoard,
) -> list[VirtualBoard]:
    """The boards of a fleet, in order.

    Args:
        parts: rows of the shared examples, for each.
        home: an empty folder.
        kind: makes a board.
    """
    coordinates = trees.coordinates(shared.bundle.initial_head())
    return [
        board_of(settings, shared, index, parts[index], coordinates, home, now_s, kind)
        for index in range(settings.devices)
    ]


def board_of(
    settings: FleetSettings,
    shared: Shared,
    index: int,
    rows: npt.NDArray[np.int64],
    coordinates: int,
    home: Path,
    now_s: Callable[[], float],
    kind: Callable[..., VirtualBoard] = VirtualBoard,
) -> VirtualBoard:
    """One board of the fleet, in a folder of its own in ``home``; ``coordinates`` are those of the head."""
    name = device_names(settings.devices)[index]
    return kind(
        name,
        settings.board_of(index),
        settings.link_of(index),
        settings.costs_of(index, shared.bundle, coordinates),
        shared,
        rows,
        noise=settings.noise,
        seed=settings.seed,
        budget_j=settings.budget_j,
        home=home / name,
        now_s=now_s,
    )
