"""What devices agree on before a masked sum, and reveal after it, and the messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protos.convert.checks import checked_name, count_at_most, finite
from protos.errors import UpdateError
from protos.orders import MaskOrder
from protos.v1 import edgejoule_pb2 as pb

MAX_MEMBERS = 4096
_MAX_SHARE = 256
_KEY_BYTES = 32
_BITS = (2, 24)

KeyBytes = tuple[bytes, bytes, bytes]


def mask_order_from(message: pb.MaskOrder) -> MaskOrder:
    """What an order says of masks."""
    if not _BITS[0] <= message.bits <= _BITS[1]:
        raise UpdateError(f"{message.bits} is not from {_BITS[0]} to {_BITS[1]}", where="mask.bits")
    return MaskOrder(finite(message.clip, "mask.clip", at_least=1e-9, at_most=1e9), message.bits)


def names_from(names: Iterable[str]) -> tuple[str, ...]:
    """Names of devices, each once."""
    found = tuple(checked_name(name, "device_id") for name in names)
    count_at_most(len(found), MAX_MEMBERS, "devices")
    if len(set(found)) != len(found):
        raise UpdateError("names a device twice", where="devices")
    return found


def keys_from(message: pb.MaskKeys) -> KeyBytes:
    """Seal, mask and seed of :class:`protos.secure_sum.party.Keys`, 32 bytes each."""
    found = (message.seal, message.mask, message.seed)
    if any(len(data) != _KEY_BYTES for data in found):
        raise UpdateError(f"is not of {_KEY_BYTES} bytes", where="mask.keys")
    return found


def roster_from(message: pb.MaskResponse) -> dict[str, KeyBytes]:
    """Device to keys."""
    names = names_from(member.device_id for member in message.roster)
    return {name: keys_from(member.keys) for name, member in zip(names, message.roster, strict=True)}


def roster_to(roster: Mapping[str, KeyBytes], threshold: int) -> pb.MaskResponse:
    """The reverse."""
    members = [
        pb.MaskMember(device_id=name, keys=pb.MaskKeys(seal=seal, mask=mask, seed=seed))
        for name, (seal, mask, seed) in sorted(roster.items())
    ]
    return pb.MaskResponse(roster=members, threshold=threshold)


def shares_to(shares: Mapping[str, bytes]) -> list[pb.MaskShare]:
    """Sealed shares by device."""
    return [pb.MaskShare(device_id=name, sealed=share) for name, share in sorted(shares.items())]


def shares_from(messages: Iterable[pb.MaskShare]) -> dict[str, bytes]:
    """The reverse."""
    there = list(messages)
    names = names_from(share.device_id for share in there)
    return {name: _short(share.sealed) for name, share in zip(names, there, strict=True)}


def open_to(shares: Mapping[str, bytes]) -> list[pb.OpenShare]:
    """Open shares by the device whose secret they are of."""
    return [pb.OpenShare(device_id=name, share=share) for name, share in sorted(shares.items())]


def open_from(messages: Iterable[pb.OpenShare]) -> dict[str, bytes]:
    """The reverse."""
    there = list(messages)
    names = names_from(share.device_id for share in there)
    return {name: _short(share.share) for name, share in zip(names, there, strict=True)}


def _short(data: bytes) -> bytes:
    if not 0 < len(data) <= _MAX_SHARE:
        raise UpdateError(f"{len(data)} bytes are no share", where="mask.shares")
    return data
