"""The doctor's look at the Edge TPU: library, device, permission, a trial in a child process, and versions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding, Verdict
from edge_runtime.round.edge_tpus import USB_IDS, Seen, edge_tpus
from protos.errors import EdgejouleError
from protos.model.bundle import Bundle, open_bundle
from protos.model.edge_tpu import EdgeTpu, EdgeTpuError, is_installed
from protos.model.edge_tpu_trial import Trial, try_edge_tpu

_NAME = "edgetpu"
_INSTALL = "install libedgetpu1-std, built for this TFLite runtime; docs/coral.md says from where"
_PLUG = f"plug it in; on USB, lsusb shows {' or '.join(USB_IDS)}; on PCIe, the driver makes /dev/apex_0"
# "TensorFlow models on the Edge TPU", https://coral.ai/docs/edgetpu/models-intro/: its table of operators is that of
# compiler 16 with runtime 14.
_COMPILER, _RUNTIME = 16, 14


def _may_open(node: Path) -> bool:
    return os.access(node, os.R_OK | os.W_OK)


def check_edge_tpu(
    settings: Settings,
    *,
    may_open: Callable[[Path], bool] = _may_open,
    try_it: Callable[[EdgeTpu, Bundle | None], Trial] = try_edge_tpu,
) -> list[Finding]:
    """Findings about the Edge TPU that the settings ask for; what only costs speed is a warning, unless required.

    Args:
        may_open: says whether this user may read and write a node.
        try_it: loads the library, and runs the twin of a bundle.
    """
    if settings.edgetpu == "off":
        return [Finding(_NAME, "ok", 'not used: edgetpu = "off"')]
    edge_tpu = EdgeTpu(settings.edgetpu_library, settings.edgetpu_device)
    bad: Verdict = "fail" if settings.edgetpu == "require" else "warn"
    seen = edge_tpus(settings.machine_root)
    nodes = ", ".join(f"{each_edge_tpu.bus} {each_edge_tpu.node}" for each_edge_tpu in seen) or "none"
    if not is_installed(edge_tpu.library):
        if not seen and settings.edgetpu == "auto":
            return [Finding(_NAME, "ok", f"none here, and no {edge_tpu.library}: backbones run on the CPU")]
        return [Finding(_NAME, bad, f"{edge_tpu.library} is not installed; Edge TPUs: {nodes}", _INSTALL)]
    closed = [
        each_edge_tpu for each_edge_tpu in seen if not may_open(_below(settings.machine_root, each_edge_tpu.node))
    ]
    found = [_closed(each_edge_tpu, bad) for each_edge_tpu in closed]
    try:
        twin = _twin_of(settings)
        trial = try_it(edge_tpu, twin)
    except EdgeTpuError as error:
        fix = _INSTALL if seen and not closed else _PLUG
        return [*found, Finding(_NAME, bad, f"does not work: {error}; Edge TPUs: {nodes}", fix)]
    version = "unknown" if trial.runtime is None else str(trial.runtime)
    what = "the bundle's twin runs" if twin is not None else "loads"
    found.append(Finding(_NAME, "ok", f"{what} with {edge_tpu.library}, runtime {version}; Edge TPUs: {nodes}"))
    return [*found, *_versions(twin, trial)]


def _below(root: Path, node: Path) -> Path:
    return root / node.relative_to("/")


def _twin_of(settings: Settings) -> Bundle | None:
    """The bundle that the settings name, when it is sound and has a twin; what is wrong with it is said elsewhere."""
    try:
        bundle = open_bundle(settings.bundle) if settings.bundle is not None else None
    except EdgejouleError:
        return None
    return bundle if bundle is not None and bundle.twin_path is not None else None


def _closed(edge_tpu: Seen, bad: Verdict) -> Finding:
    rule = (
        "install Coral's udev rules (they come with libedgetpu1-std) and plug it in again"
        if edge_tpu.bus == "usb"
        else 'write SUBSYSTEM=="apex", MODE="0660", GROUP="apex" into /etc/udev/rules.d/65-apex.rules and restart'
    )
    fix = f"{rule}; sudo usermod -aG {edge_tpu.group} {os.environ.get('USER', 'USER')}, then log in again"
    return Finding(_NAME, bad, f"{edge_tpu.node} may not be opened by this user", fix)


def _versions(bundle: Bundle | None, trial: Trial) -> list[Finding]:
    """A twin of a newer compiler may ask for more than the runtime has."""
    twin = bundle.manifest.edge_tpu if bundle is not None else None
    if twin is None or twin.compiler_version is None or trial.runtime is None:
        return []
    major = twin.compiler_version.split(".")[0]
    if not major.isdecimal() or int(major) < _COMPILER or trial.runtime >= _RUNTIME:
        return []
    what = f"the twin is by compiler {twin.compiler_version}, made for runtime {_RUNTIME}; here is {trial.runtime}"
    return [Finding(_NAME, "warn", what, f"install a libedgetpu of runtime {_RUNTIME} or later")]
