"""Writes `said_since/`: what has been added to the wire since `landed/`, as bytes, and a head that was signed.

    PYTHONPATH=. .venv/bin/python tests/golden/write_said_since.py NEW_FOLDER

Written once, with the code of the commit that added it, and not again: a later form gets files of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from golden_values import said

from coordinator.run.publishing import Published
from coordinator.trust import heads, signing
from coordinator.trust.authority import FOLDER, Authority
from protos.convert.orders import order_to
from protos.convert.publications import receptions_to
from protos.convert.reports import serialise_report
from protos.convert.upgrades import upgrade_state_to
from protos.convert.watts import bins_to
from protos.energy.bins import PowerBins
from protos.orders import (
    BasisOrder,
    CodecOrder,
    ControlOrder,
    DeviceReport,
    Engine,
    HeadEvaluation,
    Publication,
    Reception,
    StopReason,
    TrainOrder,
    UpgradeOffer,
    UpgradeState,
    WaitOrder,
)
from protos.statistics.coding import CodedMoments, CodedWhole
from protos.statistics.features import FeatureMap
from protos.trust.delegated import Delegation
from protos.update.tensors import EncodedTensor, Float32
from protos.update.trees import Tree, version
from protos.v1 import edgejoule_pb2 as pb

# Seconds since 1970, 29 November 2026.
NOW = 1_795_996_800.0
BUNDLE = "sha256:" + "ab" * 32


def head() -> Tree:
    rng = np.random.default_rng(11)
    return {"out_bias": rng.normal(size=3).astype(np.float32), "out_kernel": rng.normal(size=(4, 3)).astype(np.float32)}


def signed_head() -> tuple[bytes, bytes]:
    """A head as a coordinator signs it, and the certificate of the root."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / FOLDER
        authority = Authority.create(folder)
        signing.write_signers(folder, [signing.make_key(folder / signing.KEY_FILE)], 1)
        delegation = Delegation((heads.make_key(folder),), runs=("digits",))
        heads.delegate(folder, delegation, [folder / signing.KEY_FILE], days=30)
        published = Published("run-0001", "digits", BUNDLE, 3, version(head()), 0.9, None)
        return heads.HeadSigner(folder, lambda: NOW).sign(published, head()), authority.root_pem


def messages(signed: bytes) -> dict[str, tuple[bytes, Any]]:
    tensors = tuple(EncodedTensor(name, array.shape, Float32(array.tobytes())) for name, array in head().items())
    bins = PowerBins(
        12.5, 0.02, *(np.float32([2.5, 0.0, 7.25]) * share for share in (1, 0.5, 2)), np.full(3, 0.0078125)
    )
    publication = Publication(
        run_id="run-0001", name="digits", bundle_id=BUNDLE, round=3, head_version=version(head()), head=tensors,
        accuracy=0.875, loss=0.5, evaluate=True, signed=signed,
    )  # fmt: skip
    wait = WaitOrder(2.5, "nothing to do", publication, UpgradeOffer("u-1", "0.2.0", 4096, bytes(range(32)), 600.0))
    order = TrainOrder(
        run_id="run-0001", round=3, plan_id="plan-1", bundle_id=BUNDLE, head_version=version(head()), head=tensors,
        steps=0, inputs={}, codec=CodecOrder("float32", {}), budget_j=None, deadline_s=60.0, seed=7, costs=None,
        statistics=FeatureMap(-4, 16, 8, 99), basis=BasisOrder("basis-1", tensors),
        control=ControlOrder("control-1", 2, tensors), evaluate=True,
    )  # fmt: skip
    whole = CodedWhole(3, b"abc", b"de", b"f", b"")
    report = DeviceReport(
        run_id="run-0001", round=3, device_id="pi-1", plan_id="plan-1", bundle_id=BUNDLE, head_version="head-1",
        steps_planned=0, steps_done=0, examples=40, local_normaliser=0.0, stop_reason=StopReason.COMPLETED,
        loss_first=None, loss_last=None, engine=Engine("ai-edge-litert", "2.3.0", "xnnpack"), energy=(), update=(),
        embedded=40, train_s=0.25, statistics=CodedMoments(-4, (30, 10), (-(2**40), 2**62), (5, 6), whole, whole),
        basis_version="basis-1", control_version="control-1", control_held=True,
        evaluation=HeadEvaluation("head-1", 40, 30, 0.5, (30, 10), (25, 5)),
    )  # fmt: skip
    received = (Reception("head-1", True, "", HeadEvaluation("head-1", 40, 30, 0.5, (30, 10), (25, 5))),
                Reception("head-2", False, "it is worse"))  # fmt: skip
    state = UpgradeState("u-1", "failed", "it does not begin")
    return {
        "watts": (bins_to(bins).SerializeToString(), bins),
        "order to wait with a head and an upgrade": (order_to(wait).SerializeToString(), wait),
        "order of statistics": (order_to(order).SerializeToString(), order),
        "report of statistics": (serialise_report(report), report),
        "receptions": (pb.NextOrderRequest(receptions=receptions_to(received)).SerializeToString(), received),
        "upgrade": (upgrade_state_to(state).SerializeToString(), state),
    }


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    signed, root = signed_head()
    (out / "head.signed.json").write_bytes(signed)
    (out / "root.pem").write_bytes(root)
    rows = {name: {"wire": wire.hex(), "value": said(value)} for name, (wire, value) in messages(signed).items()}
    (out / "messages.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
