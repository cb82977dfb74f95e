"""Statistics, the numbers that are summed, and coordinates to train in, and their messages."""

from __future__ import annotations

from protos.convert.checks import checked_name, count_at_most
from protos.convert.tensors import tensors_from, tensors_to
from protos.errors import UpdateError
from protos.orders import BasisOrder
from protos.statistics.coding import MAX_CLASSES, MAX_WIDTH, CodedMoments, CodedWhole
from protos.statistics.features import MAX_PROJECT, MAX_SHIFT, FeatureMap
from protos.statistics.moments import LARGEST
from protos.v1 import edgejoule_pb2 as pb


def statistics_to(coded: CodedMoments | None) -> pb.Statistics | None:
    """Statistics as a message."""
    if coded is None:
        return None
    return pb.Statistics(
        offset=coded.offset,
        counts=coded.counts,
        totals=coded.totals,
        squares=coded.squares,
        sums=pb.CodedIntegers(**vars(coded.sums)),
        products=pb.CodedIntegers(**vars(coded.products)),
    )


def statistics_from(message: pb.Statistics) -> CodedMoments:
    """Statistics from a message. The numbers inside are checked when they are decoded, not here."""
    count_at_most(len(message.counts), MAX_CLASSES, "statistics.counts")
    count_at_most(len(message.totals), MAX_WIDTH, "statistics.totals")
    count_at_most(len(message.squares), MAX_WIDTH, "statistics.squares")
    return CodedMoments(
        message.offset,
        tuple(message.counts),
        tuple(message.totals),
        tuple(message.squares),
        _whole_from(message.sums),
        _whole_from(message.products),
    )


def _whole_from(message: pb.CodedIntegers) -> CodedWhole:
    return CodedWhole(message.fine, message.table, message.codes, message.low, message.tails)


def features_to(features: FeatureMap | None) -> pb.FeatureMap | None:
    """What is summed, as a message."""
    return None if features is None else pb.FeatureMap(**vars(features))


def features_from(message: pb.FeatureMap) -> FeatureMap:
    """What is summed, from a message."""
    for name, value, most in (("project", message.project, MAX_PROJECT), ("shift", message.shift, MAX_SHIFT)):
        if value > most:
            raise UpdateError(f"{value} is not 0 to {most}", where=f"statistics.{name}")
    if abs(message.offset) > LARGEST:
        raise UpdateError(f"{message.offset} is no offset of a byte", where="statistics.offset")
    return FeatureMap(message.offset, message.project, message.shift, message.seed)


def basis_to(basis: BasisOrder | None) -> pb.Basis | None:
    """Coordinates as a message."""
    return None if basis is None else pb.Basis(version=basis.version, tensors=tensors_to(basis.tensors))


def basis_from(message: pb.Basis) -> BasisOrder:
    """Coordinates from a message."""
    return BasisOrder(checked_name(message.version, "basis.version"), tensors_from(message.tensors))
