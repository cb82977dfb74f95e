"""The documents against the code: links, paths, commands, options, tables and examples are what they are today."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import pytest

import coordinator.cli
import edge_runtime.cli
import firmware_tools.cli
from coordinator.lab.sweep import sweep_file
from coordinator.testbed import inventory
from edge_runtime.config import KEYS, OPTIONS
from edge_runtime.systemd.journal import FIELDS
from firmware_tools.bridge.machine.bootloader import VARIABLE
from hw_tests.plugin.options import OPTIONS as BENCH_OPTIONS
from protos import errors
from protos.plan import plan, sections
from protos.update.codecs import CODECS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("docs", "examples", "firmware_tools", "hw_tests")
ROOMS_OF_CODE = ("protos", "edge_runtime", "coordinator", "firmware_tools", "hw_tests", "benchmarks", "packaging")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in ROOT.glob(f"{room}/**/*.md"))])
# What a demo writes is not in the repository.
MADE_LATER = ("demo-output/",)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FILE = re.compile(r"^[\w.*/-]+/[\w.*-]+\.(py|toml|md|proto)$")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def _parsers() -> Mapping[str, argparse.ArgumentParser]:
    return {
        "coordinator": coordinator.cli.parser(),
        "edge-runtime": edge_runtime.cli.parser(),
        "firmware-tools": firmware_tools.cli._parser(),
    }


def _fenced(page: Path, *languages: str) -> Iterator[str]:
    for language, text in _FENCE.findall(page.read_text()):
        if not languages or language in languages:
            yield text


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def _inline(page: Path) -> list[str]:
    return [code.replace("\\|", "|") for code in _INLINE.findall(_prose(page))]


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each line that runs one of our programs, as a shell would split them."""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        first, _, rest = line.partition(" ")
        # What a command prints has a colon behind its name; `coordinator = ...` is a setting.
        if first in _parsers() and not re.match(r"\S*:|=", rest):
            words = shlex.split(line, comments=True)
            end = next((at for at, word in enumerate(words) if word in ("&", "|", ">", "2>", "&&", ";")), len(words))
            yield words[:end]


def _children(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _descend(words: list[str]) -> argparse.ArgumentParser:
    """The parser of a command's deepest verb.

    Raises:
        LookupError: there is no such verb.
    """
    parser = _parsers()[words[0]]
    for word in words[1:]:
        children = _children(parser)
        if not children or word.startswith("-"):
            break
        if word not in children:
            raise LookupError(f"{parser.prog} has no {word!r}")
        parser = children[word]
    return parser


def _every_option() -> set[str]:
    known: set[str] = set(BENCH_OPTIONS)
    waiting = list(_parsers().values())
    while waiting:
        parser = waiting.pop()
        known |= parser._option_string_actions.keys()
        waiting += _children(parser).values()
    return known


def _rows(page: Path, width: int) -> Iterator[list[str]]:
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if line.startswith("|") and len(cells) == width:
            yield cells


@pages
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [link.partition("#")[0] for link in _LINK.findall(_prose(page)) if "://" not in link]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


@pages
def test_every_path_of_the_repository_that_is_named_exists(page: Path) -> None:
    named = [code for code in _inline(page) if _FILE.match(code) and not code.startswith(("/", *MADE_LATER))]
    missing = [path for path in named if not any(ROOT.glob(path))]
    assert not missing


@pages
def test_every_folder_of_the_repository_that_is_named_exists(page: Path) -> None:
    packages = ("protos/", "edge_runtime/", "coordinator/", "firmware_tools/", "hw_tests/", "tests/", "docs/", "plans/")
    named = [code for code in _inline(page) if code.startswith(packages) and code.endswith("/")]
    # A demo's folders are named like ours, and are told apart by where they stand.
    missing = [path for path in named if not (ROOT / path).is_dir()]
    assert not missing


@pages
def test_every_command_in_a_listing_is_accepted_by_its_parser(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for text in _fenced(page):
        for words in _commands(text):
            try:
                _parsers()[words[0]].parse_args(words[1:])
            except SystemExit as end:
                if end.code:
                    refused.append((" ".join(words), capsys.readouterr().err.splitlines()[-1:]))
    assert not refused


@pages
def test_every_command_in_a_sentence_has_that_verb_and_those_options(page: Path) -> None:
    wrong = []
    for code in _inline(page):
        for words in _commands(code):
            try:
                known = _descend(words)._option_string_actions
            except LookupError as error:
                wrong.append(str(error))
                continue
            wrong += [f"{code}: {word}" for word in words if word.startswith("--") and word not in known]
    assert not wrong


@pages
def test_every_option_in_a_sentence_is_one_of_ours(page: Path) -> None:
    named = {code.split()[0] for code in _inline(page) if code.startswith("--")}
    assert not named - _every_option()


@pages
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    listed = [line for text in _fenced(page, "") for line in text.splitlines()]
    named = {found[1] for code in [*_inline(page), *listed] if (found := re.match(r"make ([\w-]+)", code))}
    assert not named - targets


@pages
def test_every_variable_that_is_named_is_read_somewhere(page: Path) -> None:
    known = {option.variable for option in OPTIONS} | {"EDGEJOULE_CONFIG", "EDGEJOULE_REFERENCE_DATA", VARIABLE}
    known |= {
        "EDGEJOULE_ARM_CACHE",
        "EDGEJOULE_DATABASE",
        "EDGEJOULE_FLOWER_PYTHON",
        "EDGEJOULE_MQTT_PASSWORD",
        "EDGEJOULE_WHO",
        *FIELDS.values(),
    }
    named = set(re.findall(r"EDGEJOULE_[A-Z_]*[A-Z]", page.read_text()))
    assert not {name for name in named if name not in known}


@pages
def test_every_example_of_a_file_is_one_that_the_program_reads(page: Path, tmp_path: Path) -> None:
    for text in _fenced(page, "toml"):
        document = tomllib.loads(text)
        if "run" in document and "sweep" not in document:
            plan.parse(text, where=page.name)
        elif "sweep" in document:
            (tmp_path / "sweep.toml").write_text(text)
            sweep_file.read(tmp_path / "sweep.toml")
        elif "board" in document and isinstance(document["board"], dict):
            inventory.parse(text, page)
        else:
            assert not document.keys() - KEYS.keys()


@pages
def test_no_page_names_a_folder_of_somebodys_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w.~])/(?:work|root|tmp/docs|home/(?!pi\b)\w+)\b\S*", page.read_text())


@pages
def test_no_page_asks_for_a_python_that_debian_does_not_have(page: Path) -> None:
    # There it is called python3; `python` is that of an environment, by its path.
    lines = [line.strip() for text in _fenced(page) for line in text.splitlines()]
    lines += [line.strip() for line in _prose(page).splitlines() if line.startswith("    ")]
    assert not [
        line for line in [*lines, *_inline(page)] if re.match(r"(python|pip) ", line) and " install" not in line
    ]


def test_no_message_and_no_target_asks_for_a_python_that_debian_does_not_have() -> None:
    texts = [path.read_text() for room in ROOMS_OF_CODE for path in (ROOT / room).rglob("*.py")]
    texts += [(ROOT / "Makefile").read_text()]
    assert not [
        line
        for text in texts
        for line in text.splitlines()
        if re.search(r"(^\s*|[\"'` ;&])python (-m|\w+\.py|\w+/)", line)
    ]


def test_the_exit_codes_that_are_documented_are_those_of_the_error_tree() -> None:
    documented = {
        int(code): name.strip("`") for code, name, _ in _rows(ROOT / "docs/exit-codes.md", 3) if name.startswith("`")
    }
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EdgejouleError)
    ]
    assert documented == {kind.exit_code: kind.__name__ for kind in kinds}


def test_every_setting_of_the_device_is_documented_with_its_flag_and_variable() -> None:
    rows = {row[0].strip("`"): (row[1].strip("`"), row[2].strip("`")) for row in _rows(ROOT / "docs/first-board.md", 4)}
    missing = {
        option.key: wanted
        for option in OPTIONS
        if rows.get(option.key) != (wanted := (f"{option.flag} {option.metavar}", option.variable))
    }
    assert not missing


def _documented_plan_keys() -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    for line in (ROOT / "docs/plans.md").read_text().splitlines():
        if heading := re.match(r"### `\[(\w+)\]`", line):
            section = sections.setdefault(heading[1], {})
        elif line.startswith("## "):
            section = {}
        elif row := re.match(r"\| `(\w+)` \| [^|]+ \| ([^|]*?) \|", line):
            section[row[1]] = row[2]
    return {name: keys for name, keys in sections.items() if keys}


def test_every_key_of_a_plan_is_documented_in_its_section() -> None:
    codec_keys = {key for entry in CODECS.values() for key in entry.parameters}
    documented = {name: set(keys) for name, keys in _documented_plan_keys().items()}
    known = {name: set(keys) for name, keys in sections.RULES.items()}
    known["update"] |= codec_keys
    assert documented == known


def test_the_defaults_of_a_plan_that_are_documented_are_the_real_ones() -> None:
    wrong = []
    documented = _documented_plan_keys()
    for name, section in sections.SECTIONS.items():
        for field in fields(section):
            said = documented[name][field.name].replace(",", "")
            if field.default is MISSING or not isinstance(field.default, int | float | str):
                continue
            real = f'"{field.default}"' if isinstance(field.default, str) else f"{field.default:g}"
            if isinstance(field.default, bool):
                real = str(field.default).lower()
            if said.strip("`") != real:
                wrong.append((name, field.name, said, real))
    defaults: dict[str, set[float]] = {}
    for entry in CODECS.values():
        for key, parameter in entry.parameters.items():
            defaults.setdefault(key, set()).add(parameter.default)
    for key, values in defaults.items():
        real = " or ".join(f"{value:g}" for value in sorted(values, reverse=True))
        if documented["update"][key] != real:
            wrong.append(("update", key, documented["update"][key], real))
    assert not wrong


def test_every_extra_is_documented_where_installing_is() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    table = page[page.index("| Extra | Brings | For |") : page.index("## The database of a coordinator")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert named == set(extras)


def test_every_page_leads_to_the_words_that_it_uses() -> None:
    without = [page.name for page in (ROOT / "docs").glob("*.md") if "(glossary.md)" not in page.read_text()]
    assert without == ["glossary.md"]


def test_the_glossary_says_each_word_once_and_each_is_used_somewhere_else() -> None:
    words = [row[0] for row in _rows(ROOT / "docs/glossary.md", 2) if row[0] not in ("Word", "---")]
    plain = [word.partition(" (")[0] for word in words]
    assert len(set(words)) == len(words)
    others = " ".join(page.read_text().lower() for page in PAGES if page.name != "glossary.md")
    assert [word for word in plain if not re.search(rf"\b{re.escape(word)}", others)] == []
