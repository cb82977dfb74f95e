"""Heads that a coordinator signs because the offline keys let it: a real daemon with certificates, and a coordinator on
the wire that does all that one can do who was broken into."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from model_rig import always, trained
from peer_coordinator import PeerCoordinator, publication
from running_daemon import RunningDaemon

from coordinator.run.publishing import Published
from coordinator.trust import heads, signing
from coordinator.trust.authority import FOLDER, Authority
from edge_runtime.identity.identity import Identity, read_identity, write_identity
from edge_runtime.identity.signatures import read_memory
from edge_runtime.model.current import open_current
from protos.errors import IntegrityError, UsageError
from protos.model.bundle import Bundle
from protos.orders import Publication, WaitOrder
from protos.trust.delegated import Delegation, SignedHead
from protos.update import trees
from protos.update.trees import Tree

DAY = 86_400


class Fleet:
    """An authority whose coordinator signs heads, and a board that is enrolled there."""

    def __init__(self, home: Path, bundle: Bundle) -> None:
        self.folder, self.state, self.bundle = home / FOLDER, home / "state", bundle
        self.authority = Authority.create(self.folder)
        signing.write_signers(self.folder, [signing.make_key(self.folder / signing.KEY_FILE)], 1)
        self.public = heads.make_key(self.folder)
        self.now = time.time()
        self.signer = heads.HeadSigner(self.folder, lambda: self.now)
        self.runs = 0

    def delegate(self, *keys: str, days: float = 30, **scope: tuple[str, ...]) -> None:
        heads.delegate(self.folder, Delegation(keys, **scope), [self.folder / signing.KEY_FILE], days=days)

    def enrol(self, address: str) -> None:
        issued, key = self._device()
        self.state.mkdir(exist_ok=True)
        texts = (key, issued.decode(), self.authority.root_pem.decode())
        write_identity(self.state, Identity("pi-1", (address,), 2, *texts, self.now - 60, self.now + 30 * DAY))

    def _device(self) -> tuple[bytes, str]:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        chain = self.authority.device("pi-1", request.public_bytes(serialization.Encoding.DER)).chain_pem
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return chain, key.private_bytes(*form).decode()

    def credentials(self) -> grpc.ServerCredentials:
        key, chain = self.authority.server_pair(["127.0.0.1"])
        pairs = [(key, chain)]
        return grpc.ssl_server_credentials(pairs, self.authority.root_pem, require_client_auth=True)

    def published(self, head: Tree, run_id: str = "", run: str = "stripes", **changes: Any) -> WaitOrder:
        """A head as the coordinator sends it: signed."""
        self.runs += 1
        one = Published(run_id or f"run-{self.runs}", run, self.bundle.bundle_id, 3, trees.version(head), 0.9, None)
        signed = self.signer.sign(one, head)
        return publication(self.bundle, head, one.run_id, name=run, signed=signed, **changes)


def changed(order: WaitOrder, **changes: Any) -> WaitOrder:
    assert order.publication is not None
    return replace(order, publication=replace(order.publication, **changes))


def of(order: WaitOrder) -> Publication:
    assert order.publication is not None
    return order.publication


@pytest.fixture
def home(tmp_path: Path, bundle: Bundle) -> Fleet:
    return Fleet(tmp_path, bundle)


@pytest.fixture
def secure(home: Fleet, bundle: Bundle) -> Iterator[PeerCoordinator]:
    coordinator = PeerCoordinator(bundle, credentials=home.credentials())
    home.enrol(coordinator.address)
    yield coordinator
    coordinator.stop()


@pytest.fixture
def sent(home: Fleet, secure: PeerCoordinator, started: Callable[..., RunningDaemon]) -> Callable[..., str]:
    """`sent(order)`: hand it to the board; "" when it is at work afterwards, else what the board says of it."""
    started(secure, exit_when_idle_s=None)

    def send(order: WaitOrder) -> str:
        before, cards = len(secure.receptions), len(secure.joins)
        version = of(order).head_version
        secure.orders.append(order)
        secure.until(lambda: len(secure.receptions) > before or any(join.reason for join in secure.joins[cards:]))
        model = open_current(home.state)
        if len(secure.receptions) > before:
            assert secure.receptions[-1].adopted
            assert model is not None
            assert model.about.published_version == version
            return ""
        reason = str(next(join.reason for join in secure.joins[cards:] if join.reason))
        assert model is None or model.about.run_id != of(order).run_id
        return reason

    return send


def test_a_board_that_has_seen_a_signed_head_takes_no_other(
    home: Fleet, bundle: Bundle, sent: Callable[..., str], tmp_path: Path
) -> None:
    good = trained(bundle, tmp_path)
    # As today, where nobody delegated anything.
    plain = home.published(always(bundle, 0))
    assert of(plain).signed == b""
    assert sent(plain) == ""
    home.delegate(home.public)
    signed = home.published(good)
    assert sent(signed) == ""
    assert read_memory(home.state).heads_required
    assert not read_memory(home.state).required, "of bundles nothing was said"
    # From the same coordinator, without.
    bare = changed(home.published(always(bundle, 1)), signed=b"")
    assert "is not signed, and this device works with signed heads" in sent(bare)
    # Other bytes than those that were signed, under their own name.
    other = {name: value + np.float32(1e-6) for name, value in good.items()}
    assert trees.version(other) != trees.version(good)
    false = publication(bundle, other, "run-9", signed=of(home.published(good)).signed)
    assert "its signature is of another head" in sent(false)
    # The signature of a head, with the name of another run; of another round.
    assert "its signature is of another head" in sent(changed(home.published(good), run_id="run-77"))
    assert "its signature is of another head" in sent(changed(home.published(good), round=4))
    # What was served before goes on, and a good one is taken after all that.
    model = open_current(home.state)
    assert model is not None
    assert model.about.run_id == of(signed).run_id
    better = {name: value * np.float32(1.5) for name, value in good.items()}
    assert sent(home.published(better)) == ""


def test_older_heads_ended_delegations_and_other_keys_are_refused(
    home: Fleet, bundle: Bundle, sent: Callable[..., str], tmp_path: Path
) -> None:
    good = trained(bundle, tmp_path)
    several = [{name: value * np.float32(factor) for name, value in good.items()} for factor in (1.1, 1.2, 1.3, 1.4)]
    home.delegate(home.public)
    old = home.published(several[0])
    first_delegation = SignedHead.parse(of(old).signed, "x")
    assert sent(old) == ""
    assert sent(home.published(several[1])) == ""
    # Rollback: the head before, as it was signed then.
    assert "is head" in (said := sent(old))
    assert "was seen here" in said
    # A delegation of another key: this coordinator's is none of those.
    home.delegate("ab" * 32)
    replaced = home.published(several[2])
    assert "may sign no heads, or no more" in sent(replaced)
    # The board remembers it, so that the delegation before does not come back.
    again = SignedHead.parse(of(replaced).signed, "x")
    back = replace(again, delegation=first_delegation.delegation)
    back = replace(back, delegation_signature=first_delegation.delegation_signature)
    assert "was seen here" in sent(changed(replaced, run_id="run-b", signed=back.text()))
    # Withdrawn: nobody may. And one that covers other runs, or other bundles.
    home.delegate()
    assert "may sign no heads, or no more" in sent(home.published(several[2]))
    home.delegate(home.public, runs=("nightly",))
    assert "may sign no heads of bundle" in sent(home.published(several[2]))
    home.delegate(home.public, bundles=("0" * 64,))
    assert "may sign no heads of bundle" in sent(home.published(several[2]))
    # Freeze: a delegation that has ended lets nothing new in.
    home.delegate(home.public, days=1e-9)
    assert "its signature ended on" in sent(home.published(several[2]))
    # Of another fleet altogether.
    elsewhere = Fleet(tmp_path / "elsewhere", bundle)
    elsewhere.delegate(elsewhere.public)
    assert "did not name its signers" in sent(elsewhere.published(several[2], "run-e"))
    # A key that was stolen and counted far ahead binds nobody once it is replaced.
    home.delegate(home.public)
    home.now += 1000 * DAY
    assert sent(home.published(several[2])) == ""
    home.now -= 1000 * DAY
    for kept in (home.folder / "heads").iterdir():
        kept.unlink()
    home.signer = heads.HeadSigner(home.folder, lambda: home.now)
    assert "was seen here" in sent(home.published(several[3]))
    home.delegate(heads.replace_key(home.folder))
    assert sent(home.published(several[3])) == ""


def test_no_bit_of_what_was_signed_can_change(home: Fleet, bundle: Bundle) -> None:
    from edge_runtime.model.adopting import _said_of
    from protos.trust.admission import Memory
    from protos.trust.delegated import admitted_head

    home.delegate(home.public)
    head = always(bundle, 0)
    found = of(home.published(head))
    root = home.authority.root_pem

    def judged(data: bytes) -> IntegrityError | None:
        said = _said_of(found, head)
        return admitted_head(Memory(), SignedHead.parse(data, "h"), said, root, time.time(), "h")[1]

    assert judged(found.signed) is None
    data = bytearray(found.signed)
    for bit in range(0, 8 * len(data), 23):
        data[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(IntegrityError):
            assert judged(bytes(data)) is not None
        data[bit // 8] ^= 1 << bit % 8
    for wrong in (b"", bytes(data[:-1]), bytes(data) + b"\n", b" " + bytes(data)):
        with pytest.raises(IntegrityError):
            judged(wrong)


def test_a_coordinator_signs_a_head_once_and_the_newest_of_a_bundle_counts_most(home: Fleet, bundle: Bundle) -> None:
    home.delegate(home.public)
    one, two = always(bundle, 0), always(bundle, 1)
    first = of(home.published(one, "run-1")).signed
    assert of(home.published(one, "run-1")).signed == first
    # Also after a restart, and with a delegation that was renewed.
    home.signer = heads.HeadSigner(home.folder, lambda: home.now)
    assert of(home.published(one, "run-1")).signed == first
    home.delegate(home.public)
    renewed = SignedHead.parse(of(home.published(one, "run-1")).signed, "x")
    assert renewed.statement == SignedHead.parse(first, "x").statement
    # Another head came and went again, as where its run was pruned: the one before is the newest once more.
    between = _counter(of(home.published(two, "run-2")).signed)
    assert between > _counter(first)
    assert _counter(of(home.published(one, "run-1")).signed) > between
    # What is in the database under the same run and round is another head now: nobody signs that.
    with pytest.raises(IntegrityError, match="is not the head that was signed when the run ended"):
        home.published(two, "run-1")
    # But where a device was taken out of the run, its head is meant to be another.
    home.signer.forget("run-1")
    assert _counter(of(home.published(two, "run-1")).signed) > between
    assert (home.folder / heads.KEY_FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("later_s", [0, 0.5, -DAY])
def test_a_head_that_replaces_another_counts_more_within_the_second_and_by_a_clock_that_was_put_right(
    home: Fleet, bundle: Bundle, later_s: float
) -> None:
    home.delegate(home.public)
    counters = [_counter(of(home.published(always(bundle, 0), "run-1")).signed)]
    for number in (1, 0, 1):
        # Each device that is taken out of a run replaces its head.
        home.now += later_s
        home.signer.forget("run-1")
        home.signer = heads.HeadSigner(home.folder, lambda: home.now)
        counters.append(_counter(of(home.published(always(bundle, number), "run-1")).signed))
    assert counters == sorted(set(counters)), "boards take no other head with the counter of one that they saw"
    home.signer.forget("run-without-a-signature")


def _counter(signed: bytes) -> int:
    from protos.trust.delegated import HeadStatement

    return HeadStatement.parse(SignedHead.parse(signed, "x").statement, "x").counter


def test_a_delegation_takes_all_whom_the_policy_asks_and_what_was_there_stays(home: Fleet) -> None:
    second = home.folder / "second.key"
    first = signing.public_of(home.folder / signing.KEY_FILE)
    home.delegate(home.public)
    signing.write_signers(home.folder, [first, signing.make_key(second)], 2)
    before = (home.folder / heads.DELEGATION_FILE).read_bytes()
    with pytest.raises(IntegrityError, match="signed by 1 of the 2 keys it takes"):
        home.delegate(home.public, runs=("x",))
    assert (home.folder / heads.DELEGATION_FILE).read_bytes() == before
    # Signed by one here and by the other there, then put in place.
    out = home.folder.parent / "heads.delegation"
    heads.delegate(home.folder, Delegation((home.public,)), [second], days=9, out=out)
    signing.cosign(home.folder, out, [home.folder / signing.KEY_FILE])
    for path in (out, signing.signature_of(out)):
        path.replace(home.folder / path.name)
    found = heads.delegation_in(home.folder)
    assert found is not None
    assert found[0].keys == (home.public,)
    with pytest.raises(UsageError, match="is no name of a delegation"):
        heads.delegate(home.folder, Delegation(()), [second], days=9, out=home.folder / "x.json")


def test_a_board_of_a_site_takes_heads_that_were_signed_above_alone(
    home: Fleet, bundle: Bundle, sent: Callable[..., str], tmp_path: Path
) -> None:
    above = Fleet(tmp_path / "above", bundle)
    identity = read_identity(home.state)
    assert identity is not None
    write_identity(home.state, replace(identity, above_root_pem=above.authority.root_pem.decode()))
    good = trained(bundle, tmp_path)
    home.delegate(home.public)
    above.delegate(above.public)
    # The site's own signature is good for nothing here, also before any head from above was seen.
    assert "the root above this board's site did not name its signers" in sent(home.published(good, "run-site"))
    assert sent(above.published(good)) == ""
    assert read_memory(home.state, above=True).heads_required
    assert not read_memory(home.state).heads_required
    better = {name: value * np.float32(1.5) for name, value in good.items()}
    assert "did not name its signers" in sent(home.published(better, "run-site-2"))
    assert "is not signed" in sent(changed(home.published(better, "run-s"), signed=b""))
    # Nor a delegation from above with the signature of the site's key under it.
    mixed = SignedHead.parse(of(above.published(better, "run-m")).signed, "x")
    own = SignedHead.parse(of(home.published(better, "run-m")).signed, "x")
    mixed = replace(mixed, signature=own.signature, key=own.key, statement=own.statement)
    assert "may sign no heads" in sent(changed(above.published(better, "run-m"), signed=mixed.text()))
    assert sent(above.published(better)) == ""
