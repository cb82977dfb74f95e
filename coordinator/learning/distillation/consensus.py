"""One soft label an example out of what several models say: by how sure each is, and by how much it has seen.

With p_m(x) = softmax(z_m(x) / T) of model m, H its entropy in nats, K classes and n_m examples behind the model:

    confidence   a_m(x) ~ n_m (log K - H(p_m(x)))     what m says about x, in nats, once for each of its examples
    count        a_m    ~ n_m
    equal        a_m    = 1 / M
    q(x) = sum_m a_m(x) p_m(x),   sum_m a_m = 1

A model that knows nothing of an example says so by an even distribution, and then has no weight; where all are even,
counts decide. KOALA (arXiv:2407.05268) refines a consensus without a formula that could be read; FedGEMS weighs by
softmax(1 / H), which one sure model takes over altogether.

Where the proxy set has labels, :func:`selective` is FedGEMS (Cheng et al., arXiv:2110.11027, section 3.2), its three
cases written as one target each, since e CE(y) + (1 - e) KL(c || p) is the cross-entropy of p by e y + (1 - e) c less a
constant:

    the large model is right             y, and what it says is kept as c
    it is wrong, and was right before    0.75 y + 0.25 c
    it never was right                   0.75 y + 0.25 q, q over the models that are right, by softmax(1 / H);
                                         y alone where none is
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protos.errors import LabelError, ShapeError

Reals = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]

WEIGHTS = ("confidence", "count", "equal")
# Of the label in a mixed target: FedGEMS.
LABEL_SHARE = 0.75
_LEAST = 1e-12


def probabilities(scores: npt.NDArray[np.floating], temperature: float = 1.0) -> Reals:
    """softmax(scores / temperature) over the last axis.

    Raises:
        ShapeError: the temperature is not positive, or a score not finite.
    """
    if not 0 < temperature < np.inf:
        raise ShapeError(f"a temperature of {temperature:g}", fix="take one above 0")
    if not np.isfinite(scores).all():
        raise ShapeError("scores that are not finite", fix="leave out the model that gave them")
    shifted = np.asarray(scores, np.float64) / temperature
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    found: Reals = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def entropy(p: Reals) -> Reals:
    """In nats, over the last axis."""
    found: Reals = -(p * np.log(np.maximum(p, _LEAST))).sum(axis=-1)
    return found


def check_distributions(p: Reals, whose: str) -> None:
    """Return where every row of the last axis is a distribution.

    Raises:
        ShapeError: one is not: NaN, a negative share, or another sum than one.
    """
    if p.size == 0 or not np.isfinite(p).all() or (p < 0).any() or not np.allclose(p.sum(axis=-1), 1.0, atol=1e-5):
        raise ShapeError(f"{whose}, of shape {list(p.shape)}, are no distributions over classes",
                         fix="take probabilities(scores); and there has to be an example")  # fmt: skip


def consensus(said: Reals, counts: Sequence[float], weight: str = "confidence") -> Reals:
    """One distribution an example, [N, K].

    Args:
        said: [M, N, K] probabilities of each model.
        counts: [M] examples behind each, positive.
        weight: one of ``WEIGHTS``.

    Raises:
        ShapeError: counts do not fit the models, or are not positive; no such weight; or ``said`` are no distributions.
    """
    number = np.asarray(counts, np.float64)
    if said.ndim != 3 or number.shape != said.shape[:1] or not ((number > 0) & (number < np.inf)).all():
        raise ShapeError(f"counts {list(counts)} for what models said, of shape {list(said.shape)}")
    if weight not in WEIGHTS:
        raise ShapeError(f"models are not weighed by {weight!r}", fix=f"one of {', '.join(WEIGHTS)}")
    check_distributions(said, "what models said")
    shares = np.broadcast_to(number[:, None], said.shape[:2])
    if weight == "confidence":
        told = np.maximum(np.log(said.shape[-1]) - entropy(said), 0.0)
        shares = number[:, None] * np.where(told.sum(axis=0) > _LEAST, told, 1.0)
    elif weight == "equal":
        shares = np.ones(said.shape[:2])
    shares = shares / shares.sum(axis=0)
    found: Reals = np.einsum("mn,mnk->nk", shares, said)
    return found


def selective(large: Reals, said: Reals, labels: Labels, kept: Reals | None = None) -> tuple[Reals, Reals]:
    """Targets for the large model where the proxy set has labels, and what to keep for the next time.

    Args:
        large: [N, K] probabilities of the large model.
        said: [M, N, K] of the small ones.
        labels: [N].
        kept: [N, K] as this function gave it before; rows of NaN where the large model never was right.

    Returns:
        Targets [N, K], whose rows sum to one; and ``kept``.

    Raises:
        ShapeError: shapes do not fit each other, or something is no distribution.
        LabelError: a label is no class.
    """
    if large.shape != said.shape[1:] or labels.shape != large.shape[:1]:
        raise ShapeError(
            f"large model {list(large.shape)}, small models {list(said.shape)}, labels {list(labels.shape)}"
        )
    check_distributions(large, "what the large model said")
    check_distributions(said, "what the small models said")
    if kept is not None and kept.shape != large.shape:
        raise ShapeError(f"what was kept has shape {list(kept.shape)}, the large model said {list(large.shape)}",
                         fix="begin without it: the proxy set is another one")  # fmt: skip
    if labels.dtype.kind not in "iu" or ((labels < 0) | (labels >= large.shape[1])).any():
        raise LabelError(f"labels of the proxy set are not all classes from 0 to {large.shape[1] - 1}")
    hard = np.eye(large.shape[1])[labels]
    kept = np.full_like(large, np.nan) if kept is None else kept.copy()
    right: npt.NDArray[np.bool_] = np.equal(large.argmax(axis=-1), labels)
    kept[right] = large[right]
    known: npt.NDArray[np.bool_] = np.logical_not(np.isnan(kept).any(axis=-1))
    ours = said.argmax(axis=-1) == labels
    # softmax(1 / H) over the models that are right; the exponent is bounded, or one sure model would overflow it.
    power = np.where(ours, np.exp(np.minimum(1.0 / np.maximum(entropy(said), _LEAST), 50.0)), 0.0)
    some = power.sum(axis=0) > 0
    shares = power / np.where(some, power.sum(axis=0), 1.0)
    soft = np.where(known[:, None], np.nan_to_num(kept), np.einsum("mn,mnk->nk", shares, said))
    mixed: npt.NDArray[np.bool_] = np.logical_and(~right, known | some)
    targets = hard
    targets[mixed] = LABEL_SHARE * hard[mixed] + (1 - LABEL_SHARE) * soft[mixed]
    return targets, kept
