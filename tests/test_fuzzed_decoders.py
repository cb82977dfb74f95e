"""Every decoder that faces the network or a file from elsewhere: bytes give a value or an error of ours, nothing else.

300 examples of each here; ``EDGEJOULE_FUZZ=100000`` makes it an hour. Half are valid bytes with a few changed, which go
deeper than bytes at random.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.daemon.file_downloads import FileDownloads
from edge_runtime.identity.identity import read_identity
from edge_runtime.identity.signatures import read_memory
from protos.convert.calls import report_parts
from protos.convert.cards import card_from
from protos.convert.energy import settled_from
from protos.convert.masks import keys_from, open_from, roster_from, shares_from
from protos.convert.orders import order_from
from protos.convert.publications import receptions_from
from protos.convert.reports import parse_report, receipt_from, serialise_report
from protos.convert.upgrades import upgrade_state_from
from protos.convert.uploads import held_from, held_request, upload_from, upload_of
from protos.convert.watts import bins_from
from protos.errors import EdgejouleError
from protos.model.manifest import Manifest
from protos.plan.plan import parse as parse_plan
from protos.trust.delegated import Delegation, HeadStatement, SignedHead
from protos.trust.signed import SignatureFile, Signers, Statement
from protos.trust.token import EnrolmentToken, read_token
from protos.update import codecs
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb

EXAMPLES = int(os.environ.get("EDGEJOULE_FUZZ", "300"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
SHAPES = {"bias": (3,), "kernel": (4, 3)}


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes at random, or the valid ones with some changed, cut out, put in, or said twice."""

    def changed(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = valid
        for at, cut, new in edits:
            place = at % (len(data) + 1)
            data = data[:place] + new + data[place + cut :]
        return data

    edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), st.binary(max_size=8))
    return st.one_of(st.lists(edit, min_size=1, max_size=4).map(changed), st.binary(max_size=300))


def _report(codec: str) -> bytes:
    """A report with an update of this codec."""
    from protos.orders import DeviceReport, Engine, StopReason

    tree = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    coder = codecs.build(codec, {})
    tensors, _ = coder.encode(tree, coder.init(SHAPES), np.random.default_rng(1))
    return serialise_report(
        DeviceReport(
            "run", 1, "pi", "plan", "bundle", "head", 5, 5, 40, 5.0, StopReason.COMPLETED, 2.0, 1.0,
            Engine("e", "1", "x"), (), tensors, 40, 0.1,
        )
    )  # fmt: skip


def order() -> bytes:
    from protos.convert.orders import order_to
    from protos.orders import CodecOrder, TrainOrder
    from protos.update.tensors import as_float32

    tree = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    made = TrainOrder(
        "run", 1, "plan", "bundle", "head", as_float32(tree), 5, {"rate": 0.1}, CodecOrder("eden", {"bits": 2.0}),
        1.0, 60.0, 7,
    )  # fmt: skip
    return bytes(order_to(made).SerializeToString())


def statistics() -> bytes:
    """The coded sums of a few embeddings."""
    import dataclasses

    from protos.statistics.coding import encode
    from protos.statistics.moments import moments_of

    moments = moments_of(np.arange(24, dtype=np.int8).reshape(8, 3), np.arange(8, dtype=np.int32) % 2, 2, 0)
    report = parse_report(_report("float32"))
    return serialise_report(dataclasses.replace(report, update=(), statistics=encode(moments, 0)))


def summed(data: bytes) -> None:
    from protos.statistics.coding import decode as read

    found = parse_report(data).statistics
    if found is not None:
        read(found, classes=2, width=3, offset=0)


def signature() -> bytes:
    statement = Statement("bundle", "kitchen", 1, 1, 2, "0" * 64, 5)
    return SignatureFile(statement.text(), {"ab": b"x" * 64}, Signers(1, 1, 1, 2, ("1" * 64,)).text(), b"y").text()


def token() -> bytes:
    return EnrolmentToken("pi-1", ("lab:50461",), 50462, b"f" * 32, b"s" * 20).text().encode()


def resealed(data: bytes) -> bytes:
    """A token of these bytes with the right check sum: what an attacker would send."""
    import hashlib

    body = base64.urlsafe_b64encode(data + hashlib.sha256(data).digest()[:4]).rstrip(b"=")
    return b"ej1." + body


def message(kind: Any, read: Callable[[Any], Any]) -> Callable[[bytes], None]:
    def decoder(data: bytes) -> None:
        try:
            found = kind.FromString(data)
        except Exception:  # protobuf's own refusal; gRPC answers it before any code of ours runs
            return
        read(found)

    return decoder


def signed_head() -> bytes:
    statement = HeadStatement("0" * 64, "run-1", "kitchen", 1, "1" * 64, {"out_bias": (3,)}, 5, 6)
    return SignedHead(statement.text(), "ab", b"x" * 64, Delegation(("2" * 64,)).text(), signature()).text()


def head_signed(data: bytes) -> None:
    found = SignedHead.parse(data, "x")
    HeadStatement.parse(found.statement, "x")
    Delegation.parse(found.delegation, "x")
    signed(found.delegation_signature)


def signed(data: bytes) -> None:
    SignatureFile.parse(data, "x").said("x")


def header() -> bytes:
    (first, *_) = report_parts(upload_of("run", 1, "pi", b"x" * 9), b"x" * 9, 4)
    return bytes(first.header.SerializeToString())


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def updated(data: bytes) -> None:
    decode(parse_report(data).update, SHAPES)


TOKEN_BODY = json.dumps({"d": "pi", "a": ["h:1"], "e": 2, "f": "eA", "s": "eA"}).encode()
PLAN = b'[run]\nbundle = "b"\nrounds = 3\n[update]\ncodec = "eden"\nbits = 2\n[aggregate]\nrule = "median"\n'
RECEIPT = pb.ReportResponse(verdict=pb.VERDICT_ACCEPTED, reason="x").SerializeToString()
DECODERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    **{f"a report coded by {codec}": (_report(codec), updated) for codec in ("float32", "uniform_stochastic", "eden")},
    "a report, entropy coded": (_report("entropy_coded"), updated),
    "a report, sparse": (_report("keep_largest"), updated),
    "a card": (
        pb.JoinRequest(protocol_major=1, device_id="pi", session="s", train_examples=5).SerializeToString(),
        message(pb.JoinRequest, card_from),
    ),
    "late joules": (
        pb.NextOrderRequest(settled=[pb.SettledEnergy(run_id="r", round=1)]).SerializeToString(),
        message(pb.NextOrderRequest, lambda found: settled_from(found.settled)),
    ),
    "what became of heads": (
        pb.NextOrderRequest(
            receptions=[
                pb.Reception(publication="r/v", adopted=True, evaluation=pb.HeadEvaluation(examples=2, correct=1))
            ]
        ).SerializeToString(),
        message(pb.NextOrderRequest, lambda found: receptions_from(found.receptions)),
    ),
    "what became of an upgrade": (
        pb.NextOrderRequest(upgrade=pb.UpgradeState(upgrade_id="u", state="kept")).SerializeToString(),
        message(pb.NextOrderRequest, lambda found: upgrade_state_from(found.upgrade)),
    ),
    "the watts of a board": (
        pb.PowerBins(
            first_s=1, bin_s=0.02, mean_w=bytes(8), low_w=bytes(8), high_w=bytes(8), covered_s=bytes(8)
        ).SerializeToString(),
        message(pb.PowerBins, bins_from),
    ),
    "an upgrade": (
        pb.NextOrderResponse(
            wait=pb.Wait(upgrade=pb.UpgradeOffer(upgrade_id="u", wheel="w", size_bytes=1, sha256=b"x" * 32, trial_s=60))
        ).SerializeToString(),
        message(pb.NextOrderResponse, order_from),
    ),
    "the head of a run": (
        pb.NextOrderResponse(
            wait=pb.Wait(publication=pb.Publication(run_id="r", bundle_id="b", head=pb.Head(version="v", base="v")))
        ).SerializeToString(),
        message(pb.NextOrderResponse, order_from),
    ),
    "what unmasks a sum": (
        pb.NextOrderResponse(reveal=pb.RevealOrder(run_id="r", round=1, sent=["a"])).SerializeToString(),
        message(pb.NextOrderResponse, order_from),
    ),
    "keys of masks": (
        pb.MaskKeys(seal=b"s" * 32, mask=b"m" * 32, seed=b"d" * 32).SerializeToString(),
        message(pb.MaskKeys, keys_from),
    ),
    "who masks": (
        pb.MaskResponse(roster=[pb.MaskMember(device_id="a", keys=pb.MaskKeys(seal=b"s" * 32))]).SerializeToString(),
        message(pb.MaskResponse, roster_from),
    ),
    "sealed shares": (
        pb.MaskShares(shares=[pb.MaskShare(device_id="a", sealed=b"x" * 80)]).SerializeToString(),
        message(pb.MaskShares, lambda found: shares_from(found.shares)),
    ),
    "open shares": (
        pb.MaskReveal(seeds=[pb.OpenShare(device_id="a", share=b"x" * 33)]).SerializeToString(),
        message(pb.MaskReveal, lambda found: (open_from(found.seeds), open_from(found.keys))),
    ),
    "the header of a report": (header(), message(pb.ReportHeader, upload_from)),
    "which report is asked for": (
        held_request(upload_of("run", 1, "pi", b"x")).SerializeToString(),
        message(pb.ReportHeldRequest, upload_from),
    ),
    "how much of a report is there": (
        pb.ReportHeldResponse(held_bytes=5).SerializeToString(),
        message(pb.ReportHeldResponse, lambda found: held_from(found, upload_of("run", 1, "pi", b"x" * 9))),
    ),
    "statistics": (statistics(), summed),
    "an order": (order(), message(pb.NextOrderResponse, order_from)),
    "a receipt": (RECEIPT, message(pb.ReportResponse, receipt_from)),
    "a signature": (signature(), signed),
    "a signed head": (signed_head(), head_signed),
    "what is said of a head": (
        SignedHead.parse(signed_head(), "x").statement,
        lambda data: HeadStatement.parse(data, "x"),
    ),
    "a delegation": (Delegation(("2" * 64,), runs=("a",)).text(), lambda data: Delegation.parse(data, "x")),
    "a token": (token(), lambda data: read_token(text(data))),
    "a token with a right sum": (TOKEN_BODY, lambda data: read_token(resealed(data).decode())),
    "a plan": (PLAN, lambda data: parse_plan(text(data))),
    "a manifest": (b"{}", lambda data: Manifest.from_json(data)),
}


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_bytes_give_a_value_or_an_error_of_ours(name: str) -> None:
    valid, read = DECODERS[name]

    @many
    @given(mutated(valid))
    def fuzzed(data: bytes) -> None:
        said = ""
        try:
            read(data)
        except EdgejouleError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 2000

    fuzzed()


@many
@given(st.lists(st.tuples(st.text(max_size=12), st.integers(0, 40), st.binary(max_size=30)), max_size=5))
def test_files_that_arrive_stay_in_their_folder(parts: list[tuple[str, int, bytes]]) -> None:
    import hashlib
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        inner = Path(home, "in")
        inner.mkdir()
        try:
            with FileDownloads(inner) as arrivals:
                for name, size, data in parts:
                    arrivals.begin(name, size, hashlib.sha256(data).digest())
                    arrivals.add(data)
                arrivals.finish()
        except EdgejouleError:
            pass
        assert [path.name for path in Path(home).iterdir()] == ["in"]
        assert all(path.is_file() for path in inner.iterdir())


@pytest.mark.parametrize("read", [read_identity, read_memory])
@pytest.mark.parametrize("name", ["identity.json", "signed.json"])
def test_files_of_the_state_give_a_value_or_an_error_of_ours(read: Callable[[Path], Any], name: str) -> None:
    import tempfile

    valid = b'{"kind": "edgejoule signed 1", "required": true, "newest_unix_s": 1, "signers_version": 1, "lines": {}}'

    @many
    @given(mutated(valid))
    def fuzzed(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as home:
            Path(home, "identity").mkdir()
            Path(home, "identity", name).write_bytes(data)
            with contextlib.suppress(EdgejouleError):
                read(Path(home))

    fuzzed()
