"""Pages of the site (mkdocs.yml) that are kept outside ``docs/``, and links between them.

The texts of the repository link to each other as files, so that they read well where the source is read. On the site,
READMEs of other folders become pages of their own; a link to a file that is no page, such as a plan, keeps its words
and loses its link.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "index.md": "README.md",
    "bridge.md": "firmware_tools/bridge/README.md",
    "bridge-firmware.md": "firmware_tools/bridge/firmware/README.md",
    "bridge-machine.md": "firmware_tools/bridge/machine/README.md",
    "benches.md": "hw_tests/README.md",
    "examples.md": "examples/README.md",
    "examples-plugin.md": "examples/plugin/README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security-reports.md": "SECURITY.md",
}
"""Name on the site: file of the repository."""
MODULES = (
    "edge_runtime.api",
    "edge_runtime.client",
    "edge_runtime.extending",
    "coordinator.api",
    "coordinator.extending",
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^\s*(```|~~~)")


def on_files(files: Files, config: Any) -> Files:
    """Add what is not in ``docs/``."""
    made = {name: (ROOT / source).read_text("utf-8") for name, source in OUTSIDE.items()}
    made["decisions/index.md"] = _decisions()
    made["reference.md"] = "# Reference\n\n" + "\n".join(f"::: {name}\n" for name in MODULES)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Point links at pages."""
    name = page.file.src_uri
    home = PurePosixPath(OUTSIDE.get(name, f"docs/{name}")).parent
    there = {f"docs/{one.src_uri}": one.src_uri for one in files} | {source: one for one, source in OUTSIDE.items()}
    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= bool(_FENCE.match(line))
        lines.append(line if fenced else _LINK.sub(lambda found: _pointed(found, home, name, there), line))
    return "\n".join(lines)


def _pointed(found: re.Match[str], home: PurePosixPath, name: str, there: dict[str, str]) -> str:
    picture, words, target, anchor = found[1], found[2], found[3], found[4] or ""
    if not target or "://" in target or target.startswith("mailto:"):
        return found[0]
    path = os.path.normpath(home / target)
    if path == "docs/decisions":
        path = "docs/decisions/index.md"
    page = there.get(path)
    if page is None:
        if not (ROOT / path).exists():
            # A warning of mkdocs, and so an error.
            return found[0]
        return words
    return f"{picture}[{words}]({os.path.relpath(page, PurePosixPath(name).parent)}{anchor})"


def _decisions() -> str:
    rows = ["# Decisions", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        rows.append(f"* [{path.read_text('utf-8').splitlines()[0].removeprefix('# ')}]({path.name})")
    return "\n".join(rows) + "\n"
