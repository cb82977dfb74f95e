"""Rows that other packages add to our tables: found by their entry points, imported only when they are named.

A package adds a row by an entry point, in its pyproject.toml::

    [project.entry-points."edgejoule.codecs"]
    ternary = "edgejoule_example.codec:TERNARY"

Rules kept here:

* What is ours is looked for first: a start that names no plug-in reads no package's metadata and imports nothing.
* A name of ours is never replaced: a plug-in of that name is refused. Of two packages with one name, neither is taken.
* What is installed is read once a process. A plug-in is imported when its name is first used, and checked then.
* Whatever goes wrong in a plug-in is a :class:`protos.errors.PluginError` that names plug-in, package and version.

docs/extending.md says how to write one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

from protos.errors import EdgejouleError, PluginError

__all__ = ["KINDS", "Plugin", "Table", "find", "forget", "guarded", "installed", "load", "refused", "wrong"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "codecs": "codec",
        "objectives": "training objective",
        "rules": "aggregation rule",
        "weights": "weight factor",
        "sensors": "sensor",
    }
)
"""Kind, as in the group ``edgejoule.KIND``, to the word for one of them."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A row that a package offers; not imported yet.

    Args:
        kind: one of :data:`KINDS`.
        name: as a plan or a setting names it.
        package: the distribution that offers it.
        version: of that distribution.
        target: ``module:attribute``.
    """

    kind: str
    name: str
    package: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{KINDS[self.kind]} {self.name!r} of {self.package} {self.version}"


@functools.cache
def installed(kind: str) -> tuple[Plugin, ...]:
    """Every row that installed packages offer, by name; nothing is imported.

    Raises:
        PluginError: the metadata of the installed packages cannot be read.
    """
    # Here: it brings in a dozen modules of the standard library, and most starts need none of them.
    import importlib.metadata

    try:
        found = importlib.metadata.entry_points(group=f"edgejoule.{kind}")
        plugins = [
            Plugin(
                kind,
                entry_point.name,
                entry_point.dist.name if entry_point.dist else "?",
                entry_point.dist.version if entry_point.dist else "?",
                entry_point.value,
            )
            for entry_point in found
        ]
    except Exception as error:  # one broken package must not look like a program of ours that is broken
        what = f"the metadata of installed packages cannot be read ({type(error).__name__}: {error})"
        raise PluginError(what, where=f"edgejoule.{kind}", fix="look for the broken one with: pip check") from error
    return tuple(sorted(plugins, key=lambda plugin: (plugin.name, plugin.package)))


_ADOPTED: dict[Plugin, Any] = {}


def forget() -> None:
    """Read anew what is installed when it is next asked for, and make rows of it anew."""
    installed.cache_clear()
    _ADOPTED.clear()


def find(kind: str, name: str) -> Plugin | None:
    """The plug-in of this name, not imported; None when no package has one.

    Raises:
        PluginError: two packages have one.
    """
    found = [plugin for plugin in installed(kind) if plugin.name == name]
    if len(found) > 1:
        raise _twice(found)
    return found[0] if found else None


def refused(plugins: Iterable[Plugin], built_in: Container[str]) -> dict[Plugin, PluginError]:
    """Those that are never taken, each with the reason.

    Args:
        plugins: all of one kind.
        built_in: our own names of that kind.
    """
    errors = {}
    by_name: dict[str, list[Plugin]] = {}
    for plugin in plugins:
        by_name.setdefault(plugin.name, []).append(plugin)
    for name, alike in by_name.items():
        for plugin in alike:
            if name in built_in:
                errors[plugin] = PluginError("the name is one of ours", where=str(plugin), fix="give it another name")
            elif not _NAME.fullmatch(name):
                errors[plugin] = _bad_name(plugin)
            elif len(alike) > 1:
                errors[plugin] = _twice(alike)
    return errors


def load(plugin: Plugin) -> Any:
    """Import what a plug-in offers.

    Raises:
        PluginError: it cannot be imported, or is not there.
    """
    import importlib

    if not _NAME.fullmatch(plugin.name):
        raise _bad_name(plugin)
    module, _, attributes = plugin.target.partition(":")
    try:
        found: Any = importlib.import_module(module.strip())
        for attribute in attributes.partition("[")[0].split("."):
            found = getattr(found, attribute.strip())
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        why = f"cannot be loaded from {plugin.target} ({type(error).__name__}: {error})"
        raise PluginError(why, where=str(plugin), fix=_mend(plugin)) from error
    return found


def wrong(plugin: Plugin, what: str) -> PluginError:
    """The error of a plug-in that is not what it should be."""
    return PluginError(what, where=str(plugin), fix=_mend(plugin))


def guarded(plugin: Plugin, function: Callable[P, R], doing: str) -> Callable[P, R]:
    """The same function; whatever it raises besides errors of ours becomes a PluginError.

    Args:
        doing: what it was asked for, for the message.
    """

    @functools.wraps(function)
    def called(*args: P.args, **words: P.kwargs) -> R:
        try:
            return function(*args, **words)
        except EdgejouleError:
            raise
        except Exception as error:
            why = f"failed to {doing} ({type(error).__name__}: {error})"
            raise PluginError(why, where=str(plugin), fix=_mend(plugin)) from error

    return called


class Table(Mapping[str, T], Generic[T]):
    """A table of ours, and behind it what installed packages add.

    Args:
        kind: one of :data:`KINDS`.
        built_in: our own rows; never replaced.
        adopt: makes a row of what a plug-in offers, or raises :func:`wrong`.
    """

    def __init__(self, kind: str, built_in: Mapping[str, T], adopt: Callable[[Plugin, Any], T]) -> None:
        self.kind, self.built_in, self._adopt = kind, MappingProxyType(dict(built_in)), adopt

    def __getitem__(self, name: str) -> T:
        """A row. Raises PluginError when it is a plug-in's and that cannot be used."""
        if name in self.built_in:
            return self.built_in[name]
        plugin = find(self.kind, name)
        if plugin is None:
            raise KeyError(name)
        if plugin not in _ADOPTED:
            _ADOPTED[plugin] = self._adopt(plugin, load(plugin))
        row: T = _ADOPTED[plugin]
        return row

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or (isinstance(name, str) and find(self.kind, name) is not None)

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from dict.fromkeys(plugin.name for plugin in installed(self.kind) if plugin.name not in self.built_in)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _twice(plugins: list[Plugin]) -> PluginError:
    packages = " and ".join(f"{plugin.package} {plugin.version}" for plugin in plugins)
    what = f"two packages have it: {packages}"
    return PluginError(what, where=f"{KINDS[plugins[0].kind]} {plugins[0].name!r}", fix="uninstall one of them")


def _bad_name(plugin: Plugin) -> PluginError:
    return PluginError("a name is letters, digits, _ and -", where=str(plugin), fix="give it another name")


def _mend(plugin: Plugin) -> str:
    return f"mend or uninstall {plugin.package}"
