"""Upgrades as operators see them: values, and their messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protos.v1 import edgejoule_pb2 as pb

__all__ = ["UpgradeDevice", "UpgradeStatus", "UpgradeWanted", "header_to", "upgrades_from", "upgrades_to"]


@dataclass(frozen=True)
class UpgradeWanted:
    """What an operator asks for.

    Attributes:
        wheel: the file's name.
        sha256: of it, 32 bytes.
        signature: the signature file beside it.
        to: groups, devices, or "all".
        canaries: so many devices get it first, and must all keep it.
        wave: devices of each stage that follows.
        may_fail: so many besides the canaries, before it is stopped.
        trial_s: seconds until a new version must have shown that it works.
    """

    wheel: str
    size_bytes: int
    sha256: bytes
    signature: bytes
    to: tuple[str, ...]
    canaries: int
    wave: int
    may_fail: int
    trial_s: float


@dataclass(frozen=True)
class UpgradeDevice:
    """What one device did with an upgrade.

    Attributes:
        state: waiting, offered, checked, trial, kept, failed or revoked.
        reason: why it failed, or what came of its trial.
        software_version: that it told when it last joined; empty when it never did.
        present: it is here now.
    """

    device_id: str
    stage: int
    state: str
    reason: str
    software_version: str
    present: bool
    changed_unix_s: float


@dataclass(frozen=True)
class UpgradeStatus:
    """An upgrade.

    Attributes:
        line, version: of its signature.
        state: on, finished or stopped, and why.
        stage: the last of ``stages`` that was opened; 0: the canaries.
    """

    upgrade_id: str
    wheel: str
    sha256: str
    line: str
    version: int
    state: str
    reason: str
    stage: int
    stages: int
    started_by: str
    started_unix_s: float
    ended_unix_s: float | None
    devices: tuple[UpgradeDevice, ...] = ()


def header_to(wanted: UpgradeWanted) -> pb.UpgradeHeader:
    """As a message."""
    return pb.UpgradeHeader(**vars(wanted))


def header_from(message: pb.UpgradeHeader) -> UpgradeWanted:
    """From a message; nothing of it is checked yet."""
    return UpgradeWanted(
        message.wheel,
        message.size_bytes,
        message.sha256,
        message.signature,
        tuple(message.to),
        message.canaries,
        message.wave,
        message.may_fail,
        message.trial_s,
    )


def upgrade_to(upgrade: UpgradeStatus) -> pb.UpgradeStatus:
    """As a message."""
    values = {**vars(upgrade), "devices": [pb.UpgradeDevice(**vars(device)) for device in upgrade.devices]}
    return pb.UpgradeStatus(**values)


def upgrades_to(found: Iterable[UpgradeStatus]) -> pb.ListUpgradesResponse:
    """As a message."""
    return pb.ListUpgradesResponse(upgrades=[upgrade_to(upgrade) for upgrade in found])


def upgrade_from(message: pb.UpgradeStatus) -> UpgradeStatus:
    """From a message."""
    return UpgradeStatus(
        message.upgrade_id,
        message.wheel,
        message.sha256,
        message.line,
        message.version,
        message.state,
        message.reason,
        message.stage,
        message.stages,
        message.started_by,
        message.started_unix_s,
        message.ended_unix_s if message.HasField("ended_unix_s") else None,
        tuple(
            UpgradeDevice(
                device.device_id,
                device.stage,
                device.state,
                device.reason,
                device.software_version,
                device.present,
                device.changed_unix_s,
            )
            for device in message.devices
        ),
    )


def upgrades_from(message: pb.ListUpgradesResponse) -> list[UpgradeStatus]:
    """From a message."""
    return [upgrade_from(upgrade) for upgrade in message.upgrades]
