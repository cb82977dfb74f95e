"""What the three command lines have in common: version, examples, completion, man pages, and a schema in their JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import coordinator.cli
import edge_runtime.cli
import firmware_tools.cli
from protos.commands.completion import script
from protos.commands.described import JSON_KINDS
from protos.commands.program import children, version, walk

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "coordinator": (coordinator.cli.parser, coordinator.cli.main),
    "edge-runtime": (edge_runtime.cli.parser, edge_runtime.cli.main),
    "firmware-tools": (firmware_tools.cli._parser, firmware_tools.cli.main),
}
programs = pytest.mark.parametrize("name", PROGRAMS)


@programs
def test_every_program_tells_its_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[name][1](["--version"])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out == f"{name} {version()}\n"


@programs
def test_a_program_describes_all_that_it_takes_and_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[name][1](["--schema"])
    assert ended.value.code in (0, None)
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["program"]) == ("edgejoule.commands/1", name)
    rows = {row["command"]: row for row in told["commands"]}
    assert set(rows) == {" ".join((name, *path)) for path, _ in walk(PROGRAMS[name][0]())}
    assert {code["code"] for code in told["exit_codes"]} >= {0, 2, 3, 5, 16, 130, 141, 143}
    prints = {words for words, row in rows.items() if any("--json" in one["names"] for one in row["arguments"])}
    # Its lines are journalctl's.
    assert {words for words in prints if not rows[words]["json"]} <= {"edge-runtime service logs"}


def test_one_command_is_described_alone(capsys: pytest.CaptureFixture[str]) -> None:
    # What it would ask for is not asked for.
    with pytest.raises(SystemExit) as ended:
        coordinator.cli.main(["export", "--schema"])
    assert ended.value.code in (0, None)
    (row,) = json.loads(capsys.readouterr().out)["commands"]
    assert (row["command"], row["json"]) == ("coordinator export", ["edgejoule.export/1"])
    output = next(one for one in row["arguments"] if "-o" in one["names"])
    assert output["value"] is not None


def test_the_kinds_of_json_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    table = page[page.index("| Command | Kind |") : page.index("## Keys that mean")]
    words = set(re.findall(r"`([a-z][a-z_-]*)`", table))
    assert {kind for kinds in JSON_KINDS.values() for kind in kinds} <= words
    known = {" ".join((name, *path)) for name in PROGRAMS for path, _ in walk(PROGRAMS[name][0]())}
    assert set(JSON_KINDS) <= known


@programs
def test_the_help_of_every_verb_ends_with_an_example_of_it(name: str) -> None:
    bare = [
        " ".join(path)
        for path, parser in walk(PROGRAMS[name][0]())
        if not children(parser) and f"{name} {' '.join(path)}" not in (parser.epilog or "")
    ]
    assert bare == []


def completed(top: argparse.ArgumentParser, *words: str) -> list[str]:
    """What bash offers for the last word."""
    array = " ".join(f"'{word}'" for word in (top.prog, *words))
    function = f"_{top.prog.replace('-', '_')}_completion"
    text = f"{script(top, 'bash')}\nCOMP_WORDS=({array})\nCOMP_CWORD={len(words)}\n{function}\n"
    text += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "--norc", "-u", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@programs
def test_bash_completes_every_verb_and_every_option(name: str) -> None:
    top = PROGRAMS[name][0]()
    for path, parser in walk(top):
        verbs = children(parser)
        if verbs and not (name == "coordinator" and path == ("devices",)):
            assert completed(top, *path, "") == list(verbs), path
        longs = [
            option_string
            for action in parser._actions
            for option_string in action.option_strings
            if option_string.startswith("--")
        ]
        hidden = {
            option_string
            for action in parser._actions
            if action.help == argparse.SUPPRESS
            for option_string in action.option_strings
        }
        assert completed(top, *path, "--") == [text for text in longs if text not in hidden], path


def test_bash_completes_choices_files_and_nothing_where_nobody_can_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a plan.toml", "b.toml"):
        (tmp_path / name).touch()
    top = PROGRAMS["coordinator"][0]()
    assert completed(top, "demo", "--sensor", "b") == ["bridge"]
    assert completed(top, "demo", "--sensor", "=", "b") == ["bridge"]
    assert completed(top, "demo", "--sensor", "=") == completed(top, "demo", "--sensor", "")
    assert sorted(completed(top, "start", "")) == ["a plan.toml", "b.toml"]
    assert completed(top, "start", "--coordinator", "") == []
    # An option between verbs and words changes nothing.
    assert completed(top, "start", "--wait", "b") == ["b.toml"]
    assert completed(top, "sta") == ["start", "status"]
    assert completed(PROGRAMS["firmware-tools"][0](), "bridge", "sel") == ["selftest"]


@programs
def test_the_command_prints_the_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAMS[name][1](["completion", "bash"]) == 0
    told = capsys.readouterr().out
    assert told == script(PROGRAMS[name][0](), "bash")
    assert PROGRAMS[name][1](["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Man pages by name, as `make man` makes them."""
    folder = tmp_path_factory.mktemp("man")
    command = [sys.executable, str(ROOT / "packaging/man_pages.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return {path.name: path for path in folder.iterdir()}


def test_every_verb_has_a_man_page_with_its_options(pages: Mapping[str, Path]) -> None:
    expected = set()
    for name, (make, _) in PROGRAMS.items():
        for path, parser in walk(make()):
            expected.add(page := f"{'-'.join((name, *path))}.1")
            text = pages[page].read_text().replace("\\-", "-")
            for action in parser._actions:
                if action.help != argparse.SUPPRESS:
                    assert [
                        option_string
                        for option_string in action.option_strings
                        if f"\\fB{option_string}\\fR" not in text
                    ] == [], page
            assert all(f".BR {name}-{'-'.join((*path, verb))} (1)" in text for verb in children(parser))
            assert ".SH EXIT STATUS" in text
    assert set(pages) == expected


def test_groff_has_nothing_to_say_against_them(pages: Mapping[str, Path]) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff: apt install groff-base")
    for path in pages.values():
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", str(path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), path.name
    command = ["groff", "-man", "-Tascii", "-P-cbou", str(pages["coordinator-start.1"])]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "coordinator start plans/fedavg.toml --wait" in shown
    assert "--timeout SECONDS" in shown


def test_every_json_that_is_printed_has_a_schema_that_the_page_names() -> None:
    page = (ROOT / "docs/json.md").read_text()
    named = set(re.findall(r"`([a-z-]+)`", page.partition("## Keys")[0]))
    used: set[str] = set()
    bare = []
    for package in ("edge_runtime", "coordinator", "firmware_tools"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            used |= set(re.findall(r'\bdocument\("([a-z-]+)"', text))
            used |= set(re.findall(r'"edgejoule\.([a-z-]+)/\d+"', text)) & named
            for line in text.splitlines():
                if re.search(r"print\((json\.dumps|as_json\.dump)\(", line) and not re.search(
                    r'document\(|"schema"', line
                ):
                    bare.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert used <= named
    assert {kind for kind in named if re.fullmatch(r"[a-z]+(-[a-z]+)+", kind) or kind in ("run", "runs")} <= used
    # These print what has been given its schema before, or what a child process tells its parent.
    allowed = (
        "report",
        "as_json.run(",
        "as_json.export(",
        "runs if",
        "values)",
        "values, indent",
        "text)",
        "certificate, indent",
        "shown, indent",
    )
    assert [line for line in bare if not any(word in line for word in allowed)] == []


def test_completion_imports_nothing_heavy() -> None:
    code = "import sys, edge_runtime.cli; edge_runtime.cli.main(['completion', 'bash'])\n"
    code += "heavy = {'grpc', 'google.protobuf', 'ai_edge_litert', 'importlib.metadata'}\n"
    code += "print(*(heavy & set(sys.modules)), file=sys.stderr)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stderr.split() == []


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_fits_the_terminal_but_for_examples(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    make, _ = PROGRAMS[name]
    for path, parser in walk(make()):
        said = parser.format_help().partition("\nexample")[0]
        wide = [line for line in said.splitlines() if len(line) > columns and not line.startswith("  ")]
        assert wide == [], path
