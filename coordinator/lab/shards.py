"""A data set, divided over a fleet: one file for each device, one held out for the coordinator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.lab.partition import partition
from protos.datafiles import dataset
from protos.datafiles.dataset import Dataset
from protos.datafiles.front_end import declared
from protos.errors import EmptyShardError
from protos.model.manifest import Manifest
from protos.model.resemblance import held_against

# Of data that comes without a held-out part, this share is set aside.
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Shards:
    """Files written, and what is in them.

    Attributes:
        devices: one .npz a device, training examples only.
        held_out: the .npz for the coordinator.
        examples: training examples of each device.
        account: what became of the data, in one line.
        unlike: how they differ from what the bundle was calibrated on, or nothing.
        class_counts, held_out_counts: examples by class name, of each device and held out; of quantities, by group.
    """

    devices: tuple[Path, ...]
    held_out: Path
    examples: tuple[int, ...]
    held_out_examples: int
    account: str = ""
    unlike: str = ""
    class_counts: tuple[Mapping[str, int], ...] = ()
    held_out_counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Divided:
    """A data set in memory, divided.

    Attributes:
        train, test: the training examples of the fleet, and those held out.
        parts: int64 [n] for each device: its rows of ``train``, ascending.
        account, unlike: as of :class:`Shards`.
    """

    train: Dataset
    test: Dataset
    parts: tuple[NDArray[np.int64], ...]
    account: str
    unlike: str


def divide(
    spec: str,
    manifest: Manifest | None,
    *,
    devices: int,
    scheme: str,
    seed: int,
    renames: Mapping[str, str] | None = None,
) -> Divided:
    """Read data, check that they fit the bundle, where one is known, and divide them over a fleet.

    Raises:
        EdgejouleError: the data cannot be read, do not fit the bundle, or cannot be divided so.
    """
    unlike = ""
    if manifest is None:
        data = dataset.load(spec, renames=renames)
    else:
        shape = manifest.backbone.input_shape
        data = dataset.load(
            spec, image_shape=shape, classes=manifest.classes, renames=renames, quantities=manifest.quantities,
            front_end=declared(manifest.provenance),
        )  # fmt: skip
        data = dataset.in_vocabulary(data, manifest.backbone.vocabulary)
        dataset.check(data, shape, len(manifest.classes), manifest.backbone.vocabulary)
        unlike = held_against(manifest, data.held, where=data.source) or ""
    account = dataset.account_of(data)
    data = _with_held_out(data, seed)
    train, test = data.train(), data.test()
    if not len(train):
        raise EmptyShardError("there are no training examples", where=spec, fix="mark fewer examples as is_test")
    parts = partition(_grouped(train.y), train.owner, devices, scheme, seed)
    return Divided(train, test, tuple(parts), account, unlike)


def cut(
    spec: str,
    manifest: Manifest | None,
    folder: Path,
    *,
    devices: int,
    scheme: str,
    seed: int,
    renames: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
) -> Shards:
    """Divide data as :func:`divide` does, and write the shards into ``folder``.

    Args:
        names: of the devices; None: those of `device_names`.

    Raises:
        EdgejouleError: the data cannot be read, do not fit the bundle, or cannot be divided so.
    """
    made = divide(spec, manifest, devices=devices, scheme=scheme, seed=seed, renames=renames)
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{name}.npz" for name in names or device_names(devices))
    for path, indices in zip(paths, made.parts, strict=True):
        dataset.save(made.train.select(indices), path)
    held_out = folder / "held-out.npz"
    dataset.save(made.test, held_out)
    return Shards(
        paths,
        held_out,
        tuple(len(indices) for indices in made.parts),
        len(made.test),
        made.account,
        made.unlike,
        tuple(_counts(made.train.select(indices)) for indices in made.parts),
        _counts(made.test),
    )


def _counts(data: Dataset) -> dict[str, int]:
    """Examples by class, by name where there are names; of quantities, all of them as one."""
    if data.y.ndim != 1:
        return {"all": len(data)}
    labels, counts = np.unique(data.y, return_counts=True)
    names = data.class_names
    return {
        str(names[int(label)] if names is not None and int(label) < len(names) else int(label)): int(count)
        for label, count in zip(labels, counts, strict=True)
    }


def _grouped(y: NDArray[Any], groups: int = 10) -> NDArray[Any]:
    """Groups for a partition by class: the classes; of quantities, about equal parts by the first of them."""
    if y.ndim == 1:
        return y
    edges = np.quantile(y[:, 0], np.linspace(0, 1, groups + 1)[1:-1])
    found: NDArray[Any] = np.searchsorted(edges, y[:, 0]).astype(np.int32)
    return found


def device_names(count: int) -> tuple[str, ...]:
    """The devices' ids, in order; zeros keep a sorted list sorted."""
    width = len(str(count))
    return tuple(f"device-{number:0{width}}" for number in range(1, count + 1))


def _with_held_out(data: Dataset, seed: int) -> Dataset:
    if data.is_test.any() or len(data) < 2:
        return data
    chosen = np.random.default_rng([seed, 0x4E1D]).permutation(len(data))[: max(1, int(HELD_OUT_SHARE * len(data)))]
    is_test = np.zeros(len(data), np.bool_)
    is_test[chosen] = True
    return Dataset(data.x, data.y, is_test, data.owner, data.class_names, data.source)
