"""A head that denoises: shapes, start, the schedule of noise, what it computes, how it is sampled. numpy only.

Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv:2006.11239), on the embeddings of a
frozen encoder, given the class. An embedding becomes a latent ``u = (x - mean) * scale / sqrt(64 / D)``, of
variance 1 in each coordinate on calibration data (`protos/model/head_algebra.py` has mean and scale). At moment t of T

    z_t = sqrt(abar_t) u + sqrt(1 - abar_t) e,   e normal,
    abar_t = f(t + 1) / f(0),  f(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2)      (Nichol and Dhariwal 2021, eq. 17)

and the head guesses e. Its loss is the mean of ``(e - guess)^2``; 1 less that is the share of the noise that it
explains. The head:

    h1 = relu(z hidden_kernel + wave(t) time_kernel + class_kernel[y] + hidden_bias)
    h2 = relu(h1 middle_kernel + middle_bias)
    guess = sqrt(1 - abar_t) z + h2 out_kernel + out_bias

The first term of the guess is the best linear one for normal latents of variance 1. So a head whose last layer is zero
already samples these, and what is learnt is the difference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protos.model.head_algebra import MEAN_SQUARE_LENGTH, Array, Tree

Moments = npt.NDArray[np.int32]

STEPS = 200
"""T, moments of the schedule."""
WAVES = 16
"""Numbers that tell the head the moment."""
HIDDEN = 128
"""Units of both hidden layers, where nothing else is asked for."""
# Guessed latents further out than this are none: embeddings are integers, and end somewhere.
_FARTHEST = 6.0
_LEAST_KEPT = 1e-3


def denoiser_shapes(width: int, classes: int, hidden_units: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tree, sorted by name.

    >>> sum(a * b for a, b in (shape for shape in denoiser_shapes(16, 10, 8).values() if len(shape) == 2))
    528
    """
    return {
        "class_kernel": (classes, hidden_units),
        "hidden_bias": (hidden_units,),
        "hidden_kernel": (width, hidden_units),
        "middle_bias": (hidden_units,),
        "middle_kernel": (hidden_units, hidden_units),
        "out_bias": (width,),
        "out_kernel": (hidden_units, width),
        "time_kernel": (WAVES, hidden_units),
    }


def untrained_denoiser(width: int, classes: int, hidden_units: int, *, seed: int = 0) -> Tree:
    """A denoiser before any training: the last layer is zero, the others normal with the variance 2 / (numbers that
    come in) of He et al. 2015 (arXiv:1502.01852), drawn from ``seed``; latents, waves and class share one layer."""
    random = np.random.default_rng([seed, 0xD1FF])
    first = math.sqrt(2.0 / (width + WAVES / 2 + 1))
    spread = {"hidden_kernel": first, "time_kernel": first, "class_kernel": first}
    spread["middle_kernel"] = math.sqrt(2.0 / hidden_units)
    shapes = denoiser_shapes(width, classes, hidden_units)
    return {
        name: (random.standard_normal(shape) * spread.get(name, 0.0)).astype(np.float32)
        for name, shape in shapes.items()
    }


@functools.cache
def schedule() -> npt.NDArray[np.float64]:
    """abar of each moment, float64 [T], falling.

    >>> round(float(schedule()[0]), 4), float(schedule()[-1]) < 0.01
    (0.9997, True)
    """
    t = np.arange(STEPS + 1)
    f = np.cos((t / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    # A factor of at least that much is kept in each step (beta at most 0.999), as in that paper.
    factors = np.maximum(f[1:] / f[:-1], _LEAST_KEPT)
    kept: npt.NDArray[np.float64] = np.cumprod(factors)
    kept.setflags(write=False)
    return kept


@functools.cache
def waves() -> Array:
    """What the head is told of each moment, float32 [T, WAVES]: sines and cosines of pi 2^k t / T."""
    share = np.arange(STEPS)[:, None] / STEPS
    angle = math.pi * share * 2.0 ** np.arange(WAVES // 2)[None, :]
    table: Array = np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    table.setflags(write=False)
    return table


def latents_of(embeddings: npt.ArrayLike, mean: npt.ArrayLike, scale: npt.ArrayLike) -> Array:
    """Latents [N, D] of embeddings [N, D]."""
    factor = np.asarray(scale, np.float32) / np.float32(spread_of(len(np.asarray(mean))))
    found: Array = (np.asarray(embeddings, np.float32) - np.asarray(mean, np.float32)) * factor
    return found


def embeddings_of(latents: npt.ArrayLike, mean: npt.ArrayLike, scale: npt.ArrayLike) -> Array:
    """The inverse of :func:`latents_of`."""
    factor = np.float32(spread_of(len(np.asarray(mean)))) / np.asarray(scale, np.float32)
    found: Array = np.asarray(latents, np.float32) * factor + np.asarray(mean, np.float32)
    return found


def spread_of(width: int) -> float:
    """The deviation of a standardised feature, of which there are so many."""
    return math.sqrt(MEAN_SQUARE_LENGTH / width)


def draws(random: np.random.Generator, count: int, width: int) -> tuple[Array, Moments]:
    """Noise, normal float32 [N, D], and moments, int32 [N] from 0 to T - 1, for one step."""
    return random.standard_normal((count, width), np.float32), random.integers(0, STEPS, count, dtype=np.int32)


def noised(latents: Array, noise: Array, moments: Moments) -> Array:
    """z_t of each latent [N, D] at its moment [N]."""
    kept = schedule()[moments][:, None]
    found: Array = (np.sqrt(kept) * latents + np.sqrt(1.0 - kept) * noise).astype(np.float32)
    return found


def guess(tree: Mapping[str, Array], z: Array, y: npt.NDArray[np.int32], moments: Moments) -> Array:
    """The noise in ``z``, float32 [N, D]: the numpy reference of the compiled head.

    Args:
        z: [N, D]; y: class of each, [N]; moments: [N].
    """
    first = z @ tree["hidden_kernel"] + waves()[moments] @ tree["time_kernel"] + tree["class_kernel"][y]
    second = np.maximum(first + tree["hidden_bias"], 0) @ tree["middle_kernel"] + tree["middle_bias"]
    linear = np.sqrt(1.0 - schedule()[moments]).astype(np.float32)[:, None] * z
    found: Array = linear + np.maximum(second, 0) @ tree["out_kernel"] + tree["out_bias"]
    return found


def sample(tree: Mapping[str, Array], classes: npt.NDArray[np.int32], *, seed: int) -> Array:
    """New latents [N, D] of these classes [N], by ancestral sampling: from t = T - 1 down to 0

        u = (z - sqrt(1 - abar_t) guess) / sqrt(abar_t), cut to -6..6;
        z <- (sqrt(abar_s) beta u + sqrt(a) (1 - abar_s) z) / (1 - abar_t) + sqrt((1 - abar_s) / (1 - abar_t) beta) e

    with s = t - 1, a = abar_t / abar_s, beta = 1 - a (DDPM, eq. 6 and 7); the last step adds no noise.
    """
    random = np.random.default_rng([seed, 0x5A3F])
    count, width = len(classes), tree["out_bias"].shape[0]
    z: Array = random.standard_normal((count, width), np.float32)
    kept = schedule()
    for t in range(STEPS - 1, -1, -1):
        now, before = float(kept[t]), float(kept[t - 1]) if t else 1.0
        noise = guess(tree, z, classes, np.full(count, t, np.int32))
        u = np.clip((z - math.sqrt(1.0 - now) * noise) / math.sqrt(now), -_FARTHEST, _FARTHEST)
        a = now / before
        z = ((math.sqrt(before) * (1.0 - a) * u + math.sqrt(a) * (1.0 - before) * z) / (1.0 - now)).astype(np.float32)
        if t:
            deviation = math.sqrt((1.0 - before) / (1.0 - now) * (1.0 - a))
            z += np.float32(deviation) * random.standard_normal(z.shape, np.float32)
    return z


def frechet(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Distance of two sets of features [N, F], taken as normal: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", arXiv:1706.08500, eq. 6. The root of the product
    has the trace of that of ``S1^(1/2) S2 S1^(1/2)``, which is symmetric.

    >>> frechet([[0.0], [2.0]], [[3.0], [5.0]])
    9.0
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    m1, m2 = first.mean(axis=0), second.mean(axis=0)
    s1, s2 = (np.atleast_2d(np.cov(part.T, bias=True)) for part in (first, second))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0.0)).sum()
    return float(np.sum((m1 - m2) ** 2) + np.trace(s1) + np.trace(s2) - 2.0 * crossed)
