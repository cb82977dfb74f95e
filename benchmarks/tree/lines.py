"""How large the product is: files, lines and folders of each package, generated code left out, at a commit or as it is.

    .venv/bin/python benchmarks/tree/lines.py [--at COMMIT ...] [--json OUT]

A row for each commit; "now" is the last one of this clone, without what is not committed.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edge_runtime", "coordinator", "protos", "firmware_tools", "edgejoule")


def counted(commit: str) -> dict[str, int]:
    """Files, lines and folders of Python in the packages that one commit has, and files of the fullest folder.

    Raises:
        subprocess.CalledProcessError: git knows no such commit.
    """
    git = ["git", "-C", str(ROOT)]
    listed = subprocess.run([*git, "ls-tree", "--name-only", commit], check=True, capture_output=True, text=True).stdout
    there = [package for package in PACKAGES if package in listed.splitlines()]
    tree = [*git, "archive", "--format=tar", commit, "--", *there]
    packed = subprocess.run(tree, check=True, capture_output=True).stdout
    lines, folders = 0, Counter[str]()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if not member.name.endswith(".py") or "/v1/" in member.name:
                continue
            file = archive.extractfile(member)
            assert file is not None
            text = file.read()
            lines += text.count(b"\n")
            if not member.name.endswith("__init__.py"):
                folders[member.name.rpartition("/")[0]] += 1
    return {"files": folders.total(), "lines": lines, "folders": len(folders), "fullest": max(folders.values())}


def main() -> int:
    """The command: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", action="append", metavar="COMMIT", help="repeatable; HEAD if not given")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts there")
    given = parser.parse_args()
    found = {commit: counted(commit) for commit in given.at or ["HEAD"]}
    print("| Commit | Files | Lines | Folders | Files in the fullest |\n|---|---:|---:|---:|---:|")
    for commit, row in found.items():
        print(f"| {commit} | {row['files']} | {row['lines']} | {row['folders']} | {row['fullest']} |")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
