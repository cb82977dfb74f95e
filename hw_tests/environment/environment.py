"""One bench as its environment file describes it: labgrid's target, and what we add to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hw_tests.bench.features import SECTION_OF, check_feature
from hw_tests.bench.tolerances import TOLERANCES
from hw_tests.environment.keys import OURS, SECTIONS, read_section, refuse_unknown
from hw_tests.environment.resources import bench_target, bridge_port, resources_of
from hw_tests.environment.yaml_file import read_yaml
from protos.errors import ConfigError

__all__ = ["SIMULATED", "Environment", "Section", "read_environment"]

SIMULATED = Path(__file__).parents[1] / "env" / "sim.yaml"
"""The bench of ``--hw-sim``."""
_LABGRID_KEYS = ("targets", "options", "images", "paths", "tools", "imports")
"""At the top of labgrid's files (its documentation, "Environment Configuration")."""
_ALWAYS = ("bridge", "durations", "simulation", "tolerances")
"""Sections that have their defaults when the file does not have them."""
_TARGET_KEYS = ("features", "resources", "drivers", "options")

Section = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Environment:
    """What a bench is made of.

    Args:
        path: of the file.
        digest: first 16 hexadecimal digits of the SHA-256 of the file.
        name: of the bench.
        features: what it has.
        port: of the bridge; None on a simulated bench, which makes its own.
        host: ``user@address`` of the board; None without one.
        sections: values by section, defaults filled in; None for what the file does not describe.
    """

    path: Path
    digest: str
    name: str
    features: frozenset[str]
    port: str | None
    host: str | None
    sections: Mapping[str, Section | None]

    @property
    def simulated(self) -> bool:
        return "simulated" in self.features

    def section(self, name: str) -> Section:
        """Values of a section.

        Raises:
            ConfigError: the file has none, and it is needed.
        """
        values = self.sections[name]
        if values is None:
            raise ConfigError(f"has no {OURS}.{name}", where=str(self.path), fix="see hw_tests/README.md")
        return values

    def tolerance(self, name: str) -> float:
        """A figure of ``tolerances``.

        Raises:
            KeyError: no tolerance has this name.
            ConfigError: the file does not give it.
        """
        TOLERANCES[name]
        value = self.section("tolerances")[name]
        if value is None:
            raise ConfigError(f"has no {OURS}.tolerances.{name}", where=str(self.path), fix="add it")
        return float(value)


def read_environment(path: Path) -> Environment:
    """Read and check an environment file.

    Raises:
        ConfigError: what is wrong, where, and the nearest good name.
    """
    document, data = read_yaml(path)
    refuse_unknown(document, dict.fromkeys((*_LABGRID_KEYS, OURS)), str(path))
    if OURS not in document:
        fix = f"add {OURS}: to labgrid's file, see hw_tests/env/bench.example.yaml"
        raise ConfigError(f"has no {OURS}:", where=str(path), fix=fix)
    ours = document[OURS]
    where = f"{path}: {OURS}"
    top = read_section("", ours, where)
    sections: dict[str, Section | None] = {}
    for name in SECTIONS:
        if name in ours:
            sections[name] = MappingProxyType(read_section(name, ours[name], f"{where}.{name}"))
        elif name in _ALWAYS:
            sections[name] = MappingProxyType(read_section(name, {}, f"{where}.{name}"))
        else:
            sections[name] = None
    target, place = _target(document, path)
    features = _features(target, place)
    environment = Environment(
        path,
        hashlib.sha256(data).hexdigest()[:16],
        top["bench"],
        features,
        None if "simulated" in features else bridge_port(target, place),
        _host(document, target, sections.get("board"), place, path),
        MappingProxyType(sections),
    )
    _check_sections(environment, ours)
    return environment


def _target(document: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], str]:
    name, target = bench_target(document, path)
    place = f"{path}: targets.{name}"
    refuse_unknown(target, dict.fromkeys(_TARGET_KEYS), place)
    return target, place


def _features(target: Mapping[str, Any], place: str) -> frozenset[str]:
    listed = target.get("features", [])
    where = f"{place}.features"
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ConfigError("is no list of names", where=where, fix="write [ina219-bridge, power-switch]")
    return frozenset(check_feature(one, where) for one in listed)


def _host(
    document: Mapping[str, Any], target: Mapping[str, Any], board: Section | None, place: str, path: Path
) -> str | None:
    """Of the board: ours, or labgrid's of this target, or the only one of the other targets."""
    if board is not None and board["ssh"] is not None:
        return str(board["ssh"])
    others = {
        name: each_target
        for name, each_target in document["targets"].items()
        if isinstance(each_target, dict) and each_target is not target
    }
    for places in ({place: target}, {f"{path}: targets.{name}": other for name, other in others.items()}):
        found = [
            (where, arguments)
            for where, mapping in places.items()
            for kind, arguments in resources_of(mapping, where)
            if kind == "NetworkService"
        ]
        if not found:
            continue
        where = f"{found[0][0]}.resources.NetworkService"
        if len(found) > 1:
            raise ConfigError(f"is there {len(found)} times", where=where, fix="say which: x-edgejoule.board.ssh")
        address, user = found[0][1].get("address"), found[0][1].get("username")
        if not isinstance(address, str) or not isinstance(user, str):
            raise ConfigError("lacks address or username", where=where, fix="give both, or x-edgejoule.board.ssh")
        return f"{user}@{address}"
    return None


def _check_sections(environment: Environment, ours: Mapping[str, Any]) -> None:
    """What is listed must be described."""
    where = f"{environment.path}: {OURS}"
    if environment.simulated:
        for name in ("power", "reference"):
            if name in ours:
                raise ConfigError(f"a simulated bench has its own {name}", where=where, fix=f"remove {name}:")
    for feature in sorted(environment.features & SECTION_OF.keys()):
        section = SECTION_OF[feature]
        if environment.sections[section] is None and not environment.simulated:
            fix = f"describe it, or take {feature} off the features"
            raise ConfigError(f"lacks {section!r}, which the feature {feature} needs", where=where, fix=fix)
    load = environment.sections["load"]
    if load is not None:
        _check_load(environment, load, f"{where}.load")
    given = ours.get("tolerances") or {}
    for name, tolerance in TOLERANCES.items():
        if tolerance.feature in environment.features and name not in given:
            fix = f"give it: {tolerance.meaning}, {tolerance.unit}"
            raise ConfigError(f"lacks tolerances.{name}", where=where, fix=fix)


def _check_load(environment: Environment, load: Section, where: str) -> None:
    kind = load["kind"]
    if (kind == "simulated") != environment.simulated:
        fix = "use kind: simulated there, and only there"
        raise ConfigError(f"kind {kind!r} does not go with this bench", where=where, fix=fix)
    if kind == "command" and (load["constant"] is None or load["steps_w"] is None):
        raise ConfigError("kind 'command' lacks constant or steps_w", where=where, fix="give both")
    if kind == "manual" and load["steps_w"] is None:
        raise ConfigError("kind 'manual' lacks steps_w", where=where, fix="give the powers that you can set")
    if kind == "fixed" and environment.sections["reference"] is None:
        fix = "give x-edgejoule.reference: what a meter read"
        raise ConfigError("kind 'fixed' lacks a reference reading", where=where, fix=fix)
    if "programmable-load" in environment.features and (
        kind in ("fixed", "manual") or (kind == "command" and load["square"] is None)
    ):
        fix = "give load.square, or take programmable-load off the features"
        raise ConfigError("cannot alternate", where=where, fix=fix)
    if "overload" in environment.features and load["overload_w"] is None:
        raise ConfigError("lacks overload_w", where=where, fix="give it, or take overload off the features")
    if kind == "manual" and "overload" in environment.features:
        raise ConfigError("kind 'manual' is no overload for moments", where=where, fix="take overload off the features")
