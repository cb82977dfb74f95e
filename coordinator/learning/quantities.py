"""A regression's head from exact sums alone: ridge regression, with an intercept that is not shrunk.

With m and S the mean and covariance of all embeddings, and c their covariance with the standardised quantities t
(:mod:`protos.statistics.quantities`),

    kernel = (S + lambda tr(S) / D I)^-1 c,    bias = mean(t) - m kernel,

which is what whoever had all examples in one place would solve for (Fed3R, arXiv 2406.01116, with quantities for
classes). How much to shrink is chosen by R2 on held-out data, or by leaving devices out: the squared error of the head
of all others on those left out is exact in the same sums. About the others' means, with C, c' and v of those left out,

    error = v - 2 kernel^T c' + kernel^T C kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.learning.closed_form import ALONE, SHRINKAGES, LinearHead, grouped
from protos.errors import EmptyShardError, NonFiniteError
from protos.statistics.moments import Moments, total
from protos.statistics.quantities import QuantityMoments

Reals = npt.NDArray[np.float64]
NAME = "least-squares"


def solve_quantities(
    parts: Sequence[Moments],
    moments_of: Callable[[Moments], QuantityMoments],
    *,
    shrinkage: float | None = None,
    explained: Callable[[Reals, Reals], float] | None = None,
) -> LinearHead:
    """The head of the sum of all parts: standardised quantities of embeddings in units of their last digit.

    Args:
        parts: one for each device, each of one class.
        moments_of: what such sums say of embeddings and quantities.
        shrinkage: lambda; None: chosen.
        explained: R2 of a kernel [D, K] and a bias [K] on held-out data: the best wins, of equal ones the most shrunk.
            None: devices are left out.

    Raises:
        EmptyShardError: there is no example.
        NonFiniteError: the shrinkage is too small for them.
    """
    whole = total(list(parts), parts[0].classes, parts[0].width) if parts else None
    if whole is None or not whole.examples:
        raise EmptyShardError("no device has an example", fix="start devices that have some")
    all_of = moments_of(whole)
    spectrum = _Spectrum.of(all_of)
    found: tuple[tuple[float, float], ...] = ()
    chosen = "given"
    if shrinkage is None and explained is not None:
        found = tuple(
            (each_shrinkage, 1.0 - explained(*spectrum.head(each_shrinkage))) for each_shrinkage in SHRINKAGES
        )
        shrinkage, chosen = min(found, key=lambda one: (one[1], -one[0]))[0], "chosen by held-out data"
    elif shrinkage is None:
        groups = grouped(parts)
        found = _left_out(groups, moments_of) if len(groups) > 1 else ()
        shrinkage = min(found, key=lambda one: one[1])[0] if found else ALONE
        chosen = "chosen by leaving out devices" if found else "taken, since one device alone cannot be left out"
    kernel, bias = spectrum.head(shrinkage)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise NonFiniteError("the closed form has no finite solution", fix="set closed_form.shrinkage to 0.1 or more")
    return LinearHead(kernel, bias, shrinkage, found, 1.0, NAME, chosen, (all_of.middle, all_of.covariance))


def _left_out(
    groups: Sequence[Moments], moments_of: Callable[[Moments], QuantityMoments]
) -> tuple[tuple[float, float], ...]:
    """By shrinkage, the mean squared error of an example that was left out, over standardised quantities."""
    whole = total(list(groups), groups[0].classes, groups[0].width)
    lost = np.zeros(len(SHRINKAGES))
    for out in groups:
        rest = moments_of(whole - out)
        spectrum, others = _Spectrum.of(rest), moments_of(out).about(rest.middle, rest.target)
        for at, shrinkage in enumerate(SHRINKAGES):
            kernel, _ = spectrum.head(shrinkage)
            fitted = np.einsum("dk,dk->k", kernel, others.covariance @ kernel)
            error = others.spread.diagonal() - 2.0 * np.einsum("dk,dk->k", kernel, others.crossed) + fitted
            lost[at] += out.examples / whole.examples * float(error.mean())
    return tuple(zip(SHRINKAGES, lost.tolist(), strict=True))


@dataclass(frozen=True)
class _Spectrum:
    """Everything that does not depend on the shrinkage: S = V diag(values) V^T, and V^T c."""

    moments: QuantityMoments
    values: Reals
    vectors: Reals
    turned: Reals

    @staticmethod
    def of(moments: QuantityMoments) -> _Spectrum:
        values, vectors = np.linalg.eigh((moments.covariance + moments.covariance.T) / 2)
        return _Spectrum(moments, np.maximum(values, 0.0), vectors, vectors.T @ moments.crossed)

    def head(self, shrinkage: float) -> tuple[Reals, Reals]:
        """Kernel [D, K] and bias [K]."""
        mean_value = float(self.values.mean())
        # Embeddings that never vary have nothing to be divided by.
        shrunk = self.values + shrinkage * (mean_value if mean_value > 0 else 1.0)
        kernel: Reals = self.vectors @ (self.turned / shrunk[:, None])
        return kernel, self.moments.target - self.moments.middle @ kernel
