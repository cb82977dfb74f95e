"""The standard reflection service of gRPC, where its package is installed: `grpcurl` and the like then need no `.proto`
file. It shows names of methods and messages, nothing of any run.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from coordinator.server.services.health import SERVICE as HEALTH
from protos.v1 import edgejoule_pb2 as pb


def services() -> tuple[str, ...]:
    """Names of what is served, as the `.proto` file has them."""
    return tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())


def add_reflection(server: Any) -> bool:
    """Let a server describe itself; False where the extra is not installed."""
    if importlib.util.find_spec("grpc_reflection") is None:
        return False
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*services(), HEALTH, reflection.SERVICE_NAME), server)
    return True
