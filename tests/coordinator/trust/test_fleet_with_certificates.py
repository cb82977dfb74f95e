"""Boards and people at a coordinator that asks for certificates: real processes, real TLS."""

from __future__ import annotations

import datetime
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity.enrolment import enroll, renew
from edge_runtime.identity.identity import read_identity, write_identity
from edge_runtime.identity.renewal import Renewals
from protos.errors import IntegrityError, RefusedError
from protos.orders import DeviceCard, Engine, Holding, MeterCard
from protos.trust.names import SERVER_NAME
from protos.trust.proofs import request_mac, response_mac
from protos.trust.token import EnrolmentToken, read_token, token_id
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc
from protos.v1 import identity_pb2 as idpb
from protos.v1 import identity_pb2_grpc as idrpc

pytestmark = pytest.mark.processes
HELD = Holding("", False)


def card(name: str, session: str = "s1") -> DeviceCard:
    return DeviceCard(
        device_id=name,
        session=session,
        software_version="0.1.0",
        board="test",
        engine=Engine("test", "1", ""),
        meter=MeterCard("unknown", "none", "", ""),
        train_examples=8,
        test_examples=0,
        budget_j=None,
    )


@pytest.fixture
def link(lab: Any) -> Any:
    opened: list[Link] = []

    def connect(state: Path, address: str | None = None) -> Link:
        opened.append(Link(address or lab.address, Stopping(), state=state))
        return opened[-1]

    yield connect
    for each_link in opened:
        each_link.close()


def test_a_board_enrols_with_one_line_and_works(lab: Any, board: Any, link: Any) -> None:
    state = board("pi-1")
    found = read_identity(state)
    assert found is not None
    assert found.device_id == "pi-1"
    assert found.addresses[0] == lab.address
    assert (state / "identity" / "identity.json").stat().st_mode & 0o077 == 0
    assert link(state).join(card("pi-1")).protocol
    shown = lab.operate("devices", "--json")
    assert shown.returncode == 0, shown.stderr
    assert "pi-1" in shown.stdout
    listed = json.loads(lab.run("identities", "--state", str(lab.state), "--json").stdout)["identities"]
    assert [(row["role"], row["name"], row["state"]) for row in listed] == [
        ("operator", "admin", "good"),
        ("device", "pi-1", "good"),
    ]
    said = lab.edge("identity", "--state", str(state), "--json")
    assert json.loads(said.stdout)["device_id"] == "pi-1"


def test_a_device_speaks_for_itself_alone(board: Any, link: Any) -> None:
    state = board("pi-1")
    mine = link(state)
    mine.join(card("pi-1"))
    with pytest.raises(RefusedError, match="the certificate is of pi-1, and the call speaks for pi-2"):
        mine.join(card("pi-2"))
    with pytest.raises(RefusedError, match="speaks for pi-2"):
        mine.next_order("pi-2", "s1", (), bundle_id="", holding=HELD)
    with pytest.raises(RefusedError, match="speaks for pi-2"):
        mine.report("pi-2", "run", 1, b"x" * 100)
    with pytest.raises(RefusedError, match="speaks for pi-2"):
        # A large one asks first how much of it is there.
        mine.report("pi-2", "run", 1, b"x" * 200_000)


def test_roles_may_do_what_they_are_for(lab: Any, board: Any, tmp_path: Path) -> None:
    for role in ("observer", "auditor"):
        path = tmp_path / f"{role}.json"
        made = lab.run("operators", "add", f"ada-{role}", "--role", role, "-o", str(path), "--state", str(lab.state))
        assert made.returncode == 0, made.stderr
        assert lab.run("login", str(path), "--name", role).returncode == 0
        assert lab.operate("status", context=role).returncode == 0
        refused = lab.operate("stop", "none", context=role)
        assert refused.returncode == 16
        assert "StopRun is for the role operator" in refused.stderr
    # A board's own credentials are none of an operator's.
    identity = read_identity(board("pi-1"))
    assert identity is not None
    with _channel(lab.address, identity.root_pem, identity.key_pem, identity.chain_pem) as channel:
        with pytest.raises(grpc.RpcError) as failure:
            rpc.OperatorServiceStub(channel).GetStatus(pb.GetStatusRequest(), timeout=10)
        assert "for the role auditor or observer or operator" in failure.value.details()
    # Which one is used is the one that was kept last, or the one that is named.
    assert "* auditor" in lab.run("login").stdout
    assert lab.run("login", "--use", "lab").returncode == 0
    assert "* lab" in lab.run("login").stdout


def test_a_person_elsewhere_joins_by_a_token_with_a_key_of_their_own(lab: Any, board: Any, tmp_path: Path) -> None:
    board("pi-1")
    invited = lab.run("operators", "invite", "ada", "--role", "observer", "--state", str(lab.state))
    assert invited.returncode == 0, invited.stderr
    token = invited.stdout.split()[-1]
    elsewhere = {**lab.environ, "XDG_CONFIG_HOME": str(tmp_path / "ada")}

    def ada(*words: str, **more: Any) -> Any:
        command = [sys.executable, "-m", "coordinator.cli", *words]
        return subprocess.run(
            command, capture_output=True, text=True, env=elsewhere, check=False, timeout=60,
            cwd=Path(__file__).parents[3], **more,
        )  # fmt: skip

    joined = ada("login", "-", "--name", "lab", input=token + "\n")
    assert joined.returncode == 0, joined.stderr
    assert "observer ada" in joined.stdout
    assert token not in joined.stdout + joined.stderr
    kept = [path.read_text() for path in (tmp_path / "ada").rglob("*") if path.is_file()]
    assert any("PRIVATE KEY" in text for text in kept)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "ada").rglob("*.json"))
    assert ada("status", "--coordinator", lab.address, "--context", "lab").returncode == 0
    refused = ada("stop", "run-1", "--coordinator", lab.address, "--context", "lab")
    assert "is for the role operator" in refused.stderr
    again = ada("login", token)
    assert "this token is not open" in again.stderr
    # A board's token makes no person, and a person's no board.
    assert "is the token of a board" in ada("login", lab.token("pi-2")).stderr
    other = lab.run("operators", "invite", "eve", "--state", str(lab.state)).stdout.split()[-1]
    enrolled = lab.edge("enroll", other, "--state", str(tmp_path / "eve"))
    assert enrolled.returncode != 0
    assert "this token is a person's" in enrolled.stderr
    assert read_identity(tmp_path / "eve") is None
    listed = json.loads(lab.run("identities", "--state", str(lab.state), "--json").stdout)["identities"]
    assert ("observer", "ada", "good") in [(row["role"], row["name"], row["state"]) for row in listed]
    assert lab.run("revoke", "ada", "--state", str(lab.state)).returncode == 0
    # The register is looked at twice a second.
    end_s = time.monotonic() + 60.0
    while "revoked" not in ada("status", "--coordinator", lab.address, "--context", "lab").stderr:
        assert time.monotonic() < end_s


def test_a_revoked_board_is_out_at_once_also_in_a_call_that_waits(lab: Any, board: Any, link: Any) -> None:
    state = board("pi-1")
    other = link(board("pi-2"))
    other.join(card("pi-2"))
    mine = link(state)
    mine.join(card("pi-1"))
    waiting = subprocess.Popen(
        [sys.executable, "-c", _WAITS, lab.address, str(state)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "asking\n"
    time.sleep(0.5)
    assert lab.run("revoke", "--state", str(lab.state), "pi-1", "--reason", "stolen").returncode == 0
    said, _ = waiting.communicate(timeout=60)
    assert "its certificate was revoked" in said, said
    with pytest.raises(RefusedError, match="its certificate was revoked"):
        mine.next_order("pi-1", "s1", (), bundle_id="", holding=HELD)
    with pytest.raises(RefusedError, match="its certificate was revoked"):
        renew(_identity(state), state, lab.address)
    other.join(card("pi-2"))
    log = lab.run("audit", "--state", str(lab.state)).stdout
    assert re.search(r"certificate revoked \(name pi-1, serial \w+, reason stolen\)", log)
    assert lab.run("audit", "verify", "--state", str(lab.state)).returncode == 0


_WAITS = """
import sys
from pathlib import Path
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.stopping import Stopping
from protos.orders import Holding
link = Link(sys.argv[1], Stopping(), state=Path(sys.argv[2]))
print("asking", flush=True)
while True:
    try:
        link.next_order("pi-1", "s1", (), bundle_id="", holding=Holding("", False))
    except Exception as error:
        print(error)
        break
"""


def test_a_certificate_is_renewed_with_a_new_key_and_taken_up_by_the_link(lab: Any, board: Any, link: Any) -> None:
    state = board("pi-1")
    before = _identity(state)
    mine = link(state)
    mine.join(card("pi-1"))
    # Not due yet: nothing is asked.
    assert Renewals(state, lab.address, clock=lambda: before.due_unix_s() - 1).look()
    assert _identity(state) == before
    # A clock that is 25 days ahead: due.
    assert Renewals(state, lab.address, clock=lambda: before.begins_unix_s + 25 * 86400).look()
    after = _identity(state)
    assert after.key_pem != before.key_pem
    assert after.chain_pem != before.chain_pem
    assert after.device_id == "pi-1"
    assert after.root_pem == before.root_pem
    mine.join(card("pi-1"))
    # A coordinator that is away: the present one stays, and it is tried again.
    write_identity(state, before)
    lab.process.send_signal(signal.SIGTERM)
    lab.process.wait(30)
    assert not Renewals(state, lab.address, clock=lambda: before.begins_unix_s + 25 * 86400).look()
    assert _identity(state) == before


def test_five_things_that_can_be_wrong_are_five_messages(
    lab: Any, board: Any, link: Any, start_lab: Callable[..., Any], tmp_path: Path
) -> None:
    state = board("pi-1")
    good = _identity(state)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    # Never enrolled, at a coordinator that asks.
    with pytest.raises(Away, match="asks for a certificate, and this device was never enrolled"):
        link(stranger).join(card("pi-1"))
    # Of another fleet.
    elsewhere = start_lab("elsewhere")
    with pytest.raises(Away, match="belongs to another fleet"):
        link(state, elsewhere.address).join(card("pi-1"))
    # Theirs is of another fleet, by their root: the same, from the other side.
    foreign = tmp_path / "foreign"
    done = elsewhere.edge("enroll", elsewhere.token("pi-1"), "--state", str(foreign))
    assert done.returncode == 0, done.stderr
    mixed = _identity(foreign)
    write_identity(foreign, type(mixed)(**{**mixed.__dict__, "root_pem": good.root_pem}))
    with pytest.raises(Away, match="does not take this board's certificate"):
        link(foreign).join(card("pi-1"))
    # Ended, and not begun: by the board's own clock, which is all that a board can say.
    for begins, ends, said in (
        (good.begins_unix_s - 60 * 86400, time.time() - 86400, "this board's certificate ended at"),
        (time.time() + 86400, good.ends_unix_s, "this board's clock says"),
    ):
        write_identity(state, type(good)(**{**good.__dict__, "begins_unix_s": begins, "ends_unix_s": ends}))
        bad = link(state, f"127.0.0.1:{lab.enroll_port}")
        with pytest.raises(Away, match=said):
            bad.join(card("pi-1"))
    # Revoked is told by the coordinator itself: see above.


def test_what_answers_must_have_made_the_token(lab: Any, tmp_path: Path) -> None:
    token = read_token(lab.token("pi-1"))
    state = tmp_path / "state"
    # A false coordinator that takes any proof, and answers with a chain of its own.
    import concurrent.futures

    import coordinator.trust.authority as theirs

    own = theirs.Authority.create(tmp_path / "rogue")

    class Rogue(idrpc.EnrolmentServiceServicer):
        secret = b"guessed" * 3

        def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802
            issued = own.device("pi-1", request.certificate_request)
            mac = response_mac(self.secret[:20], request.mac, "pi-1", issued.chain_pem, own.root_pem, 0.0)
            return idpb.EnrollResponse(
                device_id="pi-1", chain_pem=issued.chain_pem, root_pem=own.root_pem, unix_s=0.0, mac=mac
            )

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    idrpc.add_EnrolmentServiceServicer_to_server(Rogue(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        lured = EnrolmentToken("pi-1", ("127.0.0.1:1",), port, token.fingerprint, token.secret)
        with pytest.raises(IntegrityError, match="did not make this token"):
            enroll(lured, state)
        # Even one that knows the secret is not of the fleet with that fingerprint.
        Rogue.secret = token.secret
        with pytest.raises(IntegrityError, match="did not make this token"):
            enroll(lured, state)
    finally:
        server.stop(0)
    assert read_identity(state) is None
    # The token was not spent by that.
    assert enroll(token, state).identity.device_id == "pi-1"


def test_a_token_cannot_be_guessed_used_twice_or_taken_to_another_machine(lab: Any, tmp_path: Path) -> None:
    token = read_token(lab.token("pi-1", "--machine", "000000abc"))
    with pytest.raises(RefusedError, match="for the machine 000000abc"):
        enroll(token, tmp_path / "a", machine="000000def")
    assert enroll(token, tmp_path / "a", machine="000000abc").identity.device_id == "pi-1"
    with pytest.raises(RefusedError, match="not open"):
        enroll(token, tmp_path / "b", machine="000000abc")
    guessed = read_token(lab.token("pi-2"))
    with grpc.insecure_channel(f"127.0.0.1:{lab.enroll_port}") as channel:
        stub = idrpc.EnrolmentServiceStub(channel)
        told = []
        for number in range(12):
            proof = request_mac(bytes([number]) * 20, token_id(guessed.secret), "m", b"r")
            request = idpb.EnrollRequest(
                token_id=token_id(guessed.secret), machine="m", certificate_request=b"r", mac=proof
            )
            with pytest.raises(grpc.RpcError) as failure:
                stub.Enroll(request, timeout=10)
            told.append(str(failure.value.details()))
    assert "proof of the token's secret is wrong" in told[0]
    assert "too many enrolments" in told[-1]
    assert sum("proof" in text for text in told) <= 5
    refused = lab.edge("enroll", guessed.text(), "--state", str(tmp_path / "c"))
    assert refused.returncode == 16


def test_a_board_that_was_away_past_its_end_is_let_in_where_the_operator_allows_it(
    lab: Any, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    from cryptography.hazmat.primitives.asymmetric import ec

    import coordinator.trust.authority as authority_room
    from coordinator.trust.authority import Authority
    from coordinator.trust.register import Register
    from edge_runtime.identity.enrolment import _pem, _request, readmit  # the board's own arithmetic of keys

    state = board("pi-1")
    # A certificate that ended two days ago, from the fleet's own authority.
    key = ec.generate_private_key(ec.SECP256R1())
    begun = authority_room.now() - datetime.timedelta(days=9)
    with monkeypatch.context() as patch:
        patch.setattr(authority_room, "now", lambda: begun)
        issued = Authority(lab.state / "trust").device("pi-1", _request(key, "pi-1"), days=7)
    register = Register(lab.state / "trust")
    register.issued(issued, who="test", what="certificate issued")
    register.close()
    good = _identity(state)
    ended = good.renewed(_pem(key), issued.chain_pem.decode(), time.time() - 9 * 86400, time.time() - 2 * 86400)
    write_identity(state, ended)
    with pytest.raises(RefusedError, match=r"ended 2\.0 days ago, and 0 are allowed"):
        readmit(ended, state)
    assert lab.run("identities", "--state", str(lab.state), "--readmit-days", "7").returncode == 0
    # Not with another key than the old one's.
    forged = ended.renewed(_pem(ec.generate_private_key(ec.SECP256R1())), ended.chain_pem, 0, 1)
    with pytest.raises(RefusedError, match="the old key did not sign"):
        readmit(forged, state)
    # By itself, in the daemon's own way.
    assert Renewals(state, lab.address).look()
    renewed = _identity(state)
    assert renewed.ends_unix_s > time.time() + 29 * 86400
    with closing(sqlite3.connect(lab.state / "trust" / "register.db")) as kept:
        assert kept.execute("SELECT count(*) FROM certificates").fetchone()[0] == 4
    link = Link(lab.address, Stopping(), state=state)
    try:
        assert link.join(card("pi-1")).protocol
    finally:
        link.close()


def test_who_speaks_something_else_harms_nobody(lab: Any, board: Any, link: Any) -> None:
    import socket

    host, port = lab.address.rsplit(":", 1)
    mine = link(board("pi-1"))
    mine.join(card("pi-1"))
    rubbish = np.random.default_rng(3).bytes(4096)
    for place in (int(port), lab.enroll_port):
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            rubbish,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rubbish,
            b"\x16\x03\x01",
        ):
            with socket.create_connection((host, int(place)), timeout=10) as plain:
                plain.sendall(data)
    # A plain gRPC client, and one whose message is too large for enrolment.
    with grpc.insecure_channel(lab.address) as channel, pytest.raises(grpc.RpcError):
        rpc.DeviceServiceStub(channel).Join(pb.JoinRequest(device_id="pi-1"), timeout=5)
    with grpc.insecure_channel(f"{host}:{lab.enroll_port}") as channel:
        with pytest.raises(grpc.RpcError) as failure:
            idrpc.EnrolmentServiceStub(channel).Enroll(
                idpb.EnrollRequest(certificate_request=b"x" * 100_000), timeout=5
            )
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Enrolment's port has nothing but enrolment.
        with pytest.raises(grpc.RpcError) as failure:
            rpc.OperatorServiceStub(channel).GetStatus(pb.GetStatusRequest(), timeout=5)
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert mine.join(card("pi-1")).protocol
    assert lab.process.poll() is None


def test_a_server_on_the_network_needs_certificates_first(lab: Any, tmp_path: Path) -> None:
    bare = lab.run("serve", "--state", str(tmp_path / "bare"), "--listen", "0.0.0.0:0")
    assert bare.returncode == 16
    assert "coordinator init" in bare.stderr
    bare = lab.run("serve", "--state", str(tmp_path / "bare"), "--tls")
    assert bare.returncode == 4
    assert "has no certificates" in bare.stderr
    again = lab.run("init", "--state", str(lab.state))
    assert again.returncode == 16
    away = lab.edge("run", "--coordinator", "192.0.2.7:50461", "--state", str(tmp_path / "s"), "--data", "d.npz")
    assert away.returncode == 16
    assert "edge-runtime enroll TOKEN" in away.stderr


def test_many_boards_from_one_table(lab: Any, tmp_path: Path) -> None:
    table = tmp_path / "boards.csv"
    table.write_text("device,machine,group\n" + "".join(f"pi-{n},serial-{n},kitchen\n" for n in range(50)))
    made = lab.run("enroll", "--state", str(lab.state), "--batch", str(table), "--address", lab.address, "--json")
    tokens = json.loads(made.stdout)["tokens"]
    assert [token["device_id"] for token in tokens] == [f"pi-{n}" for n in range(50)]
    assert all(token["groups"] == ["kitchen"] for token in tokens)
    assert enroll(read_token(tokens[7]["token"]), tmp_path / "s", machine="serial-7").identity.device_id == "pi-7"
    table.write_text("device\npi-60\npi-60\n")
    twice = lab.run("enroll", "--state", str(lab.state), "--batch", str(table))
    assert twice.returncode == 13
    assert "pi-60 stands in it twice" in twice.stderr


def test_secrets_stand_in_no_log_and_no_argument(lab: Any, tmp_path: Path) -> None:
    token = lab.token("pi-1")
    done = lab.run("enroll", "--help")
    assert done.returncode == 0
    state = tmp_path / "s"
    piped = subprocess.run(
        [sys.executable, "-m", "edge_runtime.cli", "enroll", "-", "--state", str(state)],
        input=token + "\n", capture_output=True, text=True, env=lab.environ, check=False, cwd=Path(__file__).parents[3],
        timeout=60,
    )  # fmt: skip
    assert piped.returncode == 0, piped.stderr
    assert token not in piped.stdout + piped.stderr
    lab.process.terminate()
    said = lab.process.communicate(timeout=30)[0]
    secret = read_token(token).secret
    audit = (lab.state / "trust" / "audit.jsonl").read_bytes()
    for hidden in (token.encode(), secret, secret.hex().encode()):
        assert hidden not in said.encode()
        assert hidden not in audit
    assert b"PRIVATE KEY" not in said.encode() + audit


def _identity(state: Path) -> Any:
    found = read_identity(state)
    assert found is not None
    return found


def _channel(address: str, root: str, key: str, chain: str) -> grpc.Channel:
    secure = grpc.ssl_channel_credentials(root.encode(), key.encode(), chain.encode())
    return grpc.secure_channel(address, secure, options=[("grpc.ssl_target_name_override", SERVER_NAME)])


def test_a_fleet_is_the_same_after_backup_and_restore(lab: Any, board: Any, link: Any, tmp_path: Path) -> None:
    state = board("pi-1")
    board("pi-2")
    assert lab.run("revoke", "--state", str(lab.state), "pi-2").returncode == 0
    out, again = tmp_path / "backup", tmp_path / "again"
    assert lab.run("backup", str(out), "--state", str(lab.state)).returncode == 0
    restored = lab.run("restore", str(out), "--state", str(again))
    assert restored.returncode == 0, restored.stderr
    for folder in (out, again):
        assert [path for path in (folder / "trust").rglob("*") if path.stat().st_mode & 0o077] == []
        assert folder.stat().st_mode & 0o077 == 0
    said = [lab.run("identities", "--state", str(one), "--json").stdout for one in (lab.state, again)]
    assert said[0] == said[1]
    assert lab.run("audit", "verify", "--state", str(again)).returncode == 0
    # The board is known to a coordinator on the restored state, at the same address.
    lab.process.terminate()
    lab.process.communicate(timeout=30)
    ready = tmp_path / "again.ready"
    command = [
        sys.executable,
        "-m",
        "coordinator.cli",
        "serve",
        "--state",
        str(again),
        "--listen",
        lab.address,
        "--tls",
    ]
    lab.process = subprocess.Popen(
        [*command, "--tls", "--ready-file", str(ready)], cwd=Path(__file__).parents[3], env=lab.environ,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not ready.exists():
        assert lab.process.poll() is None, lab.process.communicate()[0]
        time.sleep(0.02)
    assert link(state).join(card("pi-1")).protocol
    with pytest.raises(RefusedError, match="was revoked"):
        link(tmp_path / "pi-2-state").join(card("pi-2"))


def test_a_stream_that_is_open_ends_when_its_caller_is_revoked(lab: Any, board: Any) -> None:
    from google.protobuf.wrappers_pb2 import StringValue, UInt32Value

    one = _identity(board("pi-1"))
    with _channel(lab.address, one.root_pem, one.key_pem, one.chain_pem) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=UInt32Value.FromString,
        )
        answers = watch(StringValue(value=""), timeout=60)
        assert next(answers).value == 1
        assert lab.run("revoke", "--state", str(lab.state), "pi-1").returncode == 0
        with pytest.raises(grpc.RpcError) as failure:
            next(answers)
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "its certificate was revoked" in failure.value.details()
