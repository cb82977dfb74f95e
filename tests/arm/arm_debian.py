"""Debian packages of any architecture: fetched by an apt with folders of its own, unpacked, never installed.

Nothing of this machine's package system is touched: sources, state and cache of apt are below the given folder. The
archive's signatures are checked with Debian's keyring.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ARCHIVE, _SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
# What unpacking finds merged, as on every Debian since 12: packages still carry files below /bin, /lib and /sbin.
_MERGED = ("bin", "sbin", "lib")


class Unavailable(Exception):
    """Something from outside is missing; the text says what, and what to install."""


def missing_programs(*names: str) -> list[str]:
    """Those that are not on the path."""
    return [name for name in names if shutil.which(name) is None]


def run(command: Sequence[str | Path], *, doing: str, cwd: Path | None = None) -> str:
    """Its stdout.

    Raises:
        Unavailable: it cannot be started or fails.
    """
    try:
        done = subprocess.run([str(one) for one in command], capture_output=True, text=True, cwd=cwd, check=False)
    except OSError as error:
        raise Unavailable(f"{doing}: {command[0]} cannot be started ({error.strerror})") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        # apt's first error has the cause, its last only sums up; other programs end with theirs.
        cause = next((line for line in said if line.startswith("E: ")), said[-1])
        raise Unavailable(f"{doing}: {cause.strip()[:300]}")
    return done.stdout


@dataclass(frozen=True)
class Archive:
    """One architecture of Debian 12, seen from a folder that serves one list of packages.

    Attributes:
        folder: of apt's lists and packages.
        architecture: Debian's name, such as ``arm64``.
        backports: newer versions of bookworm-backports win.
        security: with the archive of security updates. Its mirrors are at times behind for small architectures, and
            what is emulated here faces no network.
    """

    folder: Path
    architecture: str
    backports: bool = False
    security: bool = True

    def fetch(self, packages: Sequence[str]) -> list[Path]:
        """The packages and all that they depend on, as .deb files.

        Raises:
            Unavailable: no apt, no network, or no such package.
        """
        self._prepare()
        self._apt_get(["install", "--yes", "--download-only", "--no-install-recommends", *packages])
        # The folder serves one list of packages, so all that lies in it is the answer.
        return sorted((self.folder / "cache/archives").glob("*.deb"))

    def fetch_alone(self, package: str) -> Path:
        """One package without what it depends on.

        Raises:
            Unavailable: as :meth:`fetch`.
        """
        self._prepare()
        place = self.folder / "alone"
        place.mkdir(exist_ok=True)
        self._apt_get(["download", package], cwd=place)
        return max(place.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)

    def depends(self, package: str) -> list[str]:
        """The names that a package depends on."""
        self._prepare()
        said = run(["apt-cache", *self._options(), "depends", package], doing="asking apt")
        return [line.split()[-1] for line in said.splitlines() if line.strip().startswith("Depends:")]

    def _apt_get(self, arguments: list[str], *, cwd: Path | None = None) -> str:
        doing = f"fetching {self.architecture} packages of Debian 12"
        return run(["apt-get", "-qq", *self._options(), *arguments], doing=doing, cwd=cwd)

    def _options(self) -> list[str]:
        folder = self.folder.resolve()
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "state/status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-",
            "Dir::Etc::preferences": "/dev/null",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Default-Release": "bookworm-backports" if self.backports else "",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]

    def _prepare(self) -> None:
        if (self.folder / "state/lists-are-here").exists():
            return
        if absent := missing_programs("apt-get", "dpkg-deb"):
            raise Unavailable(f"needs {', '.join(absent)}, so a Debian or Ubuntu")
        if not KEYRING.exists():
            raise Unavailable(f"{KEYRING} is not there: apt-get install debian-archive-keyring")
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "state/status").touch()
        suites = [(_ARCHIVE, "bookworm")]
        if self.security:
            suites.append((_SECURITY, "bookworm-security"))
        if self.backports:
            suites.append((_ARCHIVE, "bookworm-backports"))
        lines = [f"deb [signed-by={KEYRING}] {url} {suite} main\n" for url, suite in suites]
        (self.folder / "sources.list").write_text("".join(lines))
        self._apt_get(["update", "--error-on=any"])
        (self.folder / "state/lists-are-here").touch()


def unpack(packages: Sequence[Path], root: Path) -> None:
    """The files of the packages below ``root``, with /bin, /lib and /sbin merged into /usr; no script is run.

    Raises:
        Unavailable: a damaged package.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        # dpkg-deb --extract would replace those links by folders.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as content:
            done = subprocess.run(
                ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)],
                stdin=content.stdout,
                capture_output=True,
                check=False,
            )
        if done.returncode or content.returncode:
            raise Unavailable(f"{package.name} cannot be unpacked: {done.stderr.decode(errors='replace')[-200:]}")
