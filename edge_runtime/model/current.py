"""The model at work, on disk: ``current/`` in the state folder, which is one model or another and never half of each.

``current`` is a link to a folder below ``models/``; a new model is written there whole and synced, then the link is
replaced by rename(2). Who reads resolves the link once, and has one model however often it is replaced meanwhile: the
folders of the last few stay.

Such a folder is a bundle (``manifest.json`` with the hashes of its files) with three files more:

head.tree    the head, in standardised space (``edge_runtime/round/tree_file.py``)
labels.txt   the names of the classes, a line each, in the order of the scores
model.json   what it is: version, run, round, metrics (:class:`About`)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.round.tree_file import read_tree, write_tree
from edge_runtime.state import keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.atomic import force_to_disk
from protos.commands.json_document import document
from protos.errors import EdgejouleError, IntegrityError
from protos.model.bundle import Bundle, open_bundle
from protos.model.head_algebra import check_tree
from protos.model.manifest import MANIFEST_FILE
from protos.orders import HeadEvaluation
from protos.update import trees
from protos.update.trees import Tree

__all__ = ["About", "Model", "models_in", "open_current", "take"]

CURRENT, MODELS = "current", "models"
_HEAD, _LABELS, _ABOUT = "head.tree", "labels.txt", "model.json"
_KEEP = 3


@dataclass(frozen=True)
class About:
    """Where a model at work comes from.

    Attributes:
        version: of the head at work.
        published_version: of the head that the run ended with; another one where the head at work is a personal one.
        round: that the head came of.
        personal: share of this board's own head in it, 0 to 1.
        bits: that its kernels are rounded to; 32: as they came.
        accuracy, loss: on the coordinator's held-out data, or None.
        own: on this board's held-out examples, or None.
    """

    version: str
    published_version: str
    bundle_id: str
    run_id: str
    run: str
    round: int
    personal: float = 0.0
    bits: int = 32
    accuracy: float | None = None
    loss: float | None = None
    own: HeadEvaluation | None = None


@dataclass(frozen=True)
class Model:
    """One model: a bundle, a head for it, and where they come from."""

    bundle: Bundle
    head: Tree
    about: About

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the scores."""
        return tuple(self.bundle.manifest.classes)


def take(state: Path, bundle: Bundle, head: Tree, about: About) -> Model:
    """Make this the model at work: it is on disk afterwards, or nothing has changed.

    Raises:
        StoreError: it cannot be written.
    """
    root, link = state / MODELS, state / CURRENT
    with storing(root):
        root.mkdir(mode=0o700, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=root, prefix=".part-"))
    try:
        with storing(part):
            _fill(part, bundle, head, about)
            place = Path(tempfile.mkdtemp(dir=root, prefix=f"{about.version}-"))
            # rename(2) takes an empty folder's place.
            os.rename(part, place)
            force_to_disk(root)
            fresh = state / f".{CURRENT}.part"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(Path(MODELS) / place.name)
            os.replace(fresh, link)
            force_to_disk(state)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    used(place)
    keep_newest(root, _KEEP, in_use=[place])
    return Model(dataclasses.replace(bundle, path=place), head, about)


def open_current(state: Path) -> Model | None:
    """The model at work; None where there is none yet.

    Raises:
        IntegrityError, ModelError: it is damaged, and how.
    """
    link = state / CURRENT
    if not link.exists():
        return None
    for _ in range(_KEEP):
        place = link.resolve()
        try:
            return _open(place)
        except (EdgejouleError, OSError):
            # So many models came while this one was read that it is gone.
            if link.resolve() == place:
                raise
    return _open(link.resolve())


def models_in(state: Path) -> int:
    """How many models are kept there."""
    root = state / MODELS
    return len([path for path in root.iterdir() if not path.name.startswith(".")]) if root.is_dir() else 0


def _open(place: Path) -> Model:
    bundle = open_bundle(place, twin_may_lack=True)
    head = check_tree(read_tree(place / _HEAD), bundle.manifest.head.shapes(), where=str(place / _HEAD))
    try:
        said = json.loads((place / _ABOUT).read_bytes())
        fields = {field.name: said[field.name] for field in dataclasses.fields(About)}
        if fields["own"] is not None:
            own = fields["own"]
            counts = {key: tuple(own[key]) for key in ("class_examples", "class_correct")}
            fields["own"] = HeadEvaluation(**{**own, **counts})
        about = About(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"cannot be read ({error})", where=str(place / _ABOUT)) from error
    if trees.version(head) != about.version or bundle.bundle_id != about.bundle_id:
        raise IntegrityError("is not the model that it is called", where=str(place))
    return Model(bundle, head, about)


def _fill(part: Path, bundle: Bundle, head: Tree, about: About) -> None:
    for name in [MANIFEST_FILE, *bundle.manifest.files]:
        if (bundle.path / name).is_file():
            _same_file(bundle.path / name, part / name)
    write_tree(part / _HEAD, head, {"version": about.version})
    (part / _LABELS).write_text("".join(f"{class_name}\n" for class_name in bundle.manifest.classes), "utf-8")
    (part / _ABOUT).write_text(json.dumps(document("model", dataclasses.asdict(about)), indent=2) + "\n", "utf-8")
    for name in (_LABELS, _ABOUT, MANIFEST_FILE):
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
    force_to_disk(part)


def _same_file(source: Path, target: Path) -> None:
    """The file itself under another name where the disk allows it: files of bundles are never changed."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
    log().debug("%s: copied, since it cannot be linked", source)
