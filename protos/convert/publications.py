"""Heads that runs ended with, what devices did with them, and how good heads are on devices' own examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protos.convert.checks import MAX_NAME, checked_name, count_at_most, finite, said
from protos.convert.head_transfers import head_to
from protos.convert.tensors import tensors_from
from protos.errors import UpdateError
from protos.orders import HeadEvaluation, Publication, Reception
from protos.trust.delegated import MAX_SIGNED_BYTES
from protos.v1 import edgejoule_pb2 as pb

MAX_RECEPTIONS = 64
# As many as a bundle may have (protos/model/manifest.py), and more examples than any device stores.
MAX_CLASSES = 1 << 16
MAX_EXAMPLES = 1_000_000_000
_MAX_LOSS = 3.5e38


def publication_to(publication: Publication | None) -> pb.Publication | None:
    """As a message."""
    if publication is None:
        return None
    return pb.Publication(
        run_id=publication.run_id,
        name=publication.name,
        bundle_id=publication.bundle_id,
        head=head_to(publication.head_version, publication.head, publication.base, ()),
        round=publication.round,
        accuracy=publication.accuracy,
        loss=publication.loss,
        evaluate=publication.evaluate,
        signed=publication.signed,
    )


def publication_from(message: pb.Publication) -> Publication:
    """From a message."""
    if bool(message.head.base) == bool(message.head.tensors) or message.head.differences:
        raise UpdateError("neither whole nor the name of a head", where="publication.head")
    count_at_most(len(message.signed), MAX_SIGNED_BYTES, "bytes of publication.signed")
    return Publication(
        run_id=checked_name(message.run_id, "publication.run_id"),
        name=said(message.name, MAX_NAME),
        bundle_id=checked_name(message.bundle_id, "publication.bundle_id"),
        round=message.round,
        head_version=checked_name(message.head.version, "publication.head.version"),
        head=tensors_from(message.head.tensors),
        base=checked_name(message.head.base, "publication.head.base", empty=True),
        accuracy=finite(message.accuracy, "accuracy", at_most=1.0) if message.HasField("accuracy") else None,
        loss=finite(message.loss, "loss", at_most=_MAX_LOSS) if message.HasField("loss") else None,
        evaluate=message.evaluate,
        signed=message.signed,
    )


def receptions_to(receptions: Iterable[Reception]) -> list[pb.Reception]:
    """As messages."""
    return [
        pb.Reception(
            publication=reception.publication,
            adopted=reception.adopted,
            reason=reception.reason[:MAX_NAME],
            evaluation=evaluation_to(reception.evaluation),
        )
        for reception in receptions
    ]


def receptions_from(messages: Sequence[pb.Reception]) -> tuple[Reception, ...]:
    """From messages."""
    count_at_most(len(messages), MAX_RECEPTIONS, "receptions")
    return tuple(
        Reception(
            checked_name(message.publication, "reception.publication"),
            message.adopted,
            said(message.reason, MAX_NAME),
            evaluation_from(message.evaluation) if message.HasField("evaluation") else None,
        )
        for message in messages
    )


def evaluation_to(evaluation: HeadEvaluation | None) -> pb.HeadEvaluation | None:
    """As a message."""
    if evaluation is None:
        return None
    return pb.HeadEvaluation(
        head_version=evaluation.head_version,
        examples=evaluation.examples,
        correct=evaluation.correct,
        loss=evaluation.loss,
        class_examples=evaluation.class_examples,
        class_correct=evaluation.class_correct,
    )


def evaluation_from(message: pb.HeadEvaluation) -> HeadEvaluation:
    """From a message; its counts agree with each other.

    Raises:
        UpdateError: they do not, or a figure cannot be.
    """
    where = "evaluation"
    count_at_most(len(message.class_examples), MAX_CLASSES, where)
    by_class, right = tuple(message.class_examples), tuple(message.class_correct)
    if not 1 <= message.examples <= MAX_EXAMPLES or message.correct > message.examples:
        raise UpdateError(f"{message.correct} of {message.examples} examples right", where=where)
    if len(by_class) != len(right) or any(some > of for some, of in zip(right, by_class, strict=True)):
        raise UpdateError("counts by class that contradict each other", where=where)
    if by_class and (sum(by_class), sum(right)) != (message.examples, message.correct):
        raise UpdateError("counts by class that are not those of all", where=where)
    return HeadEvaluation(
        checked_name(message.head_version, "evaluation.head_version"),
        message.examples,
        message.correct,
        finite(message.loss, "evaluation.loss", at_most=_MAX_LOSS),
        by_class,
        right,
    )
