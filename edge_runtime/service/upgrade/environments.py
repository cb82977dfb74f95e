"""Environments that the service can run from, and a new one made beside the old.

Rules kept here:

* An environment of ours is made where it stays, since its programs name their interpreter by its path. It counts once
  the file ``complete`` is in it, which is written last and removed first.
* Nothing outside the folder of versions is ever removed: an environment that somebody made by hand is theirs.
* The new one gets what the old one had beside the base install: the runtime of armv7, the I2C bus, pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.service.upgrade.record import make_open
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import DataError, EdgejouleError, StoreError, UsageError
from protos.trust.signed import WHEEL

HOME = Path("usr/local/lib/edgejoule")
COMPLETE = "complete"
MANAGED = "managed-by"
"""In the environment of a package manager, with the command that upgrades it."""
# Distributions that an extra of the base install brings.
_EXTRAS = {"tflite_runtime": "tflite-runtime", "smbus2": "i2c", "pillow": "images"}
_ROOM = 1.2
_NOT_CARRIED = frozenset({"edgejoule", "pip", "setuptools", "wheel"})


@dataclass(frozen=True)
class Environment:
    """A folder with ``bin/edge-runtime`` in it."""

    path: Path

    @property
    def real(self) -> Environment:
        """The one whose program it is, when this one has only a link to it."""
        return Environment(self.program.resolve().parent.parent)

    @property
    def program(self) -> Path:
        return self.path / "bin" / "edge-runtime"

    @property
    def managed_by(self) -> str | None:
        """The command that upgrades it, when it belongs to a package manager."""
        with contextlib.suppress(OSError):
            return (self.path / MANAGED).read_text().strip()
        return None

    @property
    def version(self) -> str:
        """Of edgejoule in it; ``unknown`` when its files do not say."""
        return next(
            (distribution[1] for distribution in self._distributions() if distribution[0] == "edgejoule"), "unknown"
        )

    @property
    def extras(self) -> tuple[str, ...]:
        """Extras of the base install that it has."""
        names = {name for name, _ in self._distributions()}
        return tuple(extra for name, extra in _EXTRAS.items() if name in names)

    def _distributions(self) -> Iterator[tuple[str, str]]:
        for folder in sorted(self.path.glob("lib/python3*/site-packages/*.dist-info")):
            name, _, version = folder.name.removesuffix(".dist-info").partition("-")
            yield re.sub(r"[-_.]+", "_", name).lower(), version


class Versions:
    """The folder of environments of ours.

    Args:
        home: the folder that holds it.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "versions"

    def at(self, name: str) -> Environment:
        """The one with that name, whether it is there or not."""
        return Environment(self.folder / name)

    def name_of(self, environment: Environment) -> str:
        """The name of one of ours, else its version and place."""
        if environment.path.parent == self.folder:
            return environment.path.name
        return f"{environment.version} in {environment.path}"

    def complete(self, name: str) -> bool:
        return (self.folder / name / COMPLETE).exists()

    def build(
        self, wheel: Path, extras: Iterable[str], links: Path | None, *, like: Environment | None = None
    ) -> Environment:
        """Make the environment of a wheel, or find it made.

        Args:
            links: folder that holds all that is needed; nothing is asked of any index then.
            like: the environment whose other packages it gets, as they are; no index is asked for more.

        Raises:
            StoreError: no room, or it cannot be written.
            EdgejouleError: it cannot be installed, and why.
        """
        name = name_of(wheel)
        made = self.at(name)
        if self.complete(name):
            return made
        self.remove(name)
        with storing(self.folder):
            make_open(self.folder)
        wanted = f"[{','.join(extras)}]" if tuple(extras) else ""
        source = ["--no-index", "--find-links", str(links)] if links else ["--no-index"] if like else []
        _run([sys.executable, "-m", "venv", str(made.path)], fix="install python3-venv")
        if like is not None:
            _carry(like, made)
        pip = [str(made.path / "bin/python"), "-m", "pip", "install", "--quiet", "--no-input", "--only-binary", ":all:"]
        _run([*pip, *source, f"edgejoule{wanted} @ {wheel.absolute().as_uri()}"], fix="see what pip says")
        # What pip wrote must be on the disk before the file that vouches for it.
        os.sync()
        with storing(made.path), write_whole(made.path / COMPLETE) as file:
            file.write(b"")
        return made

    def remove(self, name: str) -> None:
        """It is gone. Harmless when it was not there."""
        with storing(self.folder / name):
            (self.folder / name / COMPLETE).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder / name)

    def keep(self, paths: Iterable[str]) -> None:
        """All others are gone."""
        kept = {Path(path) for path in paths}
        for folder in sorted(self.folder.glob("*")):
            if folder not in kept:
                self.remove(folder.name)

    def check_room(self, like: Environment) -> None:
        """Raise StoreError when the disk has no room for another environment like that one."""
        if not (like.path / "pyvenv.cfg").exists():
            # Not a virtual environment: what else is in the folder says nothing.
            return
        size = sum(path.lstat().st_size for path in like.path.rglob("*") if not path.is_dir())
        folder = next(parent for parent in (self.folder, *self.folder.parents) if parent.exists())
        free = shutil.disk_usage(folder).free
        if free < _ROOM * size:
            raise StoreError(
                f"{free >> 20} MB are free, and a new version takes {int(_ROOM * size) >> 20} MB",
                where=str(self.folder),
                fix="free some space",
            )


def name_of(wheel: Path) -> str:
    """Version and hash: two builds of one version are two names.

    Raises:
        UsageError: it is no wheel of edgejoule. DataError: it cannot be read.
    """
    found = WHEEL.fullmatch(wheel.name)
    if found is None:
        raise UsageError("is no wheel of edgejoule", where=str(wheel), fix="give edgejoule-VERSION-py3-none-any.whl")
    try:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(wheel)) from error
    return f"{found[1]}-{digest[:8]}"


@contextlib.contextmanager
def wheel_of(version: str | None, wheel: Path | None, links: Path | None) -> Iterator[Path]:
    """The wheel to install: the file, or the one of that version, or of the newest, fetched by pip.

    Raises:
        EdgejouleError: there is none, and why.
    """
    if wheel is not None:
        yield wheel
        return
    with tempfile.TemporaryDirectory(prefix="edgejoule-upgrade-") as folder:
        wanted = f"edgejoule=={version}" if version else "edgejoule"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary"]
        command += [":all:", "--dest", folder, *(["--no-index", "--find-links", str(links)] if links else []), wanted]
        _run(command, fix="give --wheel FILE, or a folder that holds it with --find-links")
        yield next(Path(folder).glob("*.whl"))


def _carry(old: Environment, new: Environment) -> None:
    """Copy every package of an environment but edgejoule and the installers, file by file as their own lists say.

    Raises:
        EdgejouleError: a package has no list, or the environments are of two Pythons. StoreError: no room.
    """
    from importlib.metadata import distributions

    by_hand = "upgrade this board by hand: edge-runtime service upgrade --find-links"
    found = [sorted(environment.path.glob("lib/python3*/site-packages")) for environment in (old, new)]
    if [path.parent.name for path in found[0]] != [path.parent.name for path in found[1]]:
        raise EdgejouleError("has another Python than the new version would have", where=str(old.path), fix=by_hand)
    for source, target in zip(*found, strict=True):
        for distribution in distributions(path=[str(source)]):
            name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"] or "").lower()
            if name in _NOT_CARRIED:
                continue
            if distribution.files is None:
                raise EdgejouleError(f"{name} has no list of its files", where=str(source), fix=by_hand)
            for file in distribution.files:
                # Programs beside the packages name the interpreter of the old environment.
                if ".." in file.parts or file.is_absolute() or not (source / file).is_file():
                    continue
                with storing(target):
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    # With its times, by which Python knows that what it compiled is still of this file.
                    shutil.copy2(source / file, target / file)


def _run(command: Sequence[str], *, fix: str) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("EDGEJOULE_", "PYTHON"))}
    # The service is another user, who must be able to read what root writes here.
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, umask=0o022, stdin=subprocess.DEVNULL,
        env={**environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"},
    )  # fmt: skip
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR:")]
        last = (errors or said or [f"exit code {done.returncode}"])[-1]
        raise EdgejouleError(last.removeprefix("ERROR: ")[:300], where=" ".join(command[1:4]), fix=fix)
