"""What is installed: Python, numpy, the TFLite runtime, the C library they are built for."""

from __future__ import annotations

import os

from edge_runtime.board import board_name
from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine

# The oldest glibc that the wheels ask for (their names: manylinux_2_27 and manylinux_2_34).
_LITERT_GLIBC, _OLD_RUNTIME_GLIBC = (2, 27), (2, 34)
_OLDEST, _NEWEST_OLD_RUNTIME = (3, 11), (3, 11)
_SIXTY_FOUR = ("aarch64", "arm64", "x86_64")


def check_board(settings: Settings, machine: HostMachine) -> list[Finding]:
    """What this is."""
    python = ".".join(map(str, machine.python))
    name = board_name(machine.root / "proc/device-tree/model")
    return [Finding("board", "ok", f"{settings.board or name}, {os.cpu_count()} cores, Python {python}")]


def check_runtime(settings: Settings, machine: HostMachine) -> list[Finding]:
    """tflite-runtime 2.14 was built against numpy 1 and breaks with numpy 2."""
    litert, old = machine.version("ai-edge-litert"), machine.version("tflite-runtime")
    numpy = machine.version("numpy") or "?"
    if litert:
        return [Finding("runtime", "ok", f"ai-edge-litert {litert}, numpy {numpy}")]
    if old is None:
        fix = "python3 -m pip install ai-edge-litert, or 'edgejoule[tflite-runtime]' on armv7"
        return [Finding("runtime", "fail", "no TFLite runtime is installed", fix)]
    if numpy.split(".")[0] != "1":
        return [
            Finding(
                "runtime",
                "fail",
                f"tflite-runtime {old} needs numpy 1, not {numpy}",
                "python3 -m pip install 'numpy<2'",
            )
        ]
    return [Finding("runtime", "ok", f"tflite-runtime {old}, numpy {numpy}")]


def check_python(settings: Settings, machine: HostMachine) -> list[Finding]:
    """32-bit ARM has tflite-runtime alone, whose last wheels are for Python 3.11."""
    version = ".".join(map(str, machine.python))
    if machine.python < _OLDEST:
        fix = "use Python 3.11: Raspberry Pi OS bookworm has it; elsewhere, `uv python install 3.11`"
        return [Finding("python", "fail", f"{version} is too old", fix)]
    if _is_arm32(machine) and machine.python > _NEWEST_OLD_RUNTIME:
        fix = "use Python 3.11 (Raspberry Pi OS bookworm), or a 64-bit system"
        return [Finding("python", "fail", f"no TFLite runtime exists for Python {version} on 32-bit ARM", fix)]
    return [Finding("python", "ok", f"{version} on {machine.processor}")]


def check_system_library(settings: Settings, machine: HostMachine) -> list[Finding]:
    """Wheels are built for GNU's C library, from some version on."""
    name, version = machine.libc
    if name != "glibc":
        fix = "use a system with glibc, such as Debian or Raspberry Pi OS; there are no wheels for musl"
        return [Finding("system library", "fail", f"{name or 'not glibc'}: no TFLite runtime exists for it", fix)]
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    old_runtime = machine.version("ai-edge-litert") is None and machine.version("tflite-runtime") is not None
    needed = _OLD_RUNTIME_GLIBC if old_runtime and machine.processor == "aarch64" else _LITERT_GLIBC
    if found < needed:
        wanted = ".".join(map(str, needed))
        fix = (
            "use ai-edge-litert"
            if old_runtime and found >= _LITERT_GLIBC
            else "use a newer system (Debian 11 or later)"
        )
        return [Finding("system library", "fail", f"glibc {version}, and the TFLite runtime needs {wanted}", fix)]
    return [Finding("system library", "ok", f"glibc {version}")]


def check_userland(settings: Settings, machine: HostMachine) -> list[Finding]:
    """A 64-bit kernel under 32-bit programs: the board could do more than its system lets it."""
    if machine.processor in _SIXTY_FOUR and machine.pointer_bits == 32:
        fix = "install the 64-bit Raspberry Pi OS: ai-edge-litert is many times faster, and exists for it alone"
        return [Finding("userland", "warn", f"32-bit programs on a 64-bit kernel ({machine.processor})", fix)]
    return [Finding("userland", "ok", f"{machine.pointer_bits}-bit programs")]


def _is_arm32(machine: HostMachine) -> bool:
    return machine.processor.startswith(("armv6", "armv7", "armhf")) or (
        machine.processor == "aarch64" and machine.pointer_bits == 32
    )
