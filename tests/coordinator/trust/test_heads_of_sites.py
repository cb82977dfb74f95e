"""Heads of a run above, on boards of a site: what was signed above arrives as it was signed. Real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.cli import main
from coordinator.server.upstream.handed_down import HandedDown
from coordinator.server.upstream.site import HANDED_DOWN
from edge_runtime.identity.identity import read_identity
from edge_runtime.identity.signatures import Signatures
from edge_runtime.model.current import open_current
from protos.convert.publications import publication_from
from protos.model.bundle import open_bundle
from protos.orders import Holding
from protos.trust.delegated import HeadStatement, SignedHead
from protos.trust.signed import BUNDLE_SIGNATURE
from protos.update import trees
from protos.update.tensors import as_float32, decode
from protos.v1 import edgejoule_pb2 as pb

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[3]
PLAN = """[run]
bundle = {bundle}
name = "all halls"
rounds = 1
[round]
devices = 1
deadline_s = 240
[train]
method = "closed_form"
[closed_form]
shrinkage = 0.01
"""


class Programs:
    """Processes of a test, with their logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / f"log-{len(self.running)}").open("wb") as log:
            made = subprocess.Popen([sys.executable, "-m", *map(str, words)], stdout=log, stderr=log, env=environ)
        self.running.append(made)
        return made

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("log-*")))

    def end(self) -> None:
        for process in reversed(self.running):
            process.terminate()
        for process in reversed(self.running):
            process.wait(60)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(tmp_path)
    yield made
    made.end()


def until(found: Callable[[], Any], what: Callable[[], str]) -> Any:
    end_s = time.monotonic() + 150
    while time.monotonic() < end_s:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(what())


def test_a_board_of_a_site_works_with_the_head_that_was_signed_above_and_with_none_of_the_site(
    start_lab: Any, board: Callable[[str], Path], programs: Programs, digits: Path, tmp_path: Path, lab: Any
) -> None:
    state = tmp_path / "site"
    place = tmp_path / "bundle"
    signing = ["--state", str(lab.state)]
    # A bundle and heads that are signed above.
    subprocess.run(["cp", "-r", digits / "digits", place], check=True)
    assert main(["sign", str(place), *signing, "--line", "digits", "--days", "30"]) == 0
    assert main(["delegate", *signing]) == 0

    def serve() -> tuple[subprocess.Popen[bytes], str]:
        ready = tmp_path / "site.ready"
        ready.unlink(missing_ok=True)
        words = ["serve", "--state", state, "--listen", "127.0.0.1:0", "--tls", "--enroll-listen", "127.0.0.1:0"]
        above = ["--upstream", lab.address, "--upstream-identity", hall, "--ready-file", ready]
        made = programs.start("coordinator.cli", *words, *above)
        until(lambda: ready.exists() or made.poll() is not None, programs.said)
        return made, ready.read_text().strip()

    hall = board("hall")
    assert main(["init", "--state", str(state), "--name", "127.0.0.1"]) == 0
    # What the site could sign by itself.
    assert main(["delegate", "--state", str(state)]) == 0
    site, address = serve()
    enrolment = until(lambda: _after("enrolment on 127.0.0.1:", programs.said()), programs.said)
    words = ["--state", str(state), "--address", address, "--enroll-port", enrolment]
    token = json.loads(lab.run("enroll", "pi-1", *words, "--json").stdout)["tokens"][0]["token"]
    home = tmp_path / "pi-1"
    assert lab.edge("enroll", token, "--state", str(home)).returncode == 0
    identity = read_identity(home)
    assert identity is not None
    assert identity.above_root_pem.encode() == (lab.state / "trust" / "root.pem").read_bytes()
    assert identity.root_pem.encode() == (state / "trust" / "root.pem").read_bytes()

    def daemon(coordinator: str) -> subprocess.Popen[bytes]:
        data = ["--data", digits / "digits.npz", "--state", home, "--sensor", "estimate:pi4", "--board", "pi4"]
        wait = ["--wait-for-coordinator", "200"]
        return programs.start("edge_runtime.cli", "run", "--coordinator", coordinator, *data, *wait)

    running = daemon(address)
    (plan := tmp_path / "plan.toml").write_text(PLAN.format(bundle=json.dumps(str(place))))
    started = lab.operate("start", str(plan), "--json")
    assert started.returncode == 0, started.stderr
    run_id = json.loads(started.stdout)["run_id"]

    def at_work() -> bool:
        found = open_current(home)
        return found is not None and found.about.run_id == run_id

    until(at_work, programs.said)
    # It is what was signed above, under the root above; the site signed nothing, and the bundle's signature came too.
    assert Signatures(home).head_memory().heads_required
    assert [name.partition("/")[0] for name in Signatures(home).head_memory().lines][:1] == ["bundle"]
    assert not (state / "trust" / "heads").exists()
    bundle = open_bundle(place)
    kept = state / "bundles" / bundle.bundle_id.removeprefix("sha256:") / BUNDLE_SIGNATURE
    assert kept.read_bytes() == (place / BUNDLE_SIGNATURE).read_bytes()
    # Kept by the fleet that they come from.
    (kept,) = (state / HANDED_DOWN).iterdir()
    (path,) = kept.iterdir()
    passed = publication_from(pb.Publication.FromString(path.read_bytes()))
    (above,) = (lab.state / "trust" / "heads").iterdir()
    signed = SignedHead.parse(above.read_bytes(), "above")
    assert SignedHead.parse(passed.signed, "below").statement == signed.statement
    assert HeadStatement.parse(signed.statement, "x").run_id == run_id
    good = open_current(home)
    assert good is not None

    # A site that was broken into puts another head in its place: first as if it came from above, then with its own
    # signature. The board says why it takes neither, and goes on with what it has.
    site.terminate()
    running.terminate()
    site.wait(60)
    running.wait(60)
    head = decode(passed.head, bundle.manifest.head.shapes())
    other = {name: value + np.float32(0.5) for name, value in head.items()}
    false = replace(passed, head=as_float32(other), head_version=trees.version(other))
    HandedDown(kept).take(false, bundle)
    site, address = serve()
    daemon(address)
    until(lambda: "its signature is of another head" in programs.said(), programs.said)
    now = open_current(home)
    assert now is not None
    assert now.about.version == good.about.version


def _after(words: str, text: str) -> str:
    found = text.partition(words)[2].split()
    return found[0] if found else ""


def test_heads_from_above_are_kept_newest_last_and_damage_is_asked_again(
    plain_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from protos.orders import Publication

    bundle = open_bundle(plain_bundle)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in bundle.manifest.head.shapes().items()}
    one = Publication("r1", "n", bundle.bundle_id, 1, trees.version(zeros), as_float32(zeros), signed=b"as it came")
    made = HandedDown(tmp_path / "h")
    assert made.wanted(Holding(published="")) == (False, None)
    made.take(one, bundle)
    for again in (made, HandedDown(tmp_path / "h")):
        assert again.wanted(Holding(published="", bundle_id=bundle.bundle_id)) == (True, one)
        assert again.wanted(Holding(published="")) == (True, one)
        assert again.wanted(Holding(published=one.id)) == (True, None)
        assert again.wanted(Holding(published="", bundle_id="sha256:" + "0" * 64)) == (False, None)
        assert again.wanted(Holding(published=None)) == (False, None)
    (path,) = (tmp_path / "h").iterdir()
    for damage in (path.read_bytes()[:-7], b"", b"\xff" * 50):
        path.write_bytes(damage)
        assert HandedDown(tmp_path / "h").wanted(Holding(published="")) == (False, None)
    assert "comes again from above" in caplog.text
