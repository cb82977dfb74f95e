"""Class names of data against class names of a model: which label is which.

Names are compared as people read them. macOS writes an accented letter as two characters where other systems write one
(Unicode normalisation forms D and C), and capitals are often the only difference between two folders. A name that still
has no counterpart is never placed by its position in the alphabet: that gives every example a wrong label in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import printable
from protos.datafiles.formats.columns import NO_LABEL
from protos.datafiles.renames import composed
from protos.errors import LabelError

_SHOWN = 8


def are_numbers(names: Sequence[str]) -> bool:
    """Whether these are no names but the numbers that stand in for them: 0, 1, 2..."""
    return tuple(names) == tuple(str(index) for index in range(len(names)))


def renumber(
    y: NDArray[np.int32],
    stored: Sequence[str],
    wanted: Sequence[str] | None,
    where: str,
    renames: Mapping[str, str] | None = None,
    *,
    tolerant: bool = False,
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels in the order of the model's classes, when the data's own class names say so.

    A device may hold only some of the classes; numbering its folders 0, 1, 2... would shift every label after the
    first one missing. So names decide. Only where one side has no names but numbers do the numbers stay.

    Args:
        y: int32 [N], indices into `stored`.
        stored: the class names of the data.
        wanted: the class names of the model, or None.
        renames: the data's name to the model's (`--rename`); None where the caller has no such option. Those of
            classes that are not here do nothing: a device may hold only some.
        tolerant: examples of a name that the model has not, or without a name, get `NO_LABEL` instead of an error.

    Raises:
        LabelError: some name of the data is none of the model's, or is two of them; or a label has no name.
    """
    asked = renames or {}
    named = [asked.get(composed(name), name) for name in stored]
    if wanted is None and named == list(stored):
        return y, tuple(stored)
    nameless = (y < 0) | (y >= len(stored))
    if tolerant:
        y = np.where(nameless, NO_LABEL, y).astype(np.int32)
    elif nameless.any():
        if wanted is not None and tuple(named) == tuple(wanted):
            return y, tuple(wanted)  # the check of the data against the model says which example it is
        index = int(np.flatnonzero(nameless)[0])
        raise LabelError(
            f"`y` is {y[index]} at example {index}, but there are {len(stored)} class names",
            where=where,
            fix=f"store labels 0 to {len(stored) - 1}",
        )
    if wanted is None:
        wanted = tuple(dict.fromkeys(named))
    elif not renames and len(stored) == len(wanted) and _one_side_is_numbers(stored, wanted):
        return y, tuple(wanted) if are_numbers(stored) else tuple(stored)
    # The last place is that of examples without a label.
    table = np.array([*_places(named, stored, wanted, where, renames, tolerant=tolerant), NO_LABEL], np.int32)
    return table[y], tuple(wanted)


def _one_side_is_numbers(stored: Sequence[str], wanted: Sequence[str]) -> bool:
    return are_numbers(stored) or (are_numbers(wanted) and not set(stored) & set(wanted))


def _places(
    named: Sequence[str],
    stored: Sequence[str],
    wanted: Sequence[str],
    where: str,
    renames: Mapping[str, str] | None,
    *,
    tolerant: bool,
) -> list[int]:
    exact = {composed(name): index for index, name in enumerate(wanted)}
    folded = Counter(composed(name).casefold() for name in wanted)
    unique = {fold: index for name, index in exact.items() if folded[fold := name.casefold()] == 1}
    mine = Counter(composed(name).casefold() for name in dict.fromkeys(named))
    places, strange = [], []
    for name, original in zip(named, stored, strict=True):
        whole = composed(name)
        place = exact.get(whole)
        if place is None and mine[whole.casefold()] == 1:
            place = unique.get(whole.casefold())
        if place is None and tolerant:
            places.append(NO_LABEL)
        elif place is None:
            strange.append(original)
        else:
            places.append(place)
    if strange:
        asked = "rename the classes of the data"
        if renames is not None:
            free = [name for index, name in enumerate(wanted) if index not in places]
            asked = f"say which is which: --rename '{_short(strange[0])}={_short(free[0] if free else wanted[0])}'"
        raise LabelError(
            f"class {_short(strange[0])!r} is not among the {len(wanted)} classes of the model "
            f"({_listed(wanted)}); the data have {_listed(stored)}",
            where=where,
            fix=asked,
        )
    return places


def _listed(names: Sequence[str]) -> str:
    # Long names and long lists must not make the message unreadable.
    shown = ", ".join(printable(_short(name, 24)) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _short(name: str, most: int = 60) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."
