"""Rows of measurements: what is inside a limit, what is not, and how they are written and shown."""

from __future__ import annotations

import json
import math

import pytest

from hw_tests.measurements import SCHEMA, Measurements, file_name, inside, table, write_rows


@pytest.mark.parametrize(
    ("value", "limit", "passed"),
    [
        (0.2, 0.25, True),
        (-0.26, 0.25, False),
        (0.25, 0.25, True),
        (0, 0, True),
        (5, (1, None), True),
        (0, (1, None), False),
        (5, (None, 4), False),
        (5, (5, 5), True),
        (None, 0.25, False),
        (math.nan, (None, 4), False),
        (math.inf, (1, None), False),
        (None, None, None),
        (7, None, None),
    ],
)
def test_a_value_is_inside_its_limit_or_not(value, limit, passed):
    assert inside(value, limit) is passed


def test_what_is_beyond_its_limit_is_said_and_what_is_not_is_kept_too():
    measure = Measurements("hw_tests/test_a.py::test_b")
    assert measure("error", 0.003, "1", limit=0.0025).passed is False
    measure("rate", 193.2, "Hz", limit=[180, 210])
    measure("joules", None, "J", limit=(0, 1))
    assert [row.name for row in measure.failures] == ["error", "joules"]
    assert measure.verdict() == "error is 0.003 1, within 0.0025 allowed; joules is ? J, 0 to 1 allowed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"limit": -1}, "no limit"),
        ({"limit": (2, 1)}, "between"),
        ({"limit": (None, None)}, "open on both sides"),
        ({"limit": (1, 2, 3)}, "no limit"),
        ({"limit": "0.1"}, "no limit"),
        ({"limit": (math.nan, 1)}, "no number"),
        ({"uncertainty": -1}, "negative"),
        ({"uncertainty": math.inf}, "negative"),
    ],
)
def test_a_limit_that_is_none_is_an_error_of_the_test(arguments, said):
    measure = Measurements("t")
    with pytest.raises(ValueError, match=said):
        measure("x", 1.0, "s", **arguments)
    assert not measure.rows


def test_a_name_is_used_once():
    measure = Measurements("t")
    measure("x", 1.0, "s")
    with pytest.raises(ValueError, match="already"):
        measure("x", 2.0, "s")


def test_the_file_holds_rows_and_session_and_no_number_that_json_has_not(tmp_path):
    measure = Measurements("hw_tests/test_a.py::test_b")
    measure("error", 0.001, "1", limit=0.0025, uncertainty=0.0002)
    measure("rate", math.nan, "Hz", limit=(180, None))
    path = tmp_path / "deep" / "measurements.json"
    write_rows(path, {"bench": "sim"}, measure.rows)
    document = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert (document["schema"], document["session"]) == (SCHEMA, {"bench": "sim"})
    assert document["measurements"] == [
        {
            "test": "hw_tests/test_a.py::test_b", "name": "error", "value": 0.001, "unit": "1", "limit": 0.0025,
            "uncertainty": 0.0002, "passed": True,
        },
        {
            "test": "hw_tests/test_a.py::test_b", "name": "rate", "value": None, "unit": "Hz", "limit": [180.0, None],
            "uncertainty": None, "passed": False,
        },
    ]  # fmt: skip


def test_the_table_keeps_to_80_columns_and_marks_what_failed():
    measure = Measurements(
        "hw_tests/test_a_very_long_name_of_a_file.py::test_with_a_very_long_name_as_well[and a case, too]"
    )
    measure("a name that is longer than its column has any room for", 123456.789, "furlong", limit=(0.000123, 9876543))
    measure("short", math.inf, "s", limit=1)
    measure("count", 3.0, "1", limit=7, uncertainty=0.25)
    lines = table(measure.rows)
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4
    assert lines[0].startswith("test_a_very_long_name_of_a_file")
    assert lines[0].endswith("and-a-case-too"), "cases differ in their ends"
    assert lines[2].endswith("FAIL")
    assert table([measure("planned", 28000, "1", limit=(28000, 28000))])[1].split() == [
        "planned",
        "28000",
        "=",
        "28000",
    ]
    assert lines[3].split() == ["count", "3", "+-0.25", "within", "7"]


def test_files_of_tests_have_names_that_every_file_system_takes():
    assert file_name("hw_tests/test_a.py::test_b[1/2: x]") == "test_a.test_b-1-2-x"
    assert len(file_name("hw_tests/test_a.py::test_b" + "x" * 500)) == 150
