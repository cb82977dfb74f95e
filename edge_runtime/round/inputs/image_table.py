"""What is known of image files between two starts, so that each is decoded once in its life.

One file of lines, appended to: a line for what a header said, one for the hash of an image's pixels. A line that a
power cut tore is left out, and costs one decoding. Names are hashed: a table of 100,000 images takes some 20 MB.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from edge_runtime.state import storing
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.errors import StoreError

__all__ = ["ImageTable"]

# Lines of files that nobody asks for any more, beyond as many as are asked for, before the table is written anew.
_SLACK = 1000
Shape = tuple[int, ...]


class ImageTable:
    """A :class:`protos.datafiles.lazy.Known` in a file.

    Args:
        path: read at the first question; one that cannot be read is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looks: dict[bytes, str] = {}
        self._keys: dict[tuple[bytes, Shape], bytes] = {}
        self._read = False
        self._lines = 0
        self._fresh: list[str] = []
        self._asked: set[bytes] = set()

    @property
    def damaged(self) -> int:
        """How many images are known to be damaged."""
        self._load()
        return sum(look.startswith("bad: ") for look in self._looks.values())

    def look_of(self, stamp: str) -> str | None:
        self._load()
        name = _hashed(stamp)
        self._asked.add(name)
        return self._looks.get(name)

    def keep_look(self, stamp: str, look: str) -> None:
        self._load()
        name = _hashed(stamp)
        self._looks[name] = sys.intern(look)
        self._fresh.append(json.dumps([name.hex(), look]))

    def key_of(self, stamp: str, shape: Shape) -> bytes | None:
        self._load()
        return self._keys.get((_hashed(stamp), tuple(shape)))

    def keep_key(self, stamp: str, shape: Shape, key: bytes) -> None:
        self._load()
        name, shape = _hashed(stamp), tuple(shape)
        if self._keys.get((name, shape)) != key:
            self._keys[name, shape] = key
            self._fresh.append(json.dumps([name.hex(), list(shape), key.hex()]))

    def sync(self) -> None:
        if not self._fresh:
            return
        lines, self._fresh = self._fresh, []
        self._lines += len(lines)
        try:
            with storing(self._path), self._path.open("a", encoding="ascii") as file:
                file.write("".join(f"{line}\n" for line in lines))
            self._forget_others()
        except StoreError as error:
            log().debug("%s; the next start decodes some images again", error)

    def _forget_others(self) -> None:
        """Keep only what is known of files that were asked for since the start, when that saves enough."""
        if self._lines <= 4 * len(self._asked) + _SLACK:
            return
        self._looks = {name: look for name, look in self._looks.items() if name in self._asked}
        self._keys = {place: key for place, key in self._keys.items() if place[0] in self._asked}
        lines = [json.dumps([name.hex(), look]) for name, look in self._looks.items()]
        lines += [json.dumps([name.hex(), list(shape), key.hex()]) for (name, shape), key in self._keys.items()]
        self._lines = len(lines)
        with storing(self._path), write_whole(self._path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())

    def _load(self) -> None:
        if self._read:
            return
        self._read = True
        try:
            with self._path.open("rb") as file:
                for line in file:
                    self._lines += 1
                    self._take(line)
        except OSError:
            return

    def _take(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            name = bytes.fromhex(found[0])
            if len(found) == 2:
                self._looks[name] = sys.intern(str(found[1]))
            else:
                self._keys[name, tuple(int(one) for one in found[1])] = bytes.fromhex(found[2])
        except (ValueError, TypeError, IndexError, KeyError):
            return


def _hashed(stamp: str) -> bytes:
    return hashlib.blake2b(stamp.encode("utf-8", "surrogateescape"), digest_size=12).digest()
