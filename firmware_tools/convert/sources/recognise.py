"""Tell what kind of model a path is, from its first bytes, and take its fingerprint. Opens nothing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from protos.errors import ModelError

_KINDS_HELP = "MODEL is a .keras or .h5 file, a SavedModel folder, or an integer .tflite file"
_TORCH = (
    "a PyTorch file",
    "make an int8 .tflite of it by litert-torch, or a SavedModel by torch.onnx.export and onnx2tf, and give that: "
    "see docs/models.md",
)
_ROUTES = {
    ".onnx": ("an ONNX file", "convert it by onnx2tf to a SavedModel folder, and give that: see docs/models.md"),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".pt2": _TORCH,
    ".safetensors": ("a file of weights alone", "load them into their model, and save that: see docs/models.md"),
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_UNZIP = "unzip it, and give the folder that saved_model.pb is in"
# What lies where a model should be, by its first bytes: a download that went wrong, mostly.
_MISTAKEN = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the model itself", "fetch it with git lfs pull"),
    (b"<!doctype", "a web page, not a model", "download it again: the address answered with a page"),
    (b"<html", "a web page, not a model", "download it again: the address answered with a page"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it (tar -xzf, gunzip), and give what is in it"),
)


def recognise(path: Path) -> str:
    """``keras``, ``h5``, ``saved_model`` or ``tflite``.

    Raises:
        ModelError: missing, empty, or not what its name says.
    """
    try:
        return _recognise(path)
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(path)) from error


def _recognise(path: Path) -> str:
    where = str(path)
    if path.is_dir():
        if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
            return "saved_model"
        raise _no_saved_model(path)
    if path.is_symlink() and not path.exists():
        raise ModelError(f"is a link that leads nowhere ({path.readlink()})", where=where, fix=_KINDS_HELP)
    if not path.exists():
        raise ModelError("no such file or folder", where=where, fix=_KINDS_HELP)
    if not path.is_file():
        raise ModelError("is no plain file", where=where, fix=_KINDS_HELP)
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise ModelError("is an empty file", where=where, fix=_KINDS_HELP)
    for first, what, fix in _MISTAKEN:
        if start.lower().startswith(first):
            raise ModelError(f"is {what}", where=where, fix=fix)
    suffix = path.suffix.lower()
    found = _kind_of(path, start)
    wanted = {".keras": "keras", ".h5": "h5", ".hdf5": "h5", ".tflite": "tflite"}.get(suffix)
    if suffix == ".pb":
        raise ModelError("is one file of a SavedModel", where=where, fix=f"give its folder: {path.parent}")
    if suffix in _ROUTES:
        raise ModelError(f"is {_ROUTES[suffix][0]}, which convert does not read", where=where, fix=_ROUTES[suffix][1])
    if wanted is None:
        held = {"keras": ".keras", "h5": ".h5", "tflite": ".tflite"}.get(found or "")
        fix = _KINDS_HELP if held is None else f"its content is that of a {held} file: give it that name"
        raise ModelError(f"has the unknown suffix {suffix!r}", where=where, fix=fix)
    # Keras 2 wrote HDF5 under the name .keras as well.
    if found != wanted and not (wanted == "keras" and found == "h5"):
        real = {"keras": "a zip archive", "h5": "HDF5", "tflite": "TFLite", None: "no model format known here"}[found]
        named = {"keras": ".keras", "h5": ".h5", "tflite": ".tflite"}.get(found or "")
        fix = "it is damaged, incomplete or misnamed" + (
            f": if it is whole, give it the name of a {named} file" if named else ""
        )
        raise ModelError(f"is named {suffix} but holds {real} (starts with {start[:8]!r})", where=where, fix=fix)
    return found or wanted


def _kind_of(path: Path, start: bytes) -> str | None:
    if start.startswith(_HDF5):
        return "h5"
    if start[4:8] == b"TFL3":
        return "tflite"
    if start.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise ModelError("is a truncated zip archive", where=str(path), fix="copy or save the model again")
        archive = _archive_refused(path)
        if archive is None:
            return "keras"
        if path.suffix.lower() in (".keras", ".zip"):
            raise archive
    return None


def _archive_refused(path: Path) -> ModelError | None:
    """Why a zip archive is no .keras file; None where it is one. Many a SavedModel is sent as an archive, too."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    where = str(path)
    if "config.json" in names:
        return None
    if any(name.rpartition("/")[2] in ("saved_model.pb", "saved_model.pbtxt") for name in names):
        return ModelError("is a zip archive of a SavedModel", where=where, fix=_UNZIP)
    inside = next((name for name in names if name.lower().endswith((".keras", ".h5", ".hdf5", ".tflite"))), None)
    if inside is not None:
        return ModelError(f"is a zip archive with {inside} in it", where=where, fix="unzip it, and give that")
    shown = ", ".join(names[:4]) or "nothing"
    return ModelError(f"is a zip archive without a model (it holds {shown})", where=where, fix=_KINDS_HELP)


def _no_saved_model(path: Path) -> ModelError:
    """What a folder holds in place of a SavedModel, one level down as well."""
    where, names = str(path), sorted(each_path.name for each_path in path.iterdir())
    if not names:
        return ModelError("is an empty folder", where=where, fix=_KINDS_HELP)
    if {"config.json", "model.weights.h5"} <= set(names):
        fix = "zip what is in it (zip -r -0 ../MODEL.keras .), and give that file"
        return ModelError("is a .keras file that was unpacked", where=where, fix=fix)
    for name in names:
        if (path / name / "saved_model.pb").is_file():
            return ModelError("is the folder above a SavedModel", where=where, fix=f"give {path / name}")
    return ModelError("is a folder without saved_model.pb", where=where, fix=_KINDS_HELP)


def fingerprint(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, or of the names and contents of all files of a folder, sorted by name."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()
    for file_path in sorted(each_path for each_path in path.rglob("*") if each_path.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{fingerprint(file_path)}\n".encode())
    return digest.hexdigest()
