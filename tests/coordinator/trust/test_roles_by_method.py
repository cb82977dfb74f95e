"""Every method of every service by every role, on a served coordinator: who may call what, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.trust.authority import FOLDER
from edge_runtime.identity.identity import read_identity
from protos.trust.names import SERVER_NAME
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import identity_pb2 as idpb

pytestmark = pytest.mark.processes
DEVICE = {"device"}
LOOK = {"operator", "observer", "auditor"}
ACT = {"operator"}
MAY: dict[str, set[str]] = {
    **{f"DeviceService/{name}": DEVICE for name in (
        "Join", "NextOrder", "FetchBundle", "Report", "ReportHeld", "AwaitEnd", "Mask", "Leave", "FetchUpgrade",
        "LiveWatts",
    )},
    **{f"OperatorService/{name}": ACT for name in (
        "StartRun", "StopRun", "PauseRun", "ResumeRun", "ExportRun", "ForgetDevice", "UnlearnDevice", "EvaluateRun",
        "StartUpgrade", "StopUpgrade",
    )},
    **{f"OperatorService/{name}": LOOK for name in (
        "GetStatus", "ListDevices", "GetBudgets", "ListUpgrades", "WatchWatts",
    )},
    "IdentityService/Renew": DEVICE,
    # Without TLS, on a port of its own: not spoken here at all.
    "EnrolmentService/Enroll": set(),
    "EnrolmentService/Readmit": set(),
}  # fmt: skip


def methods() -> dict[str, Any]:
    found = {}
    for file in (pb.DESCRIPTOR, idpb.DESCRIPTOR):
        for service in file.services_by_name.values():
            found.update({f"{service.name}/{method.name}": method for method in service.methods})
    return found


@contextmanager
def opened(address: str, root: str, key: str, chain: str) -> Iterator[grpc.Channel]:
    secure = grpc.ssl_channel_credentials(root.encode(), key.encode(), chain.encode())
    with grpc.secure_channel(address, secure, [("grpc.ssl_target_name_override", SERVER_NAME)]) as channel:
        yield channel


def answer(
    channel: grpc.Channel, path: str, method: Any = None, data: bytes = b"", timeout_s: float = 60.0
) -> tuple[grpc.StatusCode, str]:
    """What an empty message gets."""
    sends, gets = (method.client_streaming, method.server_streaming) if method is not None else (False, False)
    make = getattr(channel, f"{'stream' if sends else 'unary'}_{'stream' if gets else 'unary'}")
    call = make(path)
    try:
        found = call(iter([data]) if sends else data, timeout=timeout_s)
        if gets:
            try:
                next(found, None)
            finally:
                found.cancel()
    except grpc.RpcError as error:
        return error.code(), str(error.details())
    return grpc.StatusCode.OK, ""


def test_every_method_is_for_its_roles_and_for_nobody_else(
    lab: Any, board: Callable[[str], Path], tools: Any, tmp_path: Path
) -> None:
    assert set(methods()) == set(MAY), "say here for whom a new method is"
    root = (lab.state / FOLDER / "root.pem").read_text()
    pairs: dict[str, tuple[str, str]] = {}
    identity = read_identity(board("pi-1"))
    assert identity is not None
    pairs["device"] = (identity.key_pem, identity.chain_pem)
    for role in ("operator", "observer", "auditor"):
        path = tmp_path / f"{role}.json"
        words = ("operators", "add", f"a-{role}", "--role", role, "-o", str(path), "--state", str(lab.state))
        assert lab.run(*words).returncode == 0
        kept = json.loads(path.read_text())
        pairs[role] = (kept["key_pem"], kept["chain_pem"])
    server = (lab.state / FOLDER / "server.pem").read_text()
    at = server.index("-----BEGIN CERTIFICATE")
    # Not one of the roles at all, though of this fleet: the coordinator's own certificate, taken from its disk.
    pairs["coordinator"] = (server[:at], server[at:])
    wrong = []
    with ExitStack() as stack:
        channels = {role: stack.enter_context(opened(lab.address, root, *pair)) for role, pair in pairs.items()}
        for name, method in methods().items():
            for role, channel in channels.items():
                # Who may call may have to wait for ever; who may not is told so.
                waits_s = 3.0 if role in MAY[name] else 60.0
                code, said = answer(channel, f"/edgejoule.v1.{name}", method, timeout_s=waits_s)
                # The gate's own words; whatever comes after it, as of an empty message, is an answer of the method.
                shut = "is for the role" in said or code is grpc.StatusCode.UNIMPLEMENTED
                if role == "coordinator":
                    shut = shut or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
                if shut == (role in MAY[name]):
                    wrong.append(f"{name} by {role}: {code.name} {said}")
        for role in ("device", "operator", "observer", "auditor"):
            assert answer(channels[role], "/grpc.health.v1.Health/Check")[0] is grpc.StatusCode.OK
            # Names that stand in no table, and near ones, are for operators alone or are not there.
            for path in ("/edgejoule.v1.OperatorService/", "/edgejoule.v1.OperatorService/getStatus",
                         "/edgejoule.v1.DeviceService/../OperatorService/StopRun", "/x/y"):  # fmt: skip
                assert answer(channels[role], path)[0] is grpc.StatusCode.UNIMPLEMENTED
        assert wrong == []
        _revoked_while_looking(lab, channels, tools)


def _revoked_while_looking(lab: Any, channels: dict[str, grpc.Channel], tools: Any) -> None:
    """A stream that is open ends for an observer who is revoked, and for nobody else."""
    # Not closed by itself: its channel is the board's.
    tools.device(lab.address, "pi-1", channels["device"]).join()
    looking = {
        role: channels[role].unary_stream("/edgejoule.v1.OperatorService/WatchWatts")(
            pb.WatchWattsRequest(device_id="pi-1").SerializeToString(), timeout=90
        )
        for role in ("observer", "auditor")
    }
    assert all(next(stream) is not None for stream in looking.values())
    assert lab.run("revoke", "--state", str(lab.state), "a-observer").returncode == 0
    with pytest.raises(grpc.RpcError) as ended:
        for _ in looking["observer"]:
            pass
    assert "its certificate was revoked" in str(ended.value.details())
    assert "its certificate was revoked" in answer(channels["observer"], "/edgejoule.v1.OperatorService/GetStatus")[1]
    assert looking["auditor"].is_active()
    looking["auditor"].cancel()
