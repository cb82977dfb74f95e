"""One device in a masked sum, and what makes a sum of masked changes again.

After Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth: "Practical secure aggregation for
privacy-preserving machine learning" (CCS 2017). Device u sends, modulo a power of two,

    y_u = q_u + G(b_u) + sum over v after u of G(s_uv) - sum over v before u of G(s_uv)

with G a ChaCha20 stream, b_u a secret of its own and s_uv agreed by X25519 with v. In the sum over all, the masks
between pairs cancel. Of those who sent y, the others reveal shares of b_u; of those who did not, shares of the key
behind s_uv; never both of one device, and each device answers once. With a threshold over half, no coordinator can
collect both by telling different stories to different devices.

It hides single changes from a coordinator that keeps to the protocol and looks at all it gets. One that invents
devices, or hands out keys of its own for those of others, is not kept out: nothing but it vouches for keys.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protos.errors import RefusedError, UpdateError
from protos.secure_sum.grid import Words
from protos.secure_sum.sharing import SECRET_BYTES, SHARE_BYTES, combine, split

__all__ = ["LEAST_DEVICES", "Keys", "Party", "Revealed", "threshold_of", "unmasked"]

# Of two, each would know the other's change from the sum.
LEAST_DEVICES = 3
_KEY_BYTES = 32


@dataclass(frozen=True)
class Keys:
    """What one device tells the others.

    Attributes:
        seal, mask: X25519 public keys, 32 bytes each: to seal shares with, and to agree on masks with.
        seed: SHA-256 of its own secret, so that a false share of it is found out.
    """

    seal: bytes
    mask: bytes
    seed: bytes


@dataclass(frozen=True)
class Revealed:
    """What one device reveals: shares of the own secrets of those who sent, and of the keys of those who did not."""

    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]


def threshold_of(devices: int) -> int:
    """How many must reveal: two thirds, and always more than half.

    >>> [threshold_of(n) for n in (3, 4, 10, 100)]
    [2, 3, 7, 67]
    """
    return max(devices // 2 + 1, -(-2 * devices // 3))


class Party:
    """One device's part in one attempt at one round.

    Args:
        name: of the device.
        context: of the attempt: keys that were agreed on for another are of no use.
    """

    def __init__(self, name: str, context: str) -> None:
        self._name, self._context = name, context
        self._seal, self._mask = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(SECRET_BYTES)
        self._roster: dict[str, Keys] = {}
        self._threshold = 0
        self._shares: dict[str, tuple[bytes, bytes]] = {}
        self._revealed = False

    def keys(self) -> Keys:
        """What the others are told."""
        seal, mask = self._seal.public_key(), self._mask.public_key()
        return Keys(seal.public_bytes_raw(), mask.public_bytes_raw(), hashlib.sha256(self._seed).digest())

    def sealed_shares(self, roster: Mapping[str, Keys], threshold: int) -> dict[str, bytes]:
        """Shares of both secrets for every device of the roster, each sealed for its holder.

        Raises:
            RefusedError: the roster is not one in which a change would stay hidden.
        """
        if self._roster or roster.get(self._name) != self.keys():
            raise RefusedError("the roster has not this device's keys", where=self._context)
        if len(roster) < LEAST_DEVICES or not len(roster) // 2 < threshold <= len(roster):
            raise RefusedError(
                f"{threshold} of {len(roster)} devices could unmask one", where=self._context, fix="ask more devices"
            )
        if len(
            {public_keys.mask for public_keys in roster.values()}
            | {public_keys.seal for public_keys in roster.values()}
        ) != 2 * len(roster):
            raise RefusedError("two devices of the roster have one key", where=self._context)
        self._roster, self._threshold = dict(sorted(roster.items())), threshold
        seeds = split(self._seed, threshold, len(roster))
        keys = split(self._mask.private_bytes_raw(), threshold, len(roster))
        made: dict[str, bytes] = {}
        for name, seed, key in zip(self._roster, seeds, keys, strict=True):
            if name == self._name:
                self._shares[name] = (seed, key)
            else:
                box, label = self._box(name, self._name, name)
                made[name] = box.encrypt(bytes(12), seed + key, label)
        return made

    def opened(self, sealed: Mapping[str, bytes]) -> None:
        """Take the shares of the others. Who is not among them takes no part.

        Raises:
            UpdateError: one was not sealed for this device, or is none. RefusedError: too few are left.
        """
        for name, box_of in sealed.items():
            if name not in self._roster or name == self._name:
                raise UpdateError(f"a share of {name[:64]!r}, which is not in the roster", where=self._context)
            box, label = self._box(name, name, self._name)
            try:
                both = box.decrypt(bytes(12), box_of, label)
            except InvalidTag as error:
                raise UpdateError(f"the share of {name} was not sealed for this device", where=self._context) from error
            if len(both) != 2 * SHARE_BYTES:
                raise UpdateError(f"the share of {name} is none", where=self._context)
            self._shares[name] = (both[:SHARE_BYTES], both[SHARE_BYTES:])
        if len(self._shares) < max(LEAST_DEVICES, self._threshold):
            raise RefusedError(f"{len(self._shares)} devices are left", where=self._context, fix="ask more devices")

    def masked(self, numbers: np.ndarray, width: int) -> Words:
        """The numbers with all masks added, modulo 2^width."""
        total = numbers.astype(np.int64).astype(np.uint64).astype(np.uint32)
        total = total + stream(_derived(self._seed, "own", self._context), len(numbers))
        for other in self._shares:
            if other != self._name:
                mask = stream(self._agreed(other), len(numbers))
                total = total + mask if self._name < other else total - mask
        return _within(total, width)

    def reveal(self, sent: Iterable[str], missing: Iterable[str]) -> Revealed:
        """Shares of what unmasks the sum over ``sent``; once, and of each device one of the two.

        Raises:
            RefusedError: it was asked before, or for what would unmask a single device.
        """
        sent, missing = set(sent), set(missing)
        wrong = ""
        if self._revealed:
            wrong = "this device has revealed its shares already"
        elif sent & missing or sent | missing != set(self._shares):
            wrong = "each device has either sent its change or not"
        elif self._name not in sent or len(sent) < max(LEAST_DEVICES, self._threshold):
            wrong = f"the sum over {len(sent)} devices hides too little"
        if wrong:
            raise RefusedError(wrong, where=self._context)
        self._revealed = True
        return Revealed(
            {name: self._shares[name][0] for name in sorted(sent)},
            {name: self._shares[name][1] for name in sorted(missing)},
        )

    def _box(self, other: str, sender: str, receiver: str) -> tuple[ChaCha20Poly1305, bytes]:
        """A cipher that only these two know, another for each direction; with what it is bound to."""
        label = f"{self._context}\n{sender}\n{receiver}"
        agreed = self._seal.exchange(X25519PublicKey.from_public_bytes(self._roster[other].seal))
        return ChaCha20Poly1305(_derived(agreed, "share", label)), label.encode()

    def _agreed(self, other: str) -> bytes:
        return pair_key(self._mask, self._roster[other].mask, self._context)


def pair_key(mine: X25519PrivateKey, theirs: bytes, context: str) -> bytes:
    """The key of the mask between two devices; the same from both sides."""
    return _derived(mine.exchange(X25519PublicKey.from_public_bytes(theirs)), "pair", context)


def stream(key: bytes, count: int) -> Words:
    """``count`` words of 32 bits from ChaCha20."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(4 * count)), "<u4").astype(np.uint32)


def _derived(secret: bytes, purpose: str, label: str) -> bytes:
    info = f"edgejoule masked sum 1\n{purpose}\n{label}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret)


def _within(words: Words, width: int) -> Words:
    return words & np.uint32((1 << width) - 1)


def _public_of(raw: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()


def unmasked(
    total: Words,
    width: int,
    context: str,
    roster: Mapping[str, Keys],
    present: Iterable[str],
    sent: Iterable[str],
    revealed: Mapping[str, Revealed],
    threshold: int,
) -> Words:
    """The sum of the numbers of those who sent, modulo 2^width, from the sum of what they sent.

    Args:
        roster: all whose keys were handed out, by name.
        present: those of them who took part in the masks.
        revealed: what each said, at least ``threshold`` of them.

    Raises:
        UpdateError: too few revealed, or what they did does not fit together.
    """
    places = {name: at for at, name in enumerate(sorted(roster), 1)}
    sent = sorted(sent)
    missing = sorted(set(present) - set(sent))
    if len(revealed) < threshold:
        raise UpdateError(f"{len(revealed)} of the {threshold} devices that it takes have revealed", where=context)

    def secret(of: str, shares: dict[int, bytes], good: Callable[[bytes], bool]) -> bytes:
        # A few false shares spoil those sets that they are in: others are tried.
        row = sorted(shares.items())
        for start in range(len(row) if len(row) >= threshold else 0):
            chosen = dict((row[start:] + row[:start])[:threshold])
            with suppress(UpdateError):
                found = combine(chosen)
                if good(found):
                    return found
        raise UpdateError(f"{len(shares)} shares of {of} do not give its secret, it takes {threshold}", where=context)

    total = total.copy()
    for name in sent:
        shares = {
            places[by]: revealed_shares.seeds[name]
            for by, revealed_shares in revealed.items()
            if name in revealed_shares.seeds
        }
        seed = secret(name, shares, lambda found, name=name: hashlib.sha256(found).digest() == roster[name].seed)  # type: ignore[misc]
        total = total - stream(_derived(seed, "own", context), len(total))
    for name in missing:
        shares = {
            places[by]: revealed_shares.keys[name]
            for by, revealed_shares in revealed.items()
            if name in revealed_shares.keys
        }
        raw = secret(name, shares, lambda found, name=name: _public_of(found) == roster[name].mask)  # type: ignore[misc]
        key = X25519PrivateKey.from_private_bytes(raw)
        for other in sent:
            mask = stream(pair_key(key, roster[other].mask, context), len(total))
            # Who comes first added it, who comes second took it away.
            total = total - mask if other < name else total + mask
    return _within(total, width)
