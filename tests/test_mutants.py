"""The program that changes the code to see whether a test notices: what it changes, and whom it asks."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutants"))
import draw
from draw import Durations, Sessions, Trees, all_sites, drawn, equivalents
from imports import Imports
from sites import sites

ROOT = Path(__file__).resolve().parents[1]
SOURCE = '''"""A module."""
LIMIT = 3


def share(part: float, whole: float) -> float:
    """Of the whole, „at most“ one."""
    if whole <= 0:
        raise ValueError(f"{whole + 1} is no whole")
    total = 0.0
    total += min(part / whole, 1.0)
    log(total)
    return -total if part < 0 and LIMIT else total
'''


def changes(source: str = SOURCE) -> dict[str, str]:
    return {f"{site.before} -> {site.after}": site.applied(source) for site in sites("protos/some.py", source)}


def test_each_change_is_one_slip_and_the_rest_stays_as_it_was() -> None:
    made = changes()
    for wanted in (
        "3 -> 4", "whole <= 0 -> whole < 0", "0 -> 1", "0.0 -> 1.0", "total += min(part / whole, 1.0) -> pass",
        "min(part / whole, 1.0) -> max(part / whole, 1.0)", "part / whole -> part * whole", "1.0 -> 2.0",
        "log(total) -> pass", "-total -> total", "part < 0 -> part <= 0", "part < 0 and LIMIT -> part < 0 or LIMIT",
    ):  # fmt: skip
        assert wanted in made, wanted
    assert "+ 1} is no whole" in "".join(made.values()), "what an error says is not changed"
    assert not any("whole - 1" in text for text in made)
    for text in made.values():
        ast.parse(text)
        assert sum(a != b for a, b in zip(text.splitlines(), SOURCE.splitlines(), strict=True)) == 1


def test_every_change_of_the_rooms_is_a_program_and_has_a_name_of_its_own_in_its_place() -> None:
    found = all_sites(rooms=("protos/update", "coordinator/budgets"))
    assert len(found) > 1000
    for site in found[::23]:
        source = (ROOT / site.path).read_text()
        ast.parse(site.applied(source))
        assert site.first <= site.line


def test_a_sample_is_the_same_for_the_same_seed_and_a_longer_one_begins_alike() -> None:
    found = sites("protos/some.py", SOURCE)
    assert drawn(found, 5, 1) == drawn(found, 9, 1)[:5]
    assert drawn(found, 9, 1) != drawn(found, 9, 2)


def test_those_who_import_a_module_are_asked_first() -> None:
    imports = Imports(ROOT, ("tests/coordinator/budgets", "tests/protos"))
    near = {test: distance for distance, test in imports.tests("coordinator/budgets/codec_error.py")}
    assert near["tests/coordinator/budgets/test_codec_errors.py"] == -1, "it is called like it, too"
    assert near["tests/coordinator/budgets/test_ledger_of_joules.py"] > 0
    assert list(near.values()) == sorted(near.values())
    assert "tests/protos/test_normaliser.py" not in near


def test_tests_that_are_new_in_a_file_are_chosen_first_and_the_quick_ones_of_it_before_the_slow(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_slow(): pass\ndef test_quick(): pass\ndef test_new(): pass\n")
    kept = tmp_path / "durations.json"
    kept.write_text('{"test_some.py::test_slow": 3.0, "test_some.py::test_quick[1]": 0.1}')
    durations = Durations(kept, tmp_path)
    names = [one.partition("::")[2] for one in durations.chosen([(0, "test_some.py"), (1, "test_never.py")], 60.0)]
    assert names == ["test_new", "test_quick[1]", "test_slow", ""]
    assert durations.chosen([(0, "test_some.py")], 5.5) == ["test_some.py::test_new", "test_some.py::test_quick[1]"]


def test_a_change_that_a_test_notices_is_killed_and_one_that_none_does_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "root"
    (root / "protos").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "protos/some.py").write_text("def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n")
    (root / "tests/test_some.py").write_text(
        "from protos.some import double, half\n\ndef test_double():\n    assert double(3) == 6\n\n"
        "def test_half():\n    half(2)\n\ndef test_broken():\n    assert False\n\n"
        "import pytest\n\n@pytest.mark.parametrize('whole', [4, 6])\n"
        "def test_halves(whole):\n    assert half(whole) < 4\n"
    )
    monkeypatch.setattr(draw, "copy_tree", lambda to: __import__("shutil").copytree(root, to))
    monkeypatch.setattr(draw, "MODELS", ("tests/test_some.py::test_half",))
    request.addfinalizer(Sessions.close)
    trees = Trees(tmp_path, 1, Durations(tmp_path / "durations.json"))
    source = (root / "protos/some.py").read_text()
    by_name = {site.before + site.after: site for site in sites("protos/some.py", source)}
    tests = [f"tests/test_some.py::test_{text}" for text in ("gone", "broken", "half", "double")]
    killed = trees.judge(by_name["2 * x2 / x"], tests, 30)
    assert (killed.outcome, killed.by) == ("killed", "tests/test_some.py::test_double"), "not by one that always fails"
    assert trees.judge(by_name["x / 2x * 2"], tests, 30).outcome == "survived"
    # Parameters that were renamed since they were timed: those of now are run, and it ends.
    renamed = [f"tests/test_some.py::test_halves[{text}]" for text in ("whole 4", "whole 6")]
    found = trees.judge(by_name["x / 2x * 2"], [*renamed, "tests/test_some.py::test_gone[1]"], 30)
    assert (found.outcome, found.by) == ("killed", "tests/test_some.py::test_halves[4]")


def test_a_draw_that_was_ended_goes_on_with_what_is_not_judged_as_long_as_the_tree_is_the_same(tmp_path: Path) -> None:
    for name in ("tests/mutants", "tests/kept_models.py", "protos/__init__.py", "protos/atomic.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "protos/some.py").write_text("def double(x):\n    return (x + x) * 1 + 0 * x - 0\n")
    tests = tmp_path / "tests/protos/test_some.py"
    tests.parent.mkdir()
    # The last of the changes, whichever it is, waits for the file that lets it go on.
    tests.write_text(
        "import os, time\nfrom protos.some import double\n\ndef test_double():\n"
        "    judged = len(os.listdir(os.environ['SEEN']))\n    open(f\"{os.environ['SEEN']}/{judged}\", 'w').close()\n"
        "    while judged == 2 and not os.path.exists(os.environ['SEEN'] + '.go'):\n        time.sleep(0.05)\n"
        "    assert double(3) == 6\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    out, seen = tmp_path / "build/out.json", tmp_path / "build/seen"
    seen.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("build/\n")
    command = [
        sys.executable, str(tmp_path / "tests/mutants/draw.py"), "--room", "protos/some.py", "--workers", "1",
        "--then-s", "0", "--resume", "--json", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "SEEN": str(seen), "XDG_CACHE_HOME": str(tmp_path / "build"), "PYTHONPATH": ""}

    def rows() -> list[dict[str, str]]:
        return list(json.loads(out.read_text())["changes"]) if out.exists() else []

    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as ended:
        limit_s = time.monotonic() + 300
        while len(list(seen.iterdir())) < 3 and time.monotonic() < limit_s:
            time.sleep(0.05)
        ended.send_signal(signal.SIGTERM)
        told = ended.communicate(timeout=300)[0]
    assert ended.returncode == 0
    assert "interrupted: changes that were being judged are left out, --resume goes on" in told
    before = rows()
    assert 0 < len(before) < 8
    (tmp_path / "build/seen.go").touch()
    words = [*command, "--number", "8"]
    told = subprocess.run(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    ).stdout
    assert f"{len(before)} of 8 were judged before" in told
    assert rows()[: len(before)] == before, "nothing is judged twice"
    assert len(rows()) == 8


def test_verdicts_go_on_for_the_same_tree_alone_and_what_was_undecided_is_judged_again(tmp_path: Path) -> None:
    found = sites("protos/some.py", SOURCE)[:3]
    outcomes = ("killed", "survived", "undecided")
    rows = [
        {key: getattr(site, key) for key in ("line", *draw.NAMED)} | {"outcome": outcome, "by": "", "others_too": False}
        for site, outcome in zip(found, outcomes, strict=True)
    ]
    path = tmp_path / "out.json"
    assert draw.kept_verdicts(path, found, "this") == {}
    path.write_text(json.dumps({"tree": "this", "changes": rows}))
    kept = draw.kept_verdicts(path, found, "this")
    assert [(one.site, one.outcome, one.is_open) for one in kept.values()] == [
        (found[0], "killed", False), (found[1], "survived", True)
    ]  # fmt: skip
    assert draw.kept_verdicts(path, found, "another") == {}


def test_what_is_called_equivalent_is_in_the_code_and_has_a_reason() -> None:
    names = {site.name for site in all_sites()}
    for name, reason in equivalents().items():
        assert name in names, f"{name} is not there any more"
        assert reason, name
