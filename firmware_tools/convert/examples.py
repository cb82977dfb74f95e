"""Real examples for a conversion: which are calibrated on, which are evaluated on, and what identifies them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from protos.datafiles import dataset
from protos.datafiles.dataset import Dataset
from protos.datafiles.front_end import front_end_of
from protos.datafiles.renames import composed
from protos.datafiles.stored import taken
from protos.errors import DataError, ModelError, UsageError

LEAST_TUNING = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Examples:
    """Calibration and evaluation examples, either of which may be absent; ``accounts`` says what became of each file,
    ``remarked`` those of which something was left out or changed."""

    calibration: Dataset | None
    evaluation: Dataset | None
    accounts: tuple[str, ...] = ()
    remarked: tuple[str, ...] = ()


def load_examples(
    calibrate: str | None,
    evaluate: str | None,
    input_shape: tuple[int, ...],
    class_names: tuple[str, ...] | None,
    *,
    renames: Mapping[str, str] | None = None,
    quantities: int | None = None,
    front_end: str | None = None,
    vocabulary: int | None = None,
) -> Examples:
    """Read both data sets.

    Calibration takes the training part of ``calibrate``, or of ``evaluate`` when only that is given and it holds some
    examples out. Evaluation takes the held-out part, or everything when none is held out. Where no class names are
    asked for, those of ``calibrate`` number the classes of ``evaluate`` too. ``quantities``: labels are real numbers,
    so many each, or 0 for any. ``vocabulary``: examples are token ids, and those with others are set aside.

    Raises:
        EdgejouleError: the data cannot be read or do not fit the model.
    """
    image_shape = input_shape if len(input_shape) == 3 else None

    def read(spec: str, names: tuple[str, ...] | None) -> Dataset:
        mine = {} if renames is None else renames
        before = None if front_end is None else front_end_of(front_end)
        found = dataset.load(
            spec, image_shape=image_shape, classes=names, renames=mine, quantities=quantities, front_end=before
        )
        return dataset.in_vocabulary(dataset.fitted(found, input_shape), vocabulary)

    same = bool(calibrate and evaluate and Path(calibrate).resolve() == Path(evaluate).resolve())
    fit = read(calibrate, class_names) if calibrate and not same else None
    names = class_names if class_names is not None or fit is None else fit.class_names
    held = read(evaluate, names) if evaluate else None
    fit = held if same else fit
    read_ones = [each_dataset for each_dataset in ((fit,) if same else (fit, held)) if each_dataset is not None]
    accounts = tuple(f"{each_dataset.source}: {dataset.account_of(each_dataset)}" for each_dataset in read_ones)
    remarked = tuple(
        line
        for line, each_dataset in zip(accounts, read_ones, strict=True)
        if each_dataset.left_out or each_dataset.changed or each_dataset.set_aside
    )
    remarked += tuple(line for data in read_ones if (line := _contradicted(data)) is not None)
    remarked += tuple(line for one in read_ones if class_names is None and (line := _alike(one)) is not None)
    _check_renames(renames or {}, fit if fit is not None else held)
    if fit is None and held is not None and held.is_test.any() and not held.is_test.all():
        fit = held
    marked = held is not None and bool(held.is_test.any()) and not held.is_test.all()
    for one in read_ones:
        _require_ids(one, vocabulary)
    if fit is not None:
        fit = fit.train()
        _check_values(fit, input_shape)
    if held is not None:
        held = held.test() if held.is_test.any() else held
        _check_values(held, input_shape)
    if fit is not None and held is not None and (marked or not same) and (twice := _in_both(fit, held)):
        remarked += (
            f"{held.source}: {twice} of {len(held)} held-out examples are among the training ones, value for value: "
            "what is measured on them says little of new data",
        )
    return Examples(fit, held, accounts, remarked)


def _require_ids(data: Dataset, vocabulary: int | None) -> None:
    """Where most examples are no token ids of the model, they are those of another tokeniser."""
    aside = sum(remark.count for remark in data.set_aside)
    if vocabulary is None or aside <= len(data):
        return
    raise DataError(
        f"{aside} of {aside + len(data)} examples hold what is no token id of the model, 0 to {vocabulary - 1}",
        where=data.source, fix="number the words as the model's tokeniser does; its unknown words have an id, too",
    )  # fmt: skip


def _alike(one: Dataset) -> str | None:
    """Classes whose names differ by case alone: two folders of one class, most likely."""
    found: dict[str, list[str]] = {}
    for name in one.class_names or ():
        found.setdefault(composed(name).casefold(), []).append(name)
    twins = [" and ".join(names) for names in found.values() if len(names) > 1]
    if not twins:
        return None
    return f"{one.source}: classes {', '.join(twins)} differ by case alone: if they are one, put them in one folder"


def load_tuning(
    spec: str,
    input_shape: tuple[int, ...],
    data: Examples,
    *,
    renames: Mapping[str, str] | None = None,
    front_end: str | None = None,
    vocabulary: int | None = None,
) -> tuple[Dataset, tuple[str, ...]]:
    """The training part of what weights are trained on (``--qat``), and what is to be remarked of it.

    Where both name classes, they must be the same.

    Raises:
        EdgejouleError: the data cannot be read or do not fit the model.
        DataError: there are too few.
    """
    known = next(
        (
            each_dataset.class_names
            for each_dataset in (data.calibration, data.evaluation)
            if each_dataset and each_dataset.class_names
        ),
        None,
    )
    found = dataset.load(
        spec,
        image_shape=input_shape if len(input_shape) == 3 else None,
        classes=known,
        renames={} if renames is None else renames,
        front_end=None if front_end is None else front_end_of(front_end),
    )
    found = dataset.in_vocabulary(dataset.fitted(found, input_shape), vocabulary).train()
    _check_values(found, input_shape)
    if len(found) < LEAST_TUNING:
        raise DataError(
            f"--qat trains on {len(found)} examples, and {LEAST_TUNING} are the least that say anything",
            where=found.source, fix="give more examples of the kind",
        )  # fmt: skip
    remarked: tuple[str, ...] = ()
    if data.evaluation is not None and (twice := _in_both(found, data.evaluation)):
        remarked = (
            f"{found.source}: {twice} of {len(data.evaluation)} held-out examples are among those of --qat, value for "
            "value: what is measured on them says little of new data",
        )
    return found, remarked


def _contradicted(data: Dataset) -> str | None:
    """What is to be said where one example stands in two classes, value for value."""
    if data.y.ndim != 1:
        return None
    first: dict[bytes, int] = {}
    other = sum(first.setdefault(key, label) != label for key, label in zip(_keys(data), data.y.tolist(), strict=True))
    if not other:
        return None
    return (
        f"{data.source}: {other} of {len(data)} examples are those of another class, value for value: which is right?"
    )


def _in_both(fit: Dataset, held: Dataset) -> int:
    """How many held-out examples are training examples, too, byte for byte."""
    if fit.held.dtype != held.held.dtype:
        return 0
    known = set(_keys(fit))
    return sum(key in known for key in _keys(held))


def _keys(data: Dataset) -> Iterator[bytes]:
    """A digest of each example's values, a few megabytes of them in memory at a time."""
    for block in dataset.blocks(data.held):
        for one in block:
            yield hashlib.blake2b(np.ascontiguousarray(one).tobytes(), digest_size=16).digest()


def _check_renames(renames: Mapping[str, str], data: Dataset | None) -> None:
    """A new name that no class got is a slip: where the data name the classes, nothing else would find it."""
    known = data.class_names if data is not None else None
    strange = [f"{old}={new}" for old, new in renames.items() if known is None or new not in map(composed, known)]
    if strange:
        raise UsageError(
            f"--rename {strange[0]} changes nothing: "
            + (f"the classes are {', '.join(known[:8])}" if known else "the data name no classes"),
            where=data.source if data is not None else None,
            fix="spell both names as they are",
        )


def _check_values(data: Dataset, input_shape: tuple[int, ...]) -> None:
    """Shapes, types and NaN; labels wait until the classes are known, and do not matter for calibration."""
    dataset.check(dataclasses.replace(data, y=np.zeros(len(data.y), np.int32)), input_shape, 1)


def choose(data: Dataset, count: int, seed: int) -> Any:
    """At most ``count`` raw examples [n, ...], drawn without replacement from ``seed``, in their own order."""
    return taken(data.held, np.arange(len(data))[chosen_rows(len(data), count, seed)])


def chosen_rows(available: int, count: int, seed: int) -> Any:
    """The rows that :func:`choose` takes: all, or ``count`` of them, ascending."""
    if available <= count:
        return slice(0, available)
    picked = np.random.default_rng([seed, 0xCA11]).choice(available, count, replace=False)
    return np.sort(picked)


def digest(data: Dataset) -> str:
    """SHA-256 (hexadecimal) of the examples and labels themselves, whatever file they came in."""
    value = hashlib.sha256(f"{data.held.dtype}{data.held.shape}".encode())
    for block in dataset.blocks(data.held):
        value.update(np.ascontiguousarray(block).data)
    value.update(np.ascontiguousarray(data.y).data)
    return value.hexdigest()


def class_names(
    asked: tuple[str, ...] | None, count: int | None, from_model: int | None, data: Examples, *, where: str
) -> tuple[str, ...]:
    """Names of the classes: as asked, else from the data, else numbers.

    Args:
        asked: ``--class-names``.
        count: ``--classes``.
        from_model: classes of the model's own last layer, if it has one that is known.
        data: the examples, which may carry names.
        where: the model, for errors.

    Raises:
        UsageError: the counts contradict each other.
        ModelError: nothing says how many classes there are.
    """
    if asked is not None:
        return asked
    named = next(
        (
            each_dataset.class_names
            for each_dataset in (data.calibration, data.evaluation)
            if each_dataset and each_dataset.class_names
        ),
        None,
    )
    if count is None and named is not None and from_model not in (None, len(named)):
        raise UsageError(
            f"the model has {from_model} classes, the data {len(named)}", where=where,
            fix=f"say --classes {len(named)} for a new head, or --classes {from_model} to keep the old one",
        )  # fmt: skip
    total = count if count is not None else from_model if from_model is not None else len(named) if named else None
    if total is None:
        raise ModelError(
            "nothing says how many classes there are", where=where, fix="give --classes N or --class-names"
        )
    if named is not None and len(named) == total:
        return named
    return tuple(str(index) for index in range(total))
