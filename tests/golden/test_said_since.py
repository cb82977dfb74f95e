"""What was added to the wire since `landed/` is read from the bytes of then; a head that was signed then is let in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_values import said, without_news

from protos.convert.orders import order_from
from protos.convert.publications import receptions_from
from protos.convert.reports import parse_report
from protos.convert.upgrades import upgrade_state_from
from protos.convert.watts import bins_from
from protos.trust.admission import Memory
from protos.trust.delegated import Delegation, HeadStatement, SignedHead, admitted_head
from protos.trust.signed import SignatureFile, verify
from protos.v1 import edgejoule_pb2 as pb

SINCE = Path(__file__).parent / "said_since"
MESSAGES: dict[str, dict[str, Any]] = json.loads((SINCE / "messages.json").read_text())
_READERS = {
    "watts": lambda data: bins_from(pb.PowerBins.FromString(data)),
    "order": lambda data: order_from(pb.NextOrderResponse.FromString(data)),
    "report": parse_report,
    "receptions": lambda data: receptions_from(pb.NextOrderRequest.FromString(data).receptions),
    "upgrade": lambda data: upgrade_state_from(pb.UpgradeState.FromString(data)),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_says_what_it_said(name: str) -> None:
    wire, expected = bytes.fromhex(MESSAGES[name]["wire"]), MESSAGES[name]["value"]
    value = _READERS[name.split()[0]](wire)
    assert without_news(json.loads(json.dumps(said(value))), expected) == expected


def test_a_head_that_was_signed_then_is_let_in_now_and_no_other() -> None:
    data, root = (SINCE / "head.signed.json").read_bytes(), (SINCE / "root.pem").read_bytes()
    signed = SignedHead.parse(data, "golden")
    assert signed.text() == data, "there is one form"
    file = SignatureFile.parse(signed.delegation_signature, "golden")
    statement, signers, keys = verify(file, root, "golden")
    assert (statement.what, statement.line, signers.threshold, len(keys)) == ("delegation", "heads", 1, 1)
    delegation = Delegation.parse(signed.delegation, "golden")
    assert delegation.runs == ("digits",)
    head = HeadStatement.parse(signed.statement, "golden")
    assert (head.run_id, head.run, head.round, head.bundle) == ("run-0001", "digits", 3, "ab" * 32)
    assert head.shapes == {"out_bias": (3,), "out_kernel": (4, 3)}
    memory, refusal = admitted_head(Memory(), signed, head, root, statement.issued_unix_s, "golden")
    assert refusal is None
    assert memory.heads_required
    assert list(memory.lines) != []
    other = replace(head, sha256="0" * 64)
    _, refusal = admitted_head(Memory(), signed, other, root, statement.issued_unix_s, "golden")
    assert "another head" in str(refusal)
    older = {name: {**line, "version": head.counter + 1} for name, line in memory.lines.items() if "ab" * 32 in name}
    _, refusal = admitted_head(replace(memory, lines=older), signed, head, root, statement.issued_unix_s, "golden")
    assert "was seen here" in str(refusal)
