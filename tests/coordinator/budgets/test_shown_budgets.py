"""What operators are shown of budgets comes through messages as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.operator import as_json, messages
from coordinator.operator.status import DeviceBudget, RoundStatus, RunStatus, WeightBias

joules = st.floats(0, 1e12)
shares = st.none() | st.floats(1, 1e6)
names = st.text("abc-7", min_size=1, max_size=8)
prices = st.dictionaries(st.sampled_from(["step_j", "up_j", "idle_w"]), joules, min_size=1)


@given(st.lists(st.builds(DeviceBudget, names, st.integers(0, 9), joules, joules, joules, joules, st.integers(0, 9),
                          prices, prices, st.integers(1, 99))))  # fmt: skip
def test_a_ledger_comes_back_as_it_was(budgets: list[DeviceBudget]) -> None:
    assert messages.budgets_from(messages.budgets_to("run-1", budgets)) == budgets


def test_a_device_that_was_never_metered_has_no_prices() -> None:
    one = DeviceBudget("a", 1, 2.0, 0.0, 2.0, 2.0, 0, {}, {}, 0)
    message = messages.budgets_to("run-1", [one])
    assert not message.devices[0].HasField("fit")
    assert messages.budgets_from(message) == [one]


@given(
    st.none()
    | st.builds(WeightBias, st.floats(0, 1), shares, st.floats(0, 1), shares, st.lists(names, max_size=3).map(tuple))
)
def test_the_bias_of_a_round_comes_back_as_it_was(bias: WeightBias | None) -> None:
    one = RoundStatus(1, "closed", None, None, (), 1.0, 2.0, "head", bias)
    run = RunStatus("run-1", "n", "running", "", "p", "b", 3, (one,), 1.0, None)
    (found,) = messages.runs_from(messages.runs_to([run], "0"))
    assert found == run
    assert (as_json.run(found)["rounds"][0]["bias"] is None) == (bias is None)
