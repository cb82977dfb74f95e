"""What an export needs, gathered: bundle, head, calibration embeddings, and held-out examples when they are there."""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.export.exporter import DEFAULT_LIMIT, export_model
from coordinator.operator.status import ExportSummary
from coordinator.run.evaluation import Evaluator, embed, recall
from coordinator.run.planning import held_out
from coordinator.store import runs
from coordinator.store.database import Database
from coordinator.store.models import heads
from coordinator.store.models.bundle_store import BundleStore
from protos.datafiles.dataset import Dataset
from protos.errors import CheckFailed, EdgejouleError, StoreError, UnknownRunError, UsageError
from protos.model.bundle import Bundle
from protos.model.head_kinds.denoiser import Denoiser
from protos.model.task import DIFFUSION
from protos.plan.plan import RunPlan, parse
from protos.update.trees import Tree


@dataclass(frozen=True)
class ExportJob:
    """One head of one run."""

    run_id: str
    plan: RunPlan
    directory: Path
    bundle_id: str
    evaluation_key: str | None
    head_version: str
    head: Tree


def find(db: Database, name: str, head_version: str) -> ExportJob:
    """The best head of a run on its held-out data, or the one asked for.

    Raises:
        UnknownRunError: no such run or head, or the run has none yet.
    """
    with db.reading() as connection:
        run_id = runs.resolve(connection, name)
        row = runs.row(connection, run_id)
        version = head_version or runs.best_head(connection, run_id)
        if version is None:
            raise UnknownRunError("the run has no head yet", where=run_id, fix="wait until it has begun")
        if head_version and head_version not in runs.head_versions(connection, run_id):
            fix = f"see: coordinator status {run_id} --json"
            raise UnknownRunError(f"the run has no head called {head_version!r}", where=run_id, fix=fix)
        head = heads.get(connection, version)
    return ExportJob(
        run_id=run_id,
        plan=parse(row["plan_toml"], where=row["name"]),
        directory=Path(row["plan_directory"]),
        bundle_id=row["bundle_id"],
        evaluation_key=row["evaluation_key"],
        head_version=version,
        head=head,
    )


def export(
    job: ExportJob, bundle_store: BundleStore, evaluations: Path, max_drop: float = DEFAULT_LIMIT
) -> tuple[ExportSummary, bytes]:
    """Assemble and check the integer model.

    Its ranges are calibrated on the held-out embeddings; it is run on the held-out examples, when these are still
    where the plan says, and must not be worse than the float head.

    Raises:
        UsageError: the run has no held-out data.
        CheckFailed: the integer model is worse than the float head by more than ``max_drop``, a share, and chance.
    """
    bundle = bundle_store.open(job.bundle_id)
    if bundle.manifest.task == DIFFUSION:
        return _denoiser(job, bundle)
    data = held_out_of(job, bundle)
    evaluator = evaluator_of(job, bundle, data, evaluations)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            report = export_model(
                bundle,
                job.head,
                evaluator.embeddings,
                path,
                test_x=None if data is None else data.x,
                test_y=None if data is None else data.y,
                limit=max_drop,
            )
            model = path.read_bytes()
    except CheckFailed as error:
        # Our temporary file is gone by then; the operator knows the run.
        raise CheckFailed(error.what, where=job.run_id, fix=error.fix) from error
    except OSError as error:
        if isinstance(error, EdgejouleError):
            raise
        raise StoreError(f"cannot be written ({error.strerror})", where="export", fix="free space") from error
    summary = ExportSummary(
        size_bytes=len(model),
        sha256=hashlib.sha256(model).digest(),
        head_version=job.head_version,
        float_accuracy=report.float_accuracy,
        exported_accuracy=report.exported_accuracy,
        operators=tuple(f"{operator.name} x {operator.count}" for operator in report.operators),
        note=report.note,
        measured=report.measured,
    )
    return summary, model


def unjudged(job: ExportJob, content: bytes, note: str) -> ExportSummary:
    """Of a file with a head that is no model to be judged on examples."""
    return ExportSummary(
        size_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
        head_version=job.head_version,
        float_accuracy=None,
        exported_accuracy=None,
        operators=(),
        note=note,
        measured=None,
    )


def _denoiser(job: ExportJob, bundle: Bundle) -> tuple[ExportSummary, bytes]:
    """A head that makes examples is no model of the device: it goes as it is to where it is sampled."""
    content = Denoiser.of(bundle, job.head).to_bytes()
    return unjudged(job, content, "a denoiser, no .tflite: firmware-tools sample makes examples of it"), content


def head_alone(job: ExportJob) -> tuple[ExportSummary, bytes]:
    """The head as an ``.npz`` of its float32 tensors, which `run.start_from` reads; it needs no held-out data."""
    made = io.BytesIO()
    arrays: dict[str, Any] = dict(job.head)
    np.savez(made, **arrays)
    content = made.getvalue()
    tensors = ", ".join(f"{name} {list(array.shape)}" for name, array in job.head.items())
    return unjudged(job, content, f"tensors of the head: {tensors}"), content


def held_out_of(job: ExportJob, bundle: Bundle) -> Dataset | None:
    """The held-out data where the plan says, or None when they are not there any more."""
    try:
        return held_out(job.plan, bundle.manifest, job.directory)
    except EdgejouleError:
        # They may have gone since the run was started; then a model is exported without being run on them.
        return None


def evaluator_of(job: ExportJob, bundle: Bundle, data: Dataset | None, evaluations: Path) -> Evaluator:
    """The run's held-out examples, as they were embedded for it, or embedded now.

    Raises:
        UsageError: it has none.
    """
    found = recall(bundle, job.evaluation_key, evaluations) if job.evaluation_key else None
    if found is not None:
        return found
    if data is None:
        raise UsageError(
            "there are no held-out data to run the head on",
            where=job.run_id,
            fix="name some in the plan: [evaluate] data = FILE",
        )
    return embed(bundle, data, evaluations)[1]
