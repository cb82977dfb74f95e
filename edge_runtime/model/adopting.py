"""Whether a head that a run ended with becomes the model at work here: only if it is not worse on the board's own data.

Rules kept here:

* What decides are the board's held-out examples. Where it has none, or works with a model of another bundle, which
  cannot be compared example by example, the new head is taken. ``adopt`` says otherwise: ``always``, ``never``.
* A head is worse when fewer held-out examples are right, or, of as many, when its loss is higher by more than a tenth.
* A personal head (``personal_head``) comes of the board's own class means, where the bundle has class sums
  (:mod:`edge_runtime.model.own_head`): of training examples alone. Where held-out ones tell that it is worse than the
  head that came, that one is taken.
* With other bundles it is ``(1 - a) global + a own``, where *own* is the global one tuned on the board's training
  examples. The share a is chosen by the loss on one half of the held-out examples, and what comes of it is judged on
  the other half: a figure that was chosen by is no figure to judge by.
* A board that asks for a width of its own (``head_bits``) works with the head whose kernels are rounded to it, each
  output on the grid of least squared error; it is judged as it would work.
* Nothing of this is part of a round: its joules are idle energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.identity.signatures import Signatures
from edge_runtime.model.current import About, Model, open_current, take
from edge_runtime.model.own_head import own_head
from edge_runtime.round.evaluation import HeldOut, evaluate
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.inputs.embeddings import dequantise
from edge_runtime.round.training import balanced_weights, train
from edge_runtime.round.work import Workbench, fill_held_out
from edge_runtime.systemd.logging_setup import log
from protos.errors import EdgejouleError, UpdateError
from protos.model.bundle import Bundle
from protos.model.head_kinds.weight_grids import FULL, Rounding, round_head
from protos.orders import HeadEvaluation, Publication, Reception
from protos.progress import progressed
from protos.trust.delegated import HeadStatement
from protos.update import trees
from protos.update.tensors import decode
from protos.update.trees import Tree

__all__ = ["Chosen", "chosen", "head_of", "is_worse", "personal", "receive"]

_MUCH = 1.1
_SHARES = (0.25, 0.5, 0.75, 1.0)
_EPOCHS = 5
_LEAST_HELD_OUT = 4


@dataclass(frozen=True)
class Chosen:
    """What is to be done with a new head.

    Attributes:
        head: to work with; None to keep what is there.
        share: of the board's own head in it.
        reason: in words.
        evaluation: of the published head, on all held-out examples; None without any.
        own: of the head to work with.
    """

    head: Tree | None
    share: float
    reason: str
    evaluation: HeadEvaluation | None
    own: HeadEvaluation | None = None


def is_worse(new: HeadEvaluation, old: HeadEvaluation) -> bool:
    """Of two heads on the same examples."""
    if new.correct != old.correct:
        return new.correct < old.correct
    return new.loss > _MUCH * old.loss


def head_of(publication: Publication, bundle: Bundle, heads: HeldHeads) -> Tree:
    """The head that was published, to the bit.

    Raises:
        UpdateError: it is not of the bundle's shapes, not as it is called, or named only, and not held here.
    """
    shapes = bundle.manifest.head.shapes()
    where = f"head of {publication.run_id}"
    if publication.base:
        found = heads.find(publication.base, bundle.initial_head())
        if found is None or trees.shapes(found) != shapes:
            heads.want_whole()
            raise UpdateError("the head is not held here any more; it is asked for whole", where=where)
        return found
    head = decode(publication.head, shapes)
    if trees.version(head) != publication.head_version:
        raise UpdateError("its version is another than it is called", where=where)
    return head


def receive(
    publication: Publication,
    bundle: Bundle,
    bench: Workbench | None,
    state: Path,
    heads: HeldHeads,
    signatures: Signatures,
    *,
    adopt: str,
    personally: bool,
    bits: int = FULL,
) -> tuple[Reception, Model | None]:
    """Look at a published head, and take it to work if it is good enough.

    Args:
        bench: with the board's data for this bundle; None where they do not fit it.
        signatures: what may come to work; see :mod:`edge_runtime.identity.signatures`.
        adopt: ``better``, ``always`` or ``never``.
        personally: a personal head is tried.
        bits: that kernels of the head at work are on.

    Returns:
        What to tell the coordinator, and the model that is on disk as the one at work, now or already; None where
        the head is not taken.

    Raises:
        IntegrityError: it may not come to work here; what is at work stays.
        UpdateError, StoreError, DataError, ...: it cannot be read, judged or written now.
    """
    head = head_of(publication, bundle, heads)
    # Before an engine sees a number of it.
    signatures.check_head(publication.signed, _said_of(publication, head), f"head of {publication.run_id}")
    if bench is not None and bench.held_out is not None and not bench.held_out.cache.complete:
        fill_held_out(bench)
    current = _current(state)
    if current is not None and current.about.published_version == publication.head_version:
        # The same head out of another run, or once more after a restart or a disk that was full.
        return Reception(publication.id, True, "it is at work already", _of(head, bundle, bench)), current
    found = chosen(head, bundle, bench, current, adopt=adopt, personally=personally, bits=bits)
    if found.head is None:
        log().info("head %s is not taken to work: %s", publication.head_version, found.reason)
        return Reception(publication.id, False, found.reason, found.evaluation), None
    about = About(
        version=trees.version(found.head),
        published_version=publication.head_version,
        bundle_id=bundle.bundle_id,
        run_id=publication.run_id,
        run=publication.name,
        round=publication.round,
        personal=found.share,
        bits=bits,
        accuracy=publication.accuracy,
        loss=publication.loss,
        own=found.own,
    )
    model = take(state, bundle, found.head, about)
    log().info("head %s of %s is at work: %s", about.version, about.run, found.reason)
    return Reception(publication.id, True, found.reason, found.evaluation), model


def _said_of(publication: Publication, head: Tree) -> HeadStatement:
    """What a signature of this head must say."""
    return HeadStatement(
        bundle=publication.bundle_id.removeprefix("sha256:"),
        run_id=publication.run_id,
        run=publication.name,
        round=publication.round,
        sha256=trees.digest(head),
        shapes=trees.shapes(head),
        counter=0,
        issued_unix_s=0,
    )


def _current(state: Path) -> Model | None:
    try:
        return open_current(state)
    except (EdgejouleError, OSError) as error:
        log().warning("the model at work is damaged, and counts for nothing: %s", error)
        return None


def _of(head: Tree, bundle: Bundle, bench: Workbench | None) -> HeadEvaluation | None:
    if bench is None or bench.held_out is None:
        return None
    return bench.held_out.evaluate(head, bundle, bench.head)


def chosen(
    head: Tree, bundle: Bundle, bench: Workbench | None, current: Model | None, *, adopt: str, personally: bool,
    bits: int = FULL,
) -> Chosen:  # fmt: skip
    """What to work with from now on."""
    rounding = Rounding(bits, "mse", "channel")
    new = _of(head, bundle, bench)
    if adopt == "never":
        return Chosen(None, 0.0, "the settings say adopt = never", new)
    trains = personally and bench is not None and bench.cache.complete and bench.summary.train_count > 0
    by_means = own_head(head, bench) if trains and bench is not None else None
    share, best = by_means if by_means is not None else (0.0, head)
    if new is None or bench is None or bench.held_out is None:
        words = "there are no own held-out examples to judge it by"
        words += f"; with {share:.0%} of an own head" if share else ""
        return Chosen(round_head(best, rounding), share, words, new, new)
    judged: HeldOut | _Half = bench.held_out
    if by_means is None and trains and new.examples >= _LEAST_HELD_OUT:
        share, best = personal(head, bench)
        # Judged on the half that nothing was chosen by.
        judged = _half(bench.held_out, 1) if share else bench.held_out
    if by_means is not None and share and is_worse(_judge(best, bench, judged), new):
        share, best = 0.0, head
    best = round_head(best, rounding)
    own = _judge(best, bench, judged)
    comparable = current is not None and current.bundle.bundle_id == bundle.bundle_id
    if adopt == "better" and current is not None and comparable:
        before = _judge(current.head, bench, judged)
        if is_worse(own, before):
            what = f"{own.correct} of {own.examples} own examples right, {before.correct} before"
            return Chosen(None, share, f"it is worse here: {what}; loss {own.loss:.3g}, {before.loss:.3g} before", new)
    words = f"{own.correct} of {own.examples} own examples right"
    return Chosen(best, share, words if not share else f"{words}, with {share:.0%} of an own head", new, own)


def personal(head: Tree, bench: Workbench) -> tuple[float, Tree]:
    """The share of an own head that is best on the first half of the held-out examples, and the mixture.

    Equal losses go to the smaller share.
    """
    assert bench.held_out is not None
    tuned, first = _tuned(head, bench), _half(bench.held_out, 0)
    best = (_judge(head, bench, first).loss, 0.0, head)
    for share in _SHARES:
        mixed = trees.add_scaled(head, trees.subtract(tuned, head), share)
        loss = _judge(mixed, bench, first).loss
        if loss < best[0]:
            best = (loss, share, mixed)
    return best[1], best[2]


def _tuned(head: Tree, bench: Workbench) -> Tree:
    """The head after some passes over the board's own training examples, with the bundle's defaults."""
    spec, labels = bench.bundle.manifest.backbone, bench.summary.labels
    steps = _EPOCHS * -(-len(labels) // bench.head.batch_size)
    before = bench.head.read()
    bench.head.write(head)
    try:
        train(
            bench.head,
            bench.cache.view(),
            labels,
            lambda quantised: quantised if bench.head.takes_integers else dequantise(quantised, spec),
            steps=steps,
            inputs={},
            seed=0,
            purpose=("personal", bench.device_id),
            allowed=progressed,
            weights=balanced_weights(labels) if bench.balanced else None,
        )
        tuned = bench.head.read()
    finally:
        bench.head.write(before)
    return tuned if all(np.isfinite(array).all() for array in tuned.values()) else head


@dataclass(frozen=True)
class _Half:
    """Every other held-out example, with the embeddings in memory."""

    labels: npt.NDArray[np.int32]
    embeddings: npt.NDArray[Any]


def _half(held_out: HeldOut, first: int) -> _Half:
    return _Half(held_out.labels[first::2], held_out.cache.view()[first::2])


def _judge(head: Tree, bench: Workbench, examples: HeldOut | _Half) -> HeadEvaluation:
    embeddings = examples.cache.view() if isinstance(examples, HeldOut) else examples.embeddings
    return evaluate(head, bench.bundle, embeddings, examples.labels, bench.head)
