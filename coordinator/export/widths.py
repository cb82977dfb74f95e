"""A head of a run after its kernels were rounded to few bits: how good it is on the held-out data, width by width.

Nothing is trained or calibrated for it: this is what a device gets that keeps the head on so many bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordinator.export.job import ExportJob, evaluator_of, held_out_of
from coordinator.operator.status import HeadEvaluation, RoundedHead
from coordinator.run.evaluation import Evaluator
from coordinator.store.models.bundle_store import BundleStore
from protos.model.head_kinds.weight_grids import FULL, KINDS, Rounding, head_size_bytes, round_head
from protos.update.trees import Tree


def at_widths(evaluator: Evaluator, head: Tree, bits: Sequence[int]) -> tuple[RoundedHead, ...]:
    """Each width with every kind of range, in the order given; 32 bits once, since all ranges are the same there."""
    found = []
    for width in bits:
        for ranges, granularity in KINDS[:1] if width == FULL else KINDS:
            how = Rounding(width, ranges, granularity)
            judged = evaluator.evaluate(round_head(head, how))
            found.append(
                RoundedHead(width, ranges, granularity, judged.accuracy, judged.loss, head_size_bytes(head, how))
            )
    return tuple(found)


def evaluate(job: ExportJob, bundle_store: BundleStore, evaluations: Path, bits: Sequence[int]) -> HeadEvaluation:
    """Run the head of a job at these widths.

    Raises:
        UsageError: the run has no held-out data.
    """
    bundle = bundle_store.open(job.bundle_id)
    evaluator = evaluator_of(job, bundle, held_out_of(job, bundle), evaluations)
    heads = at_widths(evaluator, job.head, bits)
    return HeadEvaluation(job.run_id, job.head_version, len(evaluator.labels), heads)
