"""Build the firmware of the bridge: the same sources and compiler give the same bytes, in any folder.

* Sources are compiled by relative names in sorted order, without time, date or debug information.
* ``sources`` is a SHA-256 over names and contents of the sources. Its first four bytes stand in HELLO where a commit
  would: an image that is itself committed cannot know its commit.
* The build id is the first 8 bytes of the SHA-256 of the image with the id blanked. It is put into the image after the
  link, behind a tag that occurs once.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firmware_tools.bridge.images import uf2
from firmware_tools.bridge.images.boot_stage import sealed
from firmware_tools.bridge.images.manifest import IMAGES, Image, read_manifest, verified_bytes
from protos.bridge.hello import PROTOCOL
from protos.errors import CheckFailed, EdgejouleError, UsageError

__all__ = ["BOARDS", "FIRMWARE", "Built", "Recipe", "build", "check", "source_digest"]

FIRMWARE = Path(__file__).parents[1] / "firmware"
_TAG = b"EJ-BUILD"
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one board is built.

    Args:
        folders: of its sources, below ``firmware/``.
        prefix: of the tool names.
        flags: of compiler and linker.
        package: Debian packages with the tools.
        ram: addresses that are RAM in the linked program.
        suffix: of the finished file.
        pack: makes that file of the image.
        finish: what the image still needs after the link, before it gets its identity.
        libc: it is linked with the library of that name.
    """

    folders: tuple[str, ...]
    prefix: str
    flags: tuple[str, ...]
    package: str
    ram: range
    suffix: str
    pack: Callable[[bytes], bytes]
    finish: Callable[[bytes], bytes] = bytes
    libc: str | None = None


def intel_hex(image: bytes) -> bytes:
    """An image from address 0 as Intel hex, 16 bytes a record; at most 64 KiB.

    >>> print(intel_hex(bytes([1, 2])).decode(), end="")
    :020000000102FB
    :00000001FF
    """
    if len(image) > 0x10000:
        raise ValueError(f"{len(image)} bytes need extended addresses")
    records = [(at, 0, image[at : at + 16]) for at in range(0, len(image), 16)] + [(0, 1, b"")]
    lines = []
    for at, kind, data in records:
        record = bytes([len(data)]) + at.to_bytes(2, "big") + bytes([kind]) + data
        lines.append(f":{(record + bytes([-sum(record) & 0xFF])).hex().upper()}\n")
    return "".join(lines).encode()


BOARDS = {
    "atmega328p": Recipe(
        ("core", "avr"),
        "avr-",
        (
            "-mmcu=atmega328p", "-DF_CPU=16000000UL", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
            "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections",
        ),
        "gcc-avr avr-libc binutils-avr",
        range(0x800000, 0x810000),
        "hex",
        intel_hex,
        libc="avr-libc",
    ),
    "rp2040": Recipe(
        ("core", "rp2040"),
        "arm-none-eabi-",
        (
            "-mcpu=cortex-m0plus", "-mthumb", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding",
            "-fno-tree-loop-distribute-patterns", "--param=min-pagesize=0", "-ffunction-sections", "-fdata-sections",
            "-Irp2040", "-nostartfiles", "-nolibc", "-Wl,--gc-sections", "-Trp2040/rp2040.ld",
        ),
        "gcc-arm-none-eabi binutils-arm-none-eabi",
        range(0x2000_0000, 0x2004_2000),
        "uf2",
        uf2.pack,
        sealed,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Built:
    """A finished image: its file, its entry for the manifest, and bytes of flash and of static RAM."""

    data: bytes
    image: Image
    flash_bytes: int
    ram_bytes: int
    changed: bool


def source_digest(board: str, root: Path = FIRMWARE) -> bytes:
    """SHA-256 over the names and contents of a board's sources; 32 bytes."""
    total = hashlib.sha256()
    for path in _sources(board, root, ".c", ".h", ".ld"):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.digest()


def build(board: str, *, root: Path = FIRMWARE, release: bool = False) -> Built:
    """Compile a board's firmware.

    Args:
        board: a key of BOARDS.
        root: the folder of the sources.
        release: the result will be the image of the manifest; otherwise it says in HELLO whether its sources are
            those of the manifest.

    Raises:
        UsageError: unknown board.
        EdgejouleError: the compiler is missing, or refuses the sources.
    """
    recipe = _recipe(board)
    sources = source_digest(board, root)
    known = read_manifest().get(board)
    changed = not release and (known is None or known.sources != sources.hex())
    define = [f"-DEJ_SOURCES={','.join(str(byte) for byte in sources[:4])}", f"-DEJ_CHANGED={int(changed)}"]
    names = [path.relative_to(root).as_posix() for path in _sources(board, root, ".c")]
    with tempfile.TemporaryDirectory(prefix="edgejoule-build-") as folder:
        elf, raw = Path(folder) / "image.elf", Path(folder) / "image.bin"
        _run([_tool(recipe, "gcc"), *recipe.flags, *define, "-o", str(elf), *names], root)
        _run([_tool(recipe, "objcopy"), "-O", "binary", "-R", ".eeprom", str(elf), str(raw)], root)
        image, ram_bytes = raw.read_bytes(), _ram_bytes(recipe, elf, root)
    image, build_id = _identified(recipe.finish(image))
    data = recipe.pack(image)
    entry = Image(
        file=f"edgejoule-bridge-{board}.{recipe.suffix}",
        sha256=hashlib.sha256(data).hexdigest(),
        build_id=build_id.hex(),
        sources=sources.hex(),
        protocol=".".join(map(str, PROTOCOL)),
        firmware=_version(root),
        toolchain=_toolchain(recipe, root),
    )
    return Built(data, entry, len(image), ram_bytes, changed)


def check(board: str) -> Image:
    """Build the committed image again; the entry of the manifest when both are the same.

    Raises:
        CheckFailed: they differ.
        IntegrityError: the committed file is not the one of its manifest.
    """
    _recipe(board)
    known = read_manifest().get(board)
    if known is None:
        raise CheckFailed(f"no image for {board}", where=str(IMAGES), fix="build it without --check")
    verified_bytes(known)
    built = build(board, release=True)
    if built.image == known:
        return known
    if built.image.sources != known.sources:
        reason, fix = "the sources have changed since the image was built", "build anew and commit the image"
    elif built.image.toolchain != known.toolchain:
        reason = f"built with {built.image.toolchain}, the manifest says {known.toolchain}"
        fix = "use the tools of the manifest"
    else:
        reason, fix = "the same sources and tools gave other bytes", "find out what the build depends on"
    raise CheckFailed(reason, where=known.file, fix=fix)


def _recipe(board: str) -> Recipe:
    if board not in BOARDS:
        raise UsageError(f"unknown board {board!r}", where="--board", fix=f"use {', '.join(BOARDS)}")
    return BOARDS[board]


def _sources(board: str, root: Path, *suffixes: str) -> list[Path]:
    folders = _recipe(board).folders
    found = [path for folder in folders for path in (root / folder).iterdir() if path.suffix in suffixes]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _tool(recipe: Recipe, name: str) -> str:
    tool = shutil.which(recipe.prefix + name)
    if tool is None:
        raise EdgejouleError(
            f"{recipe.prefix}{name} is not installed", where="bridge build", fix=f"apt install {recipe.package}"
        )
    return tool


def _run(line: list[str], root: Path) -> str:
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    if done.returncode:
        first = next((text for text in done.stderr.splitlines() if "error" in text), done.stderr.strip()[:200])
        raise EdgejouleError(first or f"ended with {done.returncode}", where=Path(line[0]).name, fix="see the sources")
    return done.stdout


def _identified(image: bytes) -> tuple[bytes, bytes]:
    if image.count(_TAG) != 1:
        raise EdgejouleError(f"the tag of the build id occurs {image.count(_TAG)} times", where="bridge build")
    at = image.index(_TAG) + len(_TAG)
    blank = image[:at] + bytes(_ID_BYTES) + image[at + _ID_BYTES :]
    build_id = hashlib.sha256(blank).digest()[:_ID_BYTES]
    return image[:at] + build_id + image[at + _ID_BYTES :], build_id


def _version(root: Path) -> str:
    text = (root / "core" / "bridge.h").read_text()
    parts = [re.search(rf"FIRMWARE_{part} = (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(part[1] for part in parts if part)


def _ram_bytes(recipe: Recipe, elf: Path, root: Path) -> int:
    rows = [line.split() for line in _run([_tool(recipe, "size"), "-A", str(elf)], root).splitlines()]
    return sum(int(row[1]) for row in rows if len(row) == 3 and row[2].isdigit() and int(row[2]) in recipe.ram)


def _toolchain(recipe: Recipe, root: Path) -> dict[str, str]:
    gcc = _tool(recipe, "gcc")
    linker = _run([_tool(recipe, "ld"), "--version"], root).splitlines()[0]
    versions = {f"{recipe.prefix}gcc": _run([gcc, "-dumpversion"], root).strip(), "binutils": linker.split()[-1]}
    if recipe.libc:
        macros = _run([gcc, *recipe.flags[:1], "-E", "-dM", "-include", "avr/version.h", "-x", "c", "/dev/null"], root)
        found = re.search(r'__AVR_LIBC_VERSION_STRING__ "([^"]+)"', macros)
        versions[recipe.libc] = found[1] if found else "unknown"
    return dict(sorted(versions.items()))
