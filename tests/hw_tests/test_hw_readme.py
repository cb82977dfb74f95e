"""The benches' README against the code: options, markers, features, fixtures, and every key of the environment file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hw_tests.bench.features import FEATURES
from hw_tests.bench.tolerances import TOLERANCES
from hw_tests.environment.keys import OURS, REQUIRED, SECTIONS
from hw_tests.plugin import fixtures, report
from hw_tests.plugin.options import MARKERS, OPTIONS
from protos.errors import ConfigError

README = Path(__file__).resolve().parents[2] / "hw_tests" / "README.md"


def shown(default: object) -> str:
    if default is REQUIRED:
        return "must be given"
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, int | float) else str(default)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_there_with_its_default_and_meaning(section):
    rows = re.findall(r"^\| `.*$", _below(section), re.MULTILINE)
    wanted = [
        f"| `{key}` | {shown(each_key.default)} | {each_key.meaning} |".replace("|  |", "| |")
        for key, each_key in SECTIONS[section].items()
    ]
    assert rows[: len(wanted)] == wanted


def _below(section: str) -> str:
    """What stands below the heading of a section."""
    heading = f"### `{OURS}.{section}`" if section else f"### `{OURS}`"
    _, _, rest = README.read_text().partition(f"{heading}\n")
    assert rest, heading
    return re.split(r"^#{2,3} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def test_options_features_and_markers_are_there_as_the_code_says_them():
    text = README.read_text()
    for name, how in OPTIONS.items():
        word = f"{name} {how['metavar']}" if "metavar" in how else name
        assert f"| `{word}` | {how['help']} |" in text
    for name, meaning in {**FEATURES, **MARKERS}.items():
        assert f"| `{name}` | {meaning} |" in text
    assert set(TOLERANCES) == set(SECTIONS["tolerances"])


def test_every_fixture_that_is_named_exists():
    rows = re.findall(
        r"^\| `(\w+)` \|", README.read_text().partition("| Fixture |")[2].partition("| Marker |")[0], re.M
    )
    known = {*vars(fixtures), *vars(report), "board"}
    assert len(rows) == 10
    assert not set(rows) - known


def test_every_kind_of_load_is_there():
    rows = re.findall(r"^\| `(\w+)` \|", README.read_text().partition("| Kind |")[2].partition("###")[0], re.M)
    assert rows == ["fixed", "command", "manual", "simulated"]
    for name in rows:
        assert SECTIONS["load"]["kind"].kind(name, "load.kind") == name
    with pytest.raises(ConfigError):
        SECTIONS["load"]["kind"].kind("magic", "load.kind")
