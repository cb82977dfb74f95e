"""What dpkg on the emulated machine believes to be installed: the packages that were only unpacked.

So a package that is installed there later finds what it depends on, by name and version. Their own scripts have not
run; the machine's room writes what they would have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arm_debian import run


def record(packages: Sequence[Path], root: Path) -> None:
    """Write dpkg's database below ``root``, in its format 1: one list of files each, and the status of all.

    Raises:
        Unavailable: a damaged package, or no dpkg-deb here.
    """
    folder = root / "var/lib/dpkg"
    (folder / "info").mkdir(parents=True, exist_ok=True)
    (folder / "updates").mkdir(exist_ok=True)
    (folder / "info/format").write_text("1\n")
    states = []
    for package in packages:
        control = run(["dpkg-deb", "--field", package], doing="reading a package").rstrip()
        fields = dict(line.split(": ", 1) for line in control.splitlines() if ": " in line and line[0] != " ")
        first, _, others = control.partition("\n")
        states.append(f"{first}\nStatus: install ok installed\n{others}\n")
        shared = fields.get("Multi-Arch") == "same"
        name = f"{fields['Package']}:{fields['Architecture']}" if shared else fields["Package"]
        (folder / f"info/{name}.list").write_text("".join(f"{path}\n" for path in _files(package)))
    (folder / "status").write_text("\n".join(states))


def _files(package: Path) -> list[str]:
    """Absolute paths, the root as ``/.``, which is how dpkg writes them."""
    # The sixth word of a line is the path; " -> " follows it for links, " link to " for further names of a file.
    lines = run(["dpkg-deb", "--contents", package], doing="reading a package").splitlines()
    paths = [line.split(None, 5)[5].partition(" -> ")[0].partition(" link to ")[0] for line in lines]
    return ["/" + path.removeprefix("./").rstrip("/") if path != "./" else "/." for path in paths]
