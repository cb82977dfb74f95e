"""docs/first-hour.md, played by hand from its first command to its last."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import played_page
import pytest
from free_ports import free_port
from played_page import ROOT, Played, changed, is_head, missing, played

PAGE = ROOT / "docs" / "first-hour.md"


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> list[Played]:
    address = f"127.0.0.1:{free_port()}"
    with played(PAGE, tmp_path_factory.mktemp("hour"), address, after="## By hand") as found:
        pass
    return found


@pytest.mark.workshop
@pytest.mark.processes
def test_every_command_of_the_first_hour_succeeds(hour: list[Played]) -> None:
    # The doctor may find something to say about any machine.
    failed = {one.command: (one.code, one.printed) for one in hour if one.code and "doctor" not in one.command}
    assert not failed
    verbs = {" ".join(one.command.split()[:2]) for one in hour}
    assert {"coordinator serve", "coordinator devices", "coordinator budgets", "edge-runtime doctor"} <= verbs


@pytest.mark.workshop
@pytest.mark.processes
def test_what_the_page_shows_is_what_is_printed(hour: list[Played]) -> None:
    wrong = {one.command or "alone": lost for one in hour if (lost := missing(one.said, one.printed))}
    assert not wrong, {one.command: one.printed for one in hour}
    assert sum(bool(one.said) for one in hour) >= 12


@pytest.mark.workshop
@pytest.mark.processes
def test_the_plan_that_the_page_shows_has_the_id_that_it_shows(hour: list[Played]) -> None:
    (checked,) = [one for one in hour if "check-plan" in one.command]
    for key in ("plan id", "head parameters", "work per round", "evaluation examples", "codec parameters"):
        (said,) = [line for line in checked.said.splitlines() if line.startswith(key)]
        assert said in checked.printed.splitlines()


@pytest.mark.workshop
@pytest.mark.processes
def test_counts_that_the_page_shows_are_those_that_are_printed(hour: list[Played]) -> None:
    wrong = {one.command or "alone": pairs for one in hour if (pairs := changed(one.command, one.said, one.printed))}
    assert not wrong


@pytest.mark.workshop
@pytest.mark.processes
def test_nothing_is_said_of_the_start_of_tensorflow(hour: list[Played]) -> None:
    asides = "\n".join(one.aside for one in hour if one.command.startswith("firmware-tools"))
    assert "compiling the head" in asides, "progress is told there"
    assert not re.search(r"^(?:[IWEF]\d{4} |WARNING: All log messages)|TensorFlow|oneDNN|absl", asides, re.MULTILINE)


def test_counts_and_what_a_plan_asks_for_are_compared_and_what_is_measured_is_not() -> None:
    shown = (
        "device  board      examples  spent J\npi-one  pi4        359       2.11\n\n2 of 2 devices, 2.0 J, 47 bytes\n"
    )
    there = (
        "device  board      examples  spent J\npi-one  pi-zero-2  360       0.5\n\n1 of 2 devices, 9.9 J, 17 bytes\n"
    )
    assert sorted(changed("coordinator devices", shown, there)) == [
        ("2 of 2", "1 of 2"), ("359", "360"), ("pi4", "pi-zero-2")
    ]  # fmt: skip
    assert changed("coordinator devices", shown, shown) == []
    assert changed("firmware-tools convert", "takes int8 1 x 8 x 8, 3 CONV_2D", "takes int8 1 x 9 x 8, 3 CONV_2D") == [
        ("1 x 8 x 8", "1 x 9 x 8")
    ]
    said, printed = (
        "bundle id  sha256:11aa22\ninputs     rate = 0.1\n",
        "bundle id  sha256:33bb44\ninputs     rate = 0.2\n",
    )
    assert changed("coordinator check-plan plan.toml", said, printed) == [
        ("inputs     rate = 0.1", "inputs     rate = 0.2")
    ]
    assert changed("coordinator status", said, printed) == [], "a figure without a name may be measured"


def test_a_listing_is_missed_by_its_columns_its_keys_and_its_words() -> None:
    printed = "device  state    spent J  seen\npi-one  present  ?        2 s ago\n\nname   first\nrounds 3\n"
    assert missing("device  state    spent J  seen\npi-one  present  0.5      317 s ago\n", printed) == []
    assert missing("device  state    joules  seen\npi-one  present  0.5     2 s ago\n", printed)
    assert missing("device  state    spent J  seen\npi-two  present  0.5      2 s ago\n", printed)
    assert missing("name  first\nrounds 9\n", printed) == []
    assert missing("rounds 9\nname  first\n", printed) == ["name  first"]
    assert missing("bundle first\n", printed) == ["bundle first"]
    assert is_head("round  state   accuracy  loss")
    assert not is_head("one.tty  pi4  cpu  balanced")


def test_figures_and_ids_do_not_count() -> None:
    assert doctest.testmod(played_page).failed == 0


def test_the_page_is_there_and_names_its_plan() -> None:
    assert "Save this as `plan.toml`" in Path(PAGE).read_text()
