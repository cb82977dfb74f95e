"""One-time tokens for boards, made from the coordinator's own state folder."""

from __future__ import annotations

from pathlib import Path

from protos.addresses import host_and_port
from protos.errors import ConfigError

__all__ = ["token_for"]

_TTL_S = 900.0


def token_for(state: Path, device: str, *, groups: tuple[str, ...], address: str) -> str:
    """A token with which one board becomes part of the fleet. It is a secret: it goes to the board's stdin alone.

    Args:
        address: HOST:PORT where the board reaches the coordinator; "": as `coordinator init` was told.

    Raises:
        ConfigError: there is no authority in that folder. StoreError: it cannot be written.
    """
    from coordinator.operator.credentials import read_credentials
    from coordinator.trust.authority import FOLDER, Authority
    from coordinator.trust.register import Register
    from protos.trust.token import EnrolmentToken

    folder = state / FOLDER
    if not (folder / "admin.json").exists():
        fix = "correct lab.coordinator_state, or run: coordinator init"
        raise ConfigError("holds no authority that could enrol boards", where=str(state), fix=fix)
    authority = Authority(folder)
    addresses = (address,) if address else read_credentials(folder / "admin.json").addresses
    found = host_and_port(addresses[0])
    if found is None:
        raise ConfigError(f"{addresses[0]!r} is not HOST:PORT", where=str(folder / "admin.json"))
    register = Register(folder)
    try:
        token = register.new_token(device, ttl_s=_TTL_S, machine="", groups=groups)
    finally:
        register.close()
    return EnrolmentToken(device, addresses, found[1] + 1, authority.fingerprint, token.secret).text()
