"""Makes the Debian packages for Debian 12's Python 3.11: of a device, with nothing of a workstation; of a coordinator.

    .venv/bin/python packaging/build_deb.py --arch arm64 --output dist/
    .venv/bin/python packaging/build_deb.py --package coordinator --arch amd64

Wheels are taken as they are for the architecture asked for, so a package for a board is made on any machine. The same
tree, wheels and SOURCE_DATE_EPOCH make the same bytes.
"""

from __future__ import annotations

import argparse
import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent / "debian"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PYTHON = "3.11"
# Tags of wheels that glibc 2.36 of Debian 12 loads.
_GLIBC = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_17")
_SCRIPTS = ("postinst", "prerm", "postrm")
# Not needed to run, or different each time: paths of the building machine.
_LEFT_OUT = (
    "bin",
    "**/__pycache__",
    "**/direct_url.json",
    "**/RECORD",
    "**/REQUESTED",
    "numpy/**/tests",
)


@dataclass(frozen=True)
class Kind:
    """A package.

    Attributes:
        name: of the package; its folder under /usr/lib is called so.
        extra: what is installed beyond the base.
        program: in /usr/bin, and the module that has its `main`.
        folder: of control file and scripts.
        example: of settings, and where it goes; None without.
    """

    name: str
    extra: str
    program: str
    module: str
    folder: Path
    example: tuple[str, str] | None

    @property
    def home(self) -> str:
        return f"usr/lib/{self.name}"

    @property
    def site(self) -> str:
        return f"{self.home}/lib/python{PYTHON}/site-packages"


KINDS = {
    "device": Kind(
        "edgejoule",
        "",
        "edge-runtime",
        "edge_runtime.cli",
        HERE,
        ("device.toml.example", "etc/edgejoule/device.toml.example"),
    ),
    "coordinator": Kind(
        "edgejoule-coordinator", "[coordinator]", "coordinator", "coordinator.cli", HERE / "coordinator", None
    ),
}


class BuildError(Exception):
    """What went wrong, in one line."""


def build(
    arch: str, output: Path, links: Path | None, epoch: int, *, quick: bool, kind: Kind = KINDS["device"]
) -> Path:
    """The package, in ``output``.

    Args:
        quick: hardly compressed.
        links: a folder with all wheels that are needed; no index is asked then.
        epoch: seconds since 1970; the time of every file in it.

    Raises:
        BuildError: it cannot be made, and why.
    """
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="edgejoule-deb-") as name:
        folder = Path(name)
        wheel = _wheel(folder)
        version = wheel.name.split("-")[1]
        tree = folder / "package"
        _install(wheel, arch, tree / kind.site, links, kind.extra)
        _environment(tree, version, arch, kind)
        _documents(tree, version, epoch, kind)
        _control(tree, version, arch, kind)
        _set_modes_and_times(tree, epoch, kind)
        output.mkdir(parents=True, exist_ok=True)
        target = output / f"{kind.name}_{version}_{arch}.deb"
        # With more threads xz cuts into blocks, and their number depends on the machine.
        packed = ("-Zgzip", "-z1") if quick else ("-Zxz", "-z3", "--threads-max=1")
        _run("dpkg-deb", "--root-owner-group", *packed, "--build", str(tree), str(target))
        return target


def _wheel(folder: Path) -> Path:
    # setuptools builds where the sources are; a copy keeps the checkout as it was.
    source = folder / "source"
    source.mkdir()
    for one in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / one, source)
    for one in ("protos", "edge_runtime", "coordinator", "firmware_tools"):
        shutil.copytree(ROOT / one, source / one, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("edgejoule-*.whl"))


def _install(wheel: Path, arch: str, site: Path, links: Path | None, extra: str) -> None:
    machine = MACHINES[arch]
    tags = [*(f"manylinux_{one}_{machine}" for one in _GLIBC), f"manylinux2014_{machine}"]
    words = ["--target", str(site), "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    words += ["--no-compile", *(word for tag in tags for word in ("--platform", tag))]
    _pip("install", *words, *(["--no-index", "--find-links", str(links)] if links else []), f"{wheel}{extra}")
    for pattern in _LEFT_OUT:
        for one in list(site.glob(pattern)):
            shutil.rmtree(one) if one.is_dir() else one.unlink()


def _environment(tree: Path, version: str, arch: str, kind: Kind) -> None:
    """What makes a virtual environment of it (PEP 405), and the program."""
    home = tree / kind.home
    (home / "bin").mkdir()
    (home / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")
    (home / "managed-by").write_text(f"sudo apt-get install ./{kind.name}_VERSION_{arch}.deb\n")
    for name in ("python", "python3", f"python{PYTHON}"):
        # Links within /usr are relative: Debian Policy 10.5.
        (home / "bin" / name).symlink_to(f"../../../bin/python{PYTHON}")
    program = home / "bin" / kind.program
    program.write_text(
        f"#!/{kind.home}/bin/python -I\nimport sys\n\nfrom {kind.module} import main\n\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n'
    )
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin" / kind.program).symlink_to(f"../lib/{kind.name}/bin/{kind.program}")


def _documents(tree: Path, version: str, epoch: int, kind: Kind) -> None:
    if kind.example is not None:
        source, target = kind.example
        (tree / target).parent.mkdir(parents=True)
        shutil.copy(HERE / source, tree / target)
    folder = tree / "usr/share/doc" / kind.name
    folder.mkdir(parents=True)
    (folder / "copyright").write_text((HERE / "copyright").read_text().replace("usr/lib/edgejoule", kind.home))
    # changelog.gz has a form of its own (deb-changelog(5)), which ours is not written in.
    entry = (HERE / "changelog").read_text().replace("@VERSION@", version).replace("edgejoule (", f"{kind.name} (")
    entry = entry.replace("@DATE@", email.utils.format_datetime(datetime.fromtimestamp(epoch, UTC)))
    for name, text in {"changelog.gz": entry, "CHANGELOG.md.gz": (ROOT / "CHANGELOG.md").read_text()}.items():
        (folder / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    found = sorted(one.name.removesuffix(".dist-info") for one in (tree / kind.site).glob("*.dist-info"))
    (folder / "wheels.txt").write_text("".join(f"{one}\n" for one in found))


def _control(tree: Path, version: str, arch: str, kind: Kind) -> None:
    folder = tree / "DEBIAN"
    folder.mkdir()
    size_kb = sum(one.lstat().st_size for one in tree.rglob("*") if not one.is_dir()) // 1024
    text = (kind.folder / "control").read_text()
    for name, value in {"VERSION": version, "ARCH": arch, "SIZE": str(size_kb)}.items():
        text = text.replace(f"@{name}@", value)
    (folder / "control").write_text(text)
    config = None if kind.example is None else tree / kind.example[1]
    if kind.example is not None:
        (folder / "conffiles").write_text(f"/{kind.example[1]}\n")
    for name in _SCRIPTS:
        shutil.copy(kind.folder / name, folder / name)
        (folder / name).chmod(0o755)
    sums = [
        f"{hashlib.md5(one.read_bytes()).hexdigest()}  {one.relative_to(tree)}\n"
        for one in sorted(tree.rglob("*"))
        if one.is_file() and not one.is_symlink() and one.parent != folder and one != config
    ]
    (folder / "md5sums").write_text("".join(sums))


def _set_modes_and_times(tree: Path, epoch: int, kind: Kind) -> None:
    programs = [tree / kind.home / "bin" / kind.program, *(tree / "DEBIAN" / name for name in _SCRIPTS)]
    for one in [*tree.rglob("*"), tree]:
        if not one.is_symlink():
            # One program is started. Wheels mark modules and libraries as programs too.
            one.chmod(0o755 if one.is_dir() or one in programs else 0o644)
        os.utime(one, (epoch, epoch), follow_symlinks=False)


def _pip(*words: str) -> None:
    _run(sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", "--no-input", *words[1:])


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not there; install the package dpkg") from error
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if re.match(r"ERROR|.*error", line)]
        raise BuildError(f"{' '.join(words[:4])}: {(said or [f'exit code {done.returncode}'])[-1]}")


def _epoch() -> int:
    """SOURCE_DATE_EPOCH, else the time of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    told = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False, cwd=ROOT)
    return int(told.stdout) if told.returncode == 0 and told.stdout.strip() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Makes the Debian packages.")
    parser.add_argument("--package", choices=sorted(KINDS), default="device", help="which one (default device)")
    parser.add_argument("--arch", choices=sorted(MACHINES), default="arm64", help="of the machine (default arm64)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=ROOT / "dist", help="gets the package (dist/)")
    parser.add_argument("--find-links", metavar="DIR", type=Path, help="take every wheel from here, and ask no index")
    parser.add_argument("--quick", action="store_true", help="hardly compressed: sooner made, and larger")
    given = parser.parse_args(arguments)
    links = given.find_links.absolute() if given.find_links else None
    try:
        made = build(given.arch, given.output.absolute(), links, _epoch(), quick=given.quick, kind=KINDS[given.package])
    except BuildError as error:
        print(f"build_deb: {error}", file=sys.stderr)
        return 1
    print(f"{made} {made.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
