"""Versions of the service on their way to devices, and what devices did with them."""

from __future__ import annotations

from protos.convert.checks import MAX_NAME, checked_name, finite, known, said
from protos.errors import UpdateError
from protos.orders import UPGRADE_STATES, UpgradeOffer, UpgradeState
from protos.v1 import edgejoule_pb2 as pb

MAX_WHEEL_BYTES = 64 << 20
"""More than any wheel of ours: its files are text."""
LEAST_TRIAL_S, MOST_TRIAL_S = 10.0, 86_400.0
_STATES = {upgrade_state: upgrade_state for upgrade_state in UPGRADE_STATES}


def offer_to(offer: UpgradeOffer | None) -> pb.UpgradeOffer | None:
    """As a message."""
    return None if offer is None else pb.UpgradeOffer(**vars(offer))


def offer_from(message: pb.UpgradeOffer) -> UpgradeOffer:
    """From a message.

    Raises:
        UpdateError: a name, a size or a hash that none can have.
    """
    if not 0 < message.size_bytes <= MAX_WHEEL_BYTES or len(message.sha256) != 32:
        raise UpdateError("no size or hash of a wheel", where="upgrade")
    return UpgradeOffer(
        upgrade_id=checked_name(message.upgrade_id, "upgrade.upgrade_id"),
        wheel=checked_name(message.wheel, "upgrade.wheel"),
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        trial_s=finite(message.trial_s, "upgrade.trial_s", at_least=LEAST_TRIAL_S, at_most=MOST_TRIAL_S),
    )


def upgrade_state_to(state: UpgradeState | None) -> pb.UpgradeState | None:
    """As a message."""
    if state is None:
        return None
    return pb.UpgradeState(upgrade_id=state.upgrade_id, state=state.state, reason=state.reason[:MAX_NAME])


def upgrade_state_from(message: pb.UpgradeState) -> UpgradeState:
    """From a message.

    Raises:
        UpdateError: a state without a meaning, or one of no upgrade.
    """
    name = checked_name(message.upgrade_id, "upgrade.upgrade_id", empty=True)
    state = known(_STATES, message.state, "upgrade.state")
    if (state == "none") != (name == ""):
        raise UpdateError(f"{state} of {name or 'nothing'}", where="upgrade.state")
    return UpgradeState(name, state, said(message.reason, MAX_NAME))
