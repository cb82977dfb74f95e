"""A sweep as one TOML file: a plan in which keys have lists, and policies that change several keys at once.

Every combination of the lists and the policies is a cell; ``run.seed`` repeats each cell.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.lab.partition import check_scheme
from coordinator.lab.plan_keys import Document, as_toml, laid_over
from protos.catalog import hint, pick
from protos.energy.boards import BOARDS
from protos.errors import PlanError, UsageError
from protos.plan.plan import RunPlan, parse
from protos.plan.sections import RULES

__all__ = ["Cell", "LocalFleet", "Sweep", "Trial", "read"]

_MOST = 10_000
_KEYS = ("name", "devices", "data", "partition", "partition_seed", "boards", "sensor", "warm_up")
SENSORS = ("bridge", "estimate", "none")


@dataclass(frozen=True)
class LocalFleet:
    """A fleet of processes on this machine, as `coordinator demo` has it."""

    devices: int
    data: str
    partition: str = "iid"
    partition_seed: int = 0
    boards: tuple[str, ...] = ("pi4",)
    sensor: str = "bridge"


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        name: for people, such as "planned, update.bits 2".
        keys: what it changes in the plan, by section.
        values: the same for a table, by column.
    """

    name: str
    keys: Document
    values: Mapping[str, str]

    @property
    def slug(self) -> str:
        """The name as that of a file."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-").lower() or "plan"


@dataclass(frozen=True)
class Trial:
    """One run that is to be: a cell and a seed, with its plan as TOML."""

    cell: Cell
    seed: int
    plan_toml: str

    @property
    def slug(self) -> str:
        return f"{self.cell.slug}-seed-{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """All of a sweep.

    Attributes:
        fleet: None: the runs go to a coordinator that runs already.
        warm_up: a run of one round comes first and is not counted, so that embeddings, which are made once and kept,
            are charged to none of the runs that are compared.
        cells: in the order of the file; the first is what others are compared with.
        seeds: of each cell. Trials go seed by seed, so that what drifts meets every cell alike.
    """

    name: str
    base: Document
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    fleet: LocalFleet | None = None
    warm_up: bool = True
    directory: Path = field(default_factory=Path)

    def trials(self, *, held_out: str | None = None) -> list[Trial]:
        """Every run, seed by seed.

        Args:
            held_out: data that the plans name where they name none.

        Raises:
            PlanError: a cell's plan contradicts itself; with the cell's name.
        """
        return [Trial(cell, seed, self.plan_text(cell, seed, held_out)) for seed in self.seeds for cell in self.cells]

    def plan_text(self, cell: Cell, seed: int, held_out: str | None = None) -> str:
        """The plan of one run, as a file that can be started by itself."""
        made = laid_over(self.base, cell.keys)
        made = laid_over(made, {"run": {"seed": seed, "name": f"{self.name}: {cell.name}, seed {seed}"}})
        if self.fleet is not None:
            made = laid_over({"round": {"devices": self.fleet.devices}}, made)
        if held_out is not None and "data" not in made.get("evaluate", {}):
            made = laid_over(made, {"evaluate": {"data": held_out}})
        text = as_toml(made)
        if parse(text, where=f"cell {cell.name!r}").times is not None:
            what = "a sweep is run when it is started, and its plan says when"
            raise PlanError(what, where=f"cell {cell.name!r}", fix="leave run.schedule and run.every out")
        return text

    def plan(self, cell: Cell, seed: int) -> RunPlan:
        """The same, as values."""
        return parse(self.plan_text(cell, seed), where=f"cell {cell.name!r}")


def read(path: Path) -> Sweep:
    """The sweep of a file.

    Raises:
        PlanError: it cannot be read, or something in it is wrong, by file and key.
        UsageError: of the local fleet: an unknown board or partition.
    """
    where = str(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlanError(f"cannot be read ({reason})", where=where, fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"not TOML: {error}", where=where, fix="correct it there") from error
    own, policies = document.pop("sweep", {}), document.pop("policy", {})
    for name, table in (("sweep", own), ("policy", policies), *document.items()):
        if not isinstance(table, dict):
            raise PlanError(f"{name} is no section", where=where, fix=f"write [{name}]")
    for section in document:
        if section not in RULES:
            raise PlanError(
                f"no section is called [{section}]", where=where, fix=hint(section, (*RULES, "sweep", "policy"))
            )
    if "bundle" not in document.get("run", {}):
        raise PlanError("run.bundle is missing", where=where, fix='add [run] bundle = "PATH" made by firmware-tools')
    fleet, warm_up, name = _own(own, where, path)
    base, axes, seeds = _taken_apart(document, where)
    cells = _cells(axes, policies, where)
    if len(cells) * len(seeds) > _MOST:
        raise PlanError(f"has {len(cells) * len(seeds)} runs", where=where, fix=f"at most {_MOST}")
    base["run"]["bundle"] = str(path.resolve().parent / Path(str(base["run"]["bundle"])).expanduser())
    if "data" in base.get("evaluate", {}):
        base["evaluate"]["data"] = str(path.resolve().parent / Path(str(base["evaluate"]["data"])).expanduser())
    made = Sweep(name, base, cells, seeds, fleet, warm_up, path.resolve().parent)
    # A mistake in any of the plans is said before anything is started. Held-out data are named later.
    made.trials(held_out="held-out.npz" if fleet is not None else None)
    return made


def _own(own: Mapping[str, Any], where: str, path: Path) -> tuple[LocalFleet | None, bool, str]:
    for key in own:
        if key not in _KEYS:
            raise PlanError(f"[sweep] has no key {key!r}", where=where, fix=hint(key, _KEYS))
    kinds: dict[str, type | tuple[type, ...]] = {
        "name": str, "devices": int, "data": str, "partition": str, "partition_seed": int, "boards": list,
        "sensor": str, "warm_up": bool,
    }  # fmt: skip
    for key, value in own.items():
        if not isinstance(value, kinds[key]) or (kinds[key] is int and isinstance(value, bool)):
            raise PlanError(f"{value!r} cannot be", where=f"{where}: sweep.{key}", fix="correct it")
    name, warm_up = own.get("name", path.stem), own.get("warm_up", True)
    given = {
        key: own[key] for key in ("devices", "data", "partition", "partition_seed", "boards", "sensor") if key in own
    }
    if not given:
        return None, warm_up, name
    if "devices" not in given or "data" not in given:
        what = "a fleet on this machine needs sweep.devices and sweep.data"
        raise PlanError(what, where=where, fix="give both, or neither for a coordinator that runs")
    if not 1 <= given["devices"] <= 1000:
        raise PlanError(f"{given['devices']} devices cannot be", where=f"{where}: sweep.devices", fix="1 to 1000")
    if given.get("partition_seed", 0) < 0:
        raise PlanError("is negative", where=f"{where}: sweep.partition_seed", fix="give 0 or more")
    check_scheme(given.get("partition", "iid"))
    if given.get("sensor", "bridge") not in SENSORS:
        fix = f"choose {', '.join(SENSORS)}"
        raise PlanError(f"no sensor {given['sensor']!r} is known", where=f"{where}: sweep.sensor", fix=fix)
    boards = given.get("boards", ["pi4"])
    for board in boards or [""]:
        pick(BOARDS, str(board), what="board", where=f"{where}: sweep.boards")
    data = path.resolve().parent / Path(given["data"]).expanduser()
    return LocalFleet(**{**given, "data": str(data), "boards": tuple(boards)}), warm_up, name


Axes = list[tuple[str, str, list[Any]]]


def _taken_apart(document: Mapping[str, Any], where: str) -> tuple[Document, Axes, tuple[int, ...]]:
    """The plan without its lists; the lists by section and key; the seeds."""
    base: Document = {}
    axes: Axes = []
    seeds: tuple[int, ...] = (0,)
    for section, table in document.items():
        base[section] = {}
        for key, value in table.items():
            place = f"{where}: {section}.{key}"
            # A key that is a list by itself, such as aggregate.weight, varies when it is a list of such.
            natural = list in RULES[section][key].types if key in RULES[section] else False
            varies = isinstance(value, list) and (not natural or (bool(value) and isinstance(value[0], list)))
            if (section, key) == ("run", "name"):
                raise PlanError("is made from the sweep's name", where=place, fix="write sweep.name")
            if not varies:
                if (section, key) == ("run", "seed"):
                    value = [value]
                else:
                    base[section][key] = value
                    continue
            if not value or len({repr(item) for item in value}) < len(value):
                raise PlanError("is empty, or has a value twice", where=place, fix="write each value once")
            if (section, key) == ("run", "seed"):
                if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value):
                    raise PlanError(f"{value!r} are no seeds", where=place, fix="whole numbers of 0 or more")
                seeds = tuple(value)
            else:
                axes.append((section, key, value))
    return base, axes, seeds


def _cells(axes: Axes, policies: Mapping[str, Any], where: str) -> tuple[Cell, ...]:
    made = []
    named: Sequence[tuple[str, Document]] = [(name, _policy(name, keys, where)) for name, keys in policies.items()]
    for policy, keys in named or [("", {})]:
        for values in itertools.product(*(axis[2] for axis in axes)):
            words = [policy] if policy else []
            columns = {"policy": policy} if policy else {}
            changed: Document = {}
            for (section, key, _), value in zip(axes, values, strict=True):
                changed = laid_over(changed, {section: {key: value}})
                said = ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"
                words.append(f"{section}.{key} {said}")
                columns[f"{section}.{key}"] = said
            for section, table in keys.items():
                if clash := table.keys() & changed.get(section, {}).keys():
                    what = f"policy.{policy} and a list both set {section}.{sorted(clash)[0]}"
                    raise PlanError(what, where=where, fix="keep one of them")
            made.append(Cell(", ".join(words) or "plan", laid_over(changed, keys), columns))
    slugs = [cell.slug for cell in made]
    if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
        raise PlanError(f"two cells would be called {min(twice)!r}", where=where, fix="name policies apart")
    return tuple(made)


def _policy(name: str, table: Any, where: str) -> Document:
    place = f"{where}: policy.{name}"
    if not isinstance(table, dict):
        raise PlanError("is no table", where=place, fix=f"write [policy.{name}]")
    made: Document = {}
    for key, value in table.items():
        section, dot, inner = key.partition(".")
        if dot:
            made = laid_over(made, {section: {inner: value}})
        elif isinstance(value, dict):
            made = laid_over(made, {section: value})
        else:
            raise PlanError(f"{key!r} names no section", where=place, fix='write "planner.policy" = "joules"')
        if section not in RULES:
            raise PlanError(f"no section is called {section!r}", where=place, fix=hint(section, RULES))
    if {"seed", "name", "bundle"} & made.get("run", {}).keys():
        raise PlanError("seed, name and bundle are the sweep's own", where=place, fix="leave them out")
    return made


def device_count_fits(sweep: Sweep) -> None:
    """Return unless a plan asks for more devices than the local fleet has.

    Raises:
        UsageError: it would wait for ever.
    """
    if sweep.fleet is None:
        return
    for cell in sweep.cells:
        wanted = sweep.plan(cell, sweep.seeds[0]).round.devices
        if wanted > sweep.fleet.devices:
            what = f"cell {cell.name!r} waits for {wanted} devices, and there are {sweep.fleet.devices}"
            raise UsageError(what, where="round.devices", fix="ask for fewer")
