"""A bundle folder appears whole or not at all.

It is built in a hidden folder beside its place, forced to disk, and renamed. An old bundle is moved aside first and
deleted last; a folder that is no bundle is never replaced.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protos.atomic import force_to_disk
from protos.errors import StoreError, UsageError
from protos.model.manifest import MANIFEST_FILE


def check_free(target: Path, *, force: bool) -> None:
    """Return when a bundle may be put at ``target``.

    Raises:
        UsageError: something is there, and it is no bundle, or ``force`` is not given.
    """
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink():
        if (target / MANIFEST_FILE).is_file():
            if not force:
                raise UsageError("this bundle exists already", where=str(target), fix="give --force to replace it")
            return
        if not any(target.iterdir()):
            return
    raise UsageError("is there and is no bundle: not replaced", where=str(target), fix="choose another -o BUNDLE/")


@contextmanager
def staged(target: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder that becomes ``target`` when the block ends without an error, and vanishes when it does not.

    Raises:
        UsageError: see `check_free`.
        StoreError: the file system refuses.
    """
    check_free(target, force=force)
    target = Path(os.path.abspath(target))
    made = _missing_parents(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(target)) from error
    try:
        yield folder
        check_free(target, force=force)
        _commit(folder, target)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot be written ({error.strerror})", where=str(target)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()  # only when it is still empty


def _missing_parents(target: Path) -> list[Path]:
    return [parent for parent in target.parents if not parent.exists()]


def _commit(folder: Path, target: Path) -> None:
    # mkdtemp makes a folder for its owner alone; give what mkdir would have given.
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in sorted(folder.iterdir()):
        file.chmod(0o666 & ~mask)
        force_to_disk(file)
    force_to_disk(folder)
    aside = None
    if target.exists():
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
        os.rename(target, aside)
    try:
        os.rename(folder, target)
    except OSError:
        if aside is not None:
            os.rename(aside, target)
        raise
    force_to_disk(target.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)
