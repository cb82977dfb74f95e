"""How wrong a coding is: omega(b) = E ||decoded - x||^2 / ||x||^2 by codec and bits a coordinate.

White Gaussian values, d = 2^16, six codings each; real changes of heads are heavier in the tails, where the entropy
coded do better (`benchmarks/codec.py` has the tables). Only unbiased codecs are here: the planner's rule of bits, and
unbiased weights, rest on E[decoded] = x.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

from protos.update import codecs
from protos.update.trial import tried

ERROR: Mapping[str, Mapping[float, float]] = {
    "entropy_coded": {
        0.5: 2.11, 1.0: 0.575, 1.5: 0.223, 2.0: 0.1, 2.5: 0.0479, 3.0: 0.0235, 4.0: 0.00574, 5.0: 0.00142,
        6.0: 3.56e-4, 8.0: 2.23e-5,
    },
    "eden": {
        0.5: 2.14, 1.0: 0.572, 1.5: 0.316, 2.0: 0.133, 2.5: 0.0824, 3.0: 0.0358, 4.0: 0.00968, 5.0: 0.00249,
        6.0: 6.57e-4, 8.0: 4.12e-5,
    },
    "uniform_stochastic": {
        1.0: 10.8, 2.0: 0.913, 3.0: 0.162, 4.0: 0.0356, 5.0: 0.00822, 6.0: 0.00203, 7.0: 4.94e-4, 8.0: 1.2e-4,
    },
    "qsgd": {2.0: 17.2, 3.0: 5.05, 4.0: 1.58, 5.0: 0.379, 6.0: 0.0888, 7.0: 0.0215, 8.0: 0.0053},
}  # fmt: skip
# Names, seeds, tables, coder states and the rest of a report, bytes.
REPORT_OVERHEAD_BYTES = 600


@functools.lru_cache(maxsize=256)
def error_on(
    codec: str, parameters: tuple[tuple[str, float], ...], expected: tuple[tuple[str, tuple[int, ...]], ...]
) -> float:
    """The error of a codec on white values in the shapes of a head: tables and coder states take their part of the
    bits, so that a small head is coded more coarsely than the table says. 0 for a codec that is not in the table, whose
    error is none, or not white.

    Args:
        parameters: all that are not the codec's defaults, by name.
        expected: name and shape of each tensor.
    """
    if codec not in ERROR:
        return 0.0
    return tried(codecs.build(codec, dict(parameters)), dict(expected), lambda tensors: 0).error


def report_bytes(bits: float, coordinates: int) -> int:
    """About what a report weighs."""
    return REPORT_OVERHEAD_BYTES + math.ceil(bits * coordinates / 8)


def best_bits(codec: str, r: float) -> float:
    """``argmin_b (1 + omega(b)) (r + b)`` over the table: the bits whose joules buy the most.

    With participation chosen best, p ~ w ||D|| sqrt((1 + omega) / E), the variance of a round at a fixed expense goes
    with the sum of w ||D|| sqrt((1 + omega) E), and a device's term is least where (1 + omega(b)) (r + b) is.

    Args:
        codec: a row of :data:`ERROR`.
        r: joules of everything but the coded coordinates, over the joules of one bit a coordinate.

    >>> [best_bits("entropy_coded", r) for r in (0.0, 5.0, 30.0, 1000.0)]
    [0.5, 2.0, 3.0, 6.0]
    """
    table = ERROR[codec]
    return min(table, key=lambda bits: ((1.0 + table[bits]) * (r + bits), bits))


def bits_within(codec: str, bound: float) -> float:
    """The fewest bits whose error is at most ``bound``; the most there are where none is small enough.

    Energy grows with bits, so the cheapest choice under an error bound sits on it (Lai et al., "On-demand quantization
    for green federated generative diffusion", arXiv:2403.04430).

    >>> bits_within("eden", 0.1), bits_within("eden", 1e-9)
    (2.5, 8.0)
    """
    table = ERROR[codec]
    return min((bits for bits, error in table.items() if error <= bound), default=max(table))
