"""What is skipped on a developer's machine fails where nobody reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest

TEST = """
from unmet import unmet

def test_one():
    unmet("this computer was too slow")

def test_two(reference):
    assert reference.is_dir()
"""


@pytest.fixture
def outcomes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    """`outcomes(**environment)`: of a session with a test that was too slow and one that wants reference data."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run(**environment: str) -> dict[str, int]:
        for name in ("CI", "EDGEJOULE_REFERENCE_DATA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        pytester.makeconftest("from reference_data import reference")
        pytester.makepyfile(TEST)
        return dict(pytester.runpytest_subprocess("-p", "no:cacheprovider").parseoutcomes())

    return run


def test_slowness_is_skipped_by_developers_and_fails_in_continuous_integration(outcomes, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}")
    here = str(Path(__file__).parent)
    assert outcomes(EDGEJOULE_REFERENCE_DATA=here) == {"skipped": 1, "passed": 1}
    assert outcomes(EDGEJOULE_REFERENCE_DATA=here, CI="false") == {"skipped": 1, "passed": 1}
    assert outcomes(EDGEJOULE_REFERENCE_DATA=here, CI="true") == {"failed": 1, "passed": 1}


def test_reference_data_that_a_variable_names_must_be_there(outcomes, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}")
    assert outcomes(EDGEJOULE_REFERENCE_DATA="/nowhere/at/all") == {"skipped": 1, "errors": 1}
