"""Whoever calls the coordinator without our programs finds out what there is, and tests errors by their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.operator.failures import CODE_KEY, NAME_KEY, metadata_of
from coordinator.server.services.health import SERVICE as HEALTH
from coordinator.server.services.reflection import services
from protos import errors
from protos.errors import EdgejouleError, PlanError, RefusedError, UnknownRunError
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgejouleError)]


def told(call: Any) -> dict[str, Any]:
    """The trailing metadata of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return dict(caught.value.trailing_metadata())


def test_an_error_on_the_wire_has_the_code_and_name_that_it_has_on_a_command_line(address: str, tmp_path: Path) -> None:
    channel: Any = grpc.insecure_channel(address)
    operator: Any = rpc.OperatorServiceStub(channel)  # type: ignore[no-untyped-call]
    device: Any = rpc.DeviceServiceStub(channel)  # type: ignore[no-untyped-call]
    cases = (
        (lambda: operator.StopRun(pb.StopRunRequest(run_id="nothing"), timeout=20), UnknownRunError),
        (
            lambda: operator.StartRun(
                pb.StartRunRequest(plan_toml="[run]\nrounts = 1", plan_directory=str(tmp_path)), timeout=20
            ),
            PlanError,
        ),
        (lambda: device.Join(pb.JoinRequest(device_id="a", protocol_major=99), timeout=20), RefusedError),
    )
    for call, kind in cases:
        metadata = told(call)
        assert (metadata[CODE_KEY], metadata[NAME_KEY]) == (str(kind.exit_code), kind.__name__)
    channel.close()


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_kind_of_error_has_a_code_and_a_name_of_its_own(kind: type[EdgejouleError]) -> None:
    metadata = dict(metadata_of(kind("what", where="where")))
    assert (metadata[CODE_KEY], metadata[NAME_KEY]) == (str(kind.exit_code), kind.__name__)


def test_the_coordinator_describes_its_services_where_the_extra_is_installed(address: str) -> None:
    pytest.importorskip("grpc_reflection", reason="needs the reflection extra")
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    channel: Any = grpc.insecure_channel(address)
    found = ProtoReflectionDescriptorDatabase(channel)
    assert {*services(), HEALTH} <= set(found.get_services())
    described = found.FindFileContainingSymbol("edgejoule.v1.DeviceService")
    (service,) = (one for one in described.service if one.name == "DeviceService")
    assert "NextOrder" in {method.name for method in service.method}
    channel.close()
