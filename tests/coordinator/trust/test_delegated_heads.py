"""`coordinator delegate`, and a served coordinator that signs the heads of its runs by it: real processes, real TLS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.cli import main
from coordinator.trust import heads, signing
from coordinator.trust.audit import AuditLog
from coordinator.trust.authority import FOLDER, Authority
from edge_runtime.identity.identity import read_identity
from edge_runtime.identity.signatures import Signatures, read_memory
from edge_runtime.model.adopting import _said_of
from protos.errors import IntegrityError
from protos.model.bundle import open_bundle
from protos.orders import Holding, Publication, WaitOrder
from protos.trust.delegated import HeadStatement, SignedHead
from protos.trust.names import SERVER_NAME
from protos.update.tensors import decode

pytestmark = pytest.mark.processes


@pytest.fixture
def device(lab: Any, board: Any, tools: Any) -> Iterator[Any]:
    """A scripted device behind the certificate of an enrolled board, and that board's state."""
    state = board("pi-1")
    one = read_identity(state)
    assert one is not None
    secure = grpc.ssl_channel_credentials(one.root_pem.encode(), one.key_pem.encode(), one.chain_pem.encode())
    channel = grpc.secure_channel(lab.address, secure, [("grpc.ssl_target_name_override", SERVER_NAME)])
    made = tools.device(lab.address, "pi-1", channel)
    yield made, state
    made.close()


def run(lab: Any, device: Any, tools: Any, bundle: Path, folder: Path, change: float, held: str = "") -> Publication:
    """A run of one round; what is published when it is over."""
    plan = folder / "plan.toml"
    plan.write_text(tools.plan(bundle))
    assert lab.operate("start", str(plan)).returncode == 0
    device.send(device.answer(device.order(), change))

    def news() -> Publication | None:
        order = device.ask(holding=Holding(published=held))
        return order.publication if isinstance(order, WaitOrder) else None

    found: Publication = tools.until(news, "the head of the run")
    return found


def test_a_served_coordinator_signs_heads_while_it_is_let(
    lab: Any, device: Any, tools: Any, plain_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted, state = device
    scripted.join()
    shapes = open_bundle(plain_bundle).manifest.head.shapes()

    def judge(publication: Publication) -> None:
        head = decode(publication.head, shapes)
        Signatures(state).check_head(publication.signed, _said_of(publication, head), f"head of {publication.run_id}")

    def delegate(*words: str) -> str:
        code = main(["delegate", "--state", str(lab.state), *words])
        told = capsys.readouterr()
        assert code == 0, told.err
        return told.out

    assert "nobody was let sign heads" in delegate("--show")
    first = run(lab, scripted, tools, plain_bundle, tmp_path, 0.5)
    assert first.signed == b""
    judge(first)
    # By a key that is kept elsewhere.
    away = tmp_path / "signing.key"
    shutil.move(lab.state / "trust" / "signing.key", away)
    assert main(["delegate", "--state", str(lab.state)]) == 4
    assert "signing.key: is no key to sign with" in capsys.readouterr().err
    public = delegate("--key-only").strip()
    assert "heads may be signed by" in delegate("--key", str(away), "--days", "30", "--run", "test")
    shown = json.loads(delegate("--show", "--json"))
    assert [key["public"] for key in shown["keys"]] == [public]
    assert (shown["schema"], shown["runs"], shown["bundles"]) == ("edgejoule.delegation/1", ["test"], [])
    # What is there already is signed now; the next one counts further.
    order = scripted.ask(holding=Holding(published=""))
    assert order.publication.id == first.id
    judge(order.publication)
    assert read_memory(state).heads_required
    with pytest.raises(IntegrityError, match="is not signed"):
        judge(first)
    second = run(lab, scripted, tools, plain_bundle, tmp_path, 0.25, first.id)
    judge(second)
    with pytest.raises(IntegrityError, match="was seen here"):
        judge(order.publication)
    statement = HeadStatement.parse(SignedHead.parse(second.signed, "x").statement, "x")
    assert (statement.run, statement.run_id, statement.round) == ("test", second.run_id, 1)
    assert dict(statement.shapes) == {name: tuple(shape) for name, shape in shapes.items()}
    # Withdrawn without a restart, and told in the log, where boards will refuse.
    assert "by nobody" in delegate("--key", str(away), "--withdraw")
    order = scripted.ask(holding=Holding(published=first.id))
    with pytest.raises(IntegrityError, match="may sign no heads, or no more"):
        judge(order.publication)
    assert [line["what"] for line in AuditLog(lab.state / "trust").lines()].count("heads delegated") == 2
    kept = [path.name for path in (lab.state / "trust" / "heads").iterdir()]
    assert sorted(kept) == sorted(f"{one}.json" for one in (first.run_id, second.run_id))
    assert (lab.state / "trust" / heads.KEY_FILE).stat().st_mode & 0o077 == 0
    lab.process.terminate()
    assert "may sign no heads, and boards refuse them" in lab.process.communicate(timeout=30)[0]


def test_words_that_make_no_delegation_are_refused_with_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    assert main(["delegate", "--state", str(state)]) == 4
    assert "has no certificates" in capsys.readouterr().err
    Authority.create(state / FOLDER)
    signing.write_signers(state / FOLDER, [signing.make_key(state / FOLDER / signing.KEY_FILE)], 1)
    for words, said in (
        (("--public", "ab"), "is no public key"),
        (("--days", "0"), "is no number of days"),
        (("--bundle", "kitchen"), "is no bundle"),
        (("-o", str(tmp_path / "x.json")), "is no name of a delegation"),
    ):
        assert main(["delegate", "--state", str(state), *words]) == 2
        assert said in capsys.readouterr().err
    assert not (state / FOLDER / heads.DELEGATION_FILE).exists()
