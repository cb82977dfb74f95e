"""Exit codes are a promise to scripts: a number, once given, keeps its meaning."""

from __future__ import annotations

import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import errors
from protos.errors import EdgejouleError

# Never change a line; a new class takes the next number.
CODES = {
    "EdgejouleError": 1,
    "UsageError": 2,
    "CheckFailed": 3,
    "ConfigError": 4,
    "UnreachableError": 5,
    "ModelError": 6,
    "IntegrityError": 7,
    "ShapeError": 8,
    "LabelError": 9,
    "NonFiniteError": 10,
    "EmptyShardError": 11,
    "PlanError": 12,
    "DataError": 13,
    "SensorError": 14,
    "StoreError": 15,
    "RefusedError": 16,
    "WaitExpired": 17,
    "UnknownRunError": 18,
    "UpdateError": 19,
    "FlashError": 20,
    "MismatchError": 21,
    "UpgradeError": 22,
    "PluginError": 23,
}
CLASSES = dict(inspect.getmembers(errors, lambda one: inspect.isclass(one) and issubclass(one, EdgejouleError)))
text = st.text(max_size=40)


def test_every_class_keeps_its_code() -> None:
    assert {name: class_name.exit_code for name, class_name in CLASSES.items()} == CODES


def test_no_two_classes_share_a_code_and_none_is_taken_by_the_shell() -> None:
    assert len(set(CODES.values())) == len(CODES)
    # 0 is success; from 126 on the shell and signals speak.
    assert all(0 < code < 126 for code in CODES.values())


@pytest.mark.parametrize("name", sorted(CODES))
def test_an_error_can_be_caught_as_itself_and_as_the_root(name: str) -> None:
    with pytest.raises(EdgejouleError) as caught:
        raise CLASSES[name]("what", where="where", fix="fix it")
    error = caught.value
    assert type(error).__name__ == name
    assert (error.what, error.where, error.fix) == ("what", "where", "fix it")
    assert str(error) == "where: what; fix it"
    assert (CLASSES[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", sorted(CODES))
def test_an_error_can_be_handed_from_one_process_to_another(name: str) -> None:
    error = CLASSES[name]("what", where="where", fix="fix it")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (its own bytes)
    assert (type(copy), str(copy)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("UsageError", ValueError),
        ("UnreachableError", ConnectionError),
        ("SensorError", OSError),
        ("StoreError", OSError),
        ("RefusedError", PermissionError),
        ("WaitExpired", TimeoutError),
        ("UnknownRunError", LookupError),
        ("UpdateError", ValueError),
    ],
)
def test_an_error_is_the_builtin_of_its_kind_as_well(name: str, builtin: type[Exception]) -> None:
    assert issubclass(CLASSES[name], builtin)


@pytest.mark.parametrize("name", sorted(CODES))
@given(text, st.none() | text, st.none() | text)
def test_an_error_is_one_line_that_says_all(name: str, what: str, where: str | None, fix: str | None) -> None:
    line = str(CLASSES[name](what, where=where, fix=fix))
    assert len(line.splitlines()) <= 1
    assert all(" ".join(part.split()) in line for part in (what, where or "", fix or ""))


def test_what_is_not_said_leaves_no_marks() -> None:
    assert str(EdgejouleError("broken")) == "broken"
    assert str(EdgejouleError("broken", where="a.npz")) == "a.npz: broken"
    assert str(EdgejouleError("broken", fix="mend it")) == "broken; mend it"
    assert str(EdgejouleError("broken\n  in\ttwo", where="a\nb")) == "a b: broken in two"
