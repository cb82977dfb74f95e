"""A bundle that came as an archive, as a folder: whole and checked, or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from protos.atomic import force_to_disk
from protos.errors import EdgejouleError, IntegrityError, StoreError, UsageError
from protos.model.bundle import Bundle, open_bundle

__all__ = ["unpacked"]

_MOST_FILES = 32


def unpacked(content: bytes, out: Path, *, again: bool = False) -> Bundle:
    """Write the bundle in ``content`` as the folder ``out``.

    Args:
        again: replace a bundle that is there; nothing else is ever replaced.

    Raises:
        IntegrityError: no archive of a bundle.
        UsageError: there is something else at ``out``.
        StoreError: it cannot be written.
    """
    if out.exists() and not _is_bundle(out):
        raise UsageError("is there already, and is no bundle", where=str(out), fix="choose another -o")
    if out.exists() and not again:
        raise UsageError("is there already", where=str(out), fix="choose another -o, or add --again")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(out), fix="choose another -o") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if len(names) > _MOST_FILES or any(Path(name).name != name or name.startswith(".") for name in names):
                raise IntegrityError("names that are no files of a bundle", where=str(out))
            for name in names:
                path = part / name
                path.write_bytes(archive.read(name))
                force_to_disk(path)
        open_bundle(part)
        part.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
            os.replace(out, old / "old")
            os.replace(part, out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(part, out)
        return open_bundle(out)
    except zipfile.BadZipFile as error:
        raise IntegrityError("the bundle arrived damaged", where=str(out), fix="export it again") from error
    except EdgejouleError:
        raise
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(out), fix="choose another -o") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_bundle(path: Path) -> bool:
    try:
        open_bundle(path)
    except EdgejouleError:
        return False
    return True
