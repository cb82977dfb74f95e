"""What installed packages add to this device: their names, and whether they can be loaded."""

from __future__ import annotations

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine
from protos.errors import PluginError
from protos.plugins import KINDS, Plugin, load, refused

__all__ = ["check_plugins"]

_CHECK = "plugins"


def check_plugins(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Codecs and sensors are loaded, since a device uses them; what is for the coordinator or the workshop is listed.

    A plug-in that is broken takes nothing from this device until an order or the settings name it.
    """
    findings: list[Finding] = []
    names: list[str] = []
    for kind in KINDS:
        try:
            plugins = machine.plugins(kind)
        except PluginError as error:
            return [_warning(error)]
        errors = refused(plugins, _ours(kind) if plugins else ())
        for plugin in plugins:
            try:
                if plugin in errors:
                    raise errors[plugin]
                _try(plugin)
            except PluginError as error:
                findings.append(_warning(error))
            else:
                names.append(str(plugin))
    if names or not findings:
        findings.append(Finding(_CHECK, "ok", "; ".join(names) or "none are installed"))
    return findings


def _ours(kind: str) -> tuple[str, ...]:
    """Our own names that a device knows; the others are the affair of `coordinator check-plan`."""
    from edge_runtime.power import sensor_factory
    from protos.update.codecs import BUILT_IN

    return {"codecs": tuple(BUILT_IN), "sensors": (*sensor_factory.KINDS, *sensor_factory.NO_SENSORS)}.get(kind, ())


def _try(plugin: Plugin) -> None:
    """Load what a device would use. Raises PluginError."""
    if plugin.kind == "codecs":
        from protos.update.plugged_codec import adopt

        row = adopt(plugin, load(plugin))
        row.build({key: rule.default for key, rule in row.parameters.items()})
    elif plugin.kind == "sensors":
        load(plugin)


def _warning(error: PluginError) -> Finding:
    return Finding(_CHECK, "warn", f"{error.where}: {error.what}", error.fix or "")
