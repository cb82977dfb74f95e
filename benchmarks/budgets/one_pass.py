"""The one-pass method among the policies of `budget.py`: exact sums of everybody who can pay, and a closed form.

Sums, their coding and the head are the project's own (`protos/statistics`, `coordinator/learning/closed_form.py`); the
shrinkage is chosen by leaving devices out, never by held-out data. Energy: the device's true prices for waking, bytes
and fixed parts, and its watts for the time that multiplying and coding take, by the speeds of
`coordinator/budgets/cold_start.py`. A device whose budget does not pay for its sums is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.budgets.fleet import Data, Device
from benchmarks.budgets.policies import Policy, Round, overspent
from coordinator.budgets.cold_start import _ENCODE_COORDINATES_A_S as CODED_A_S
from coordinator.budgets.cold_start import _SPEED as SPEED
from coordinator.learning.closed_form import solve
from protos.statistics import coding
from protos.statistics.moments import Moments, moments_of
from protos.update.trees import Tree

# Of the int8 speed, in one float32 product of matrices: see benchmarks/one_pass/fleet.py.
SUMS_SHARE = 0.5
ORDER_BYTES = 200


@dataclass
class OnePass(Policy):
    """One round; the others are for nothing, and cost nothing."""

    def begin(self, data: Data, devices: list[Device], rounds: int, seed: int) -> None:
        self.data, self.devices = data, devices

    def round(self, number: int, head: Tree) -> Round:
        if number > 1:
            return Round(head, 0.0, 0, 0.0)
        parts: list[Moments] = []
        joules = overspend = 0.0
        for device, rows in zip(self.devices, self.data.shards, strict=True):
            moments = moments_of(self.data.raw[rows], self.data.y[rows], self.data.classes, self.data.offset)
            size = 150 + coding.size_bytes(coding.encode(moments, self.data.offset))
            spent_j = cost_j(device, self.data.raw.shape[1], size)
            if spent_j > device.left_j:
                continue
            device.spent_j += spent_j
            joules += spent_j + device.truth.down_j * ORDER_BYTES
            overspend = max(overspend, overspent(device))
            parts.append(moments)
        found = solve(parts)
        return Round(standardised(found.kernel, found.bias, self.data), joules, len(parts), overspend)


def cost_j(device: Device, width: int, bytes_up: int) -> float:
    """Joules of summing, coding and sending, downloads left out."""
    truth = device.truth
    products_s = device.examples * width * width / (SUMS_SHARE * SPEED[device.board])
    coding_s = (width * (width + 1) / 2) / CODED_A_S
    work_j = truth.train_fixed_j + truth.encode_j + device.work_w * (products_s + coding_s)
    return device.priced(work_j) + device.priced(truth.send_fixed_j + truth.up_j * bytes_up)


def standardised(kernel: np.ndarray, bias: np.ndarray, data: Data) -> Tree:
    """A head of z = raw - offset as one of x = (z unit - mean) scale."""
    divided = kernel / (data.unit * data.scale)[:, None]
    return {
        "out_bias": (bias + (data.mean / data.unit) @ kernel).astype(np.float32),
        "out_kernel": divided.astype(np.float32),
    }
