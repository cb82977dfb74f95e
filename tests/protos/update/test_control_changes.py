"""The change of a device's own control variate."""

from __future__ import annotations

import numpy as np
import pytest

from protos.errors import NonFiniteError
from protos.update.controls import change_of_own


def test_one_tensor_that_is_not_finite_is_enough_to_refuse_a_change() -> None:
    control = {name: np.zeros(2, np.float32) for name in ("bias", "kernel")}
    update = {"bias": np.ones(2, np.float32), "kernel": np.array([1.0, 3e38], np.float32)}
    change = change_of_own(control, {**update, "kernel": update["bias"]}, 2, {"rate": 0.1})
    np.testing.assert_allclose(change["kernel"], -1 / (2 * 0.1), rtol=1e-6)
    with pytest.raises(NonFiniteError, match=r"too large for a rate of 0\.1"):
        change_of_own(control, update, 2, {"rate": 0.1})
