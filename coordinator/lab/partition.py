"""Who gets which examples: splits of one data set over a fleet of devices.

Schemes:

- `iid`: every device draws from the same distribution, parts of nearly equal size.
- `dirichlet:ALPHA`: for each class, the shares of the devices are drawn from a symmetric Dirichlet distribution;
  a small ALPHA gives each device few classes, a large one approaches iid (Hsu, Qi, Brown, "Measuring the Effects
  of Non-Identical Data Distribution for Federated Visual Classification", arXiv:1909.06335; per-class form of
  Yurochkin et al., ICML 2019, section 4).
- `natural`: the examples of an owner stay together. With as many owners as devices each device is one owner; with
  more, whole owners are dealt out so that every device has the same number of them, give or take one.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import EmptyShardError, ShapeError, UsageError

SCHEMES = ("iid", "dirichlet:ALPHA", "natural")
# What a device has at least, where there are enough examples: fewer cannot make one training step worth sending.
HANDFUL = 8
_PURPOSE = 0x5A17


def partition(
    y: NDArray[Any], owners: NDArray[Any] | None, devices: int, scheme: str, seed: int
) -> list[NDArray[np.int64]]:
    """Split examples over devices.

    Args:
        y: [N], class of each example.
        owners: [N], natural owner of each example, or None.
        devices: how many parts, 1..N.
        scheme: one of `SCHEMES`, such as "dirichlet:0.5".
        seed: any integer >= 0; the same arguments give the same parts.

    Returns:
        `devices` arrays of indices, each ascending and not empty; together every index exactly once. Under
        `dirichlet` a device that drew fewer than `HANDFUL` examples (or its equal share, if that is fewer)
        gets the rest from the device that then has most, chosen at random there; this makes very small ALPHA
        slightly less skewed than drawn.

    Raises:
        UsageError: an unknown scheme, an ALPHA that is no positive number, or fewer than one device.
        EmptyShardError: fewer examples, or fewer owners, than devices.
        ShapeError: owners and labels of different lengths.
    """
    name, _, argument = scheme.partition(":")
    alpha = _alpha(name, argument, scheme)
    if devices < 1:
        raise UsageError(f"{devices} devices cannot share data", where="partition", fix="ask for 1 or more")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", where="partition", fix="give 0 or more")
    if len(y) < devices:
        raise EmptyShardError(
            f"{len(y)} examples are too few for {devices} devices", where="partition", fix="use fewer devices"
        )
    rng = np.random.default_rng([_PURPOSE, seed, devices])
    if name == "natural":
        parts = _natural(y, owners, devices, rng)
    elif name == "dirichlet":
        parts = _fill(_dirichlet(y, devices, alpha, rng), rng)
    else:
        parts = np.array_split(rng.permutation(len(y)), devices)
    return [np.sort(part).astype(np.int64) for part in parts]


def check_scheme(scheme: str) -> None:
    """Return when `partition` knows this scheme.

    Raises:
        UsageError: naming the nearest scheme.
    """
    name, _, argument = scheme.partition(":")
    _alpha(name, argument, scheme)


def _alpha(name: str, argument: str, scheme: str) -> float:
    """The number after the colon, which only `dirichlet` has; 0 for the others."""
    known = [text.partition(":")[0] for text in SCHEMES]
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {SCHEMES[known.index(near[0])]}?" if near else f"choose {', '.join(SCHEMES)}"
        raise UsageError(f"{scheme!r} is no partition", where="partition", fix=hint)
    if name != "dirichlet":
        if scheme != name:
            raise UsageError(f"{name} takes no number, got {scheme!r}", where="partition", fix=f"write {name}")
        return 0.0
    try:
        alpha = float(argument)
    except ValueError:
        alpha = math.nan
    if not (math.isfinite(alpha) and alpha > 0):
        raise UsageError(
            f"{scheme!r} has no positive ALPHA", where="partition", fix="write dirichlet:0.5, or another number > 0"
        )
    return alpha


def _dirichlet(y: NDArray[Any], devices: int, alpha: float, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(devices)]
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        shares = rng.dirichlet(np.full(devices, alpha))
        # A tiny alpha can underflow all the gamma draws behind the shares; the class then goes to one device.
        if not np.isfinite(shares).all():
            shares = np.eye(devices)[rng.integers(devices)]
        cuts = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _fill(parts: list[NDArray[np.int64]], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    enough = min(HANDFUL, sum(map(len, parts)) // len(parts))
    for poor in range(len(parts)):
        while len(parts[poor]) < enough:
            rich = int(np.argmax([len(part) for part in parts]))
            give = min(enough - len(parts[poor]), len(parts[rich]) - enough)
            order = rng.permutation(parts[rich])
            parts[poor] = np.concatenate([parts[poor], order[:give]])
            parts[rich] = order[give:]
    return parts


def _natural(
    y: NDArray[Any], owners: NDArray[Any] | None, devices: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    if owners is None:
        raise UsageError(
            "the data names no owners", where="partition natural", fix="add a `device` field, or use iid or dirichlet"
        )
    if owners.shape != (len(y),):
        raise ShapeError(
            f"{len(owners)} owners for {len(y)} labels", where="partition natural", fix="store one per example"
        )
    known, owner_of = np.unique(owners, return_inverse=True)
    if len(known) < devices:
        raise EmptyShardError(
            f"{len(known)} owners are too few for {devices} devices", where="partition natural", fix="use fewer devices"
        )
    order = np.arange(devices) if len(known) == devices else rng.permutation(len(known))
    device_of_owner = np.empty(len(known), np.int64)
    device_of_owner[order] = np.arange(len(known)) % devices
    device_of = device_of_owner[owner_of]
    return [np.flatnonzero(device_of == device) for device in range(devices)]
