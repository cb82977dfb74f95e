"""Ask the model at work on this board, from any Python program: numpy and the standard library, nothing of edgejoule.

    from edge_runtime.client import Client

    with Client() as model:
        print(model.info()["version"])
        print(model.predict_image("photo.jpg", top=3))
        scores = model.predict(x)["scores"]          # x: numpy, uint8 or float32 [N, ...]

docs/model.md has the protocol. One client is for one thread; any number of clients may be open.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Client", "ModelError", "default_socket"]

SERVICE_SOCKET = Path("/var/lib/edgejoule/model.sock")
_LONGEST_PATH = 107


class ModelError(Exception):
    """The board says why there is no answer, in one line."""


def default_socket() -> Path:
    """EDGEJOULE_MODEL_SOCKET; else ``model.sock`` in EDGEJOULE_STATE; else the service's."""
    if given := os.environ.get("EDGEJOULE_MODEL_SOCKET"):
        return Path(given)
    if state := os.environ.get("EDGEJOULE_STATE"):
        return Path(state) / "model.sock"
    return SERVICE_SOCKET


class Client:
    """A connection to the model's socket.

    Args:
        path: of the socket; :func:`default_socket` if None.
        timeout_s: for each answer.

    Raises:
        OSError: nobody answers there.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, timeout_s: float = 30.0) -> None:
        self.path = Path(path) if path is not None else default_socket()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        give_up_s = time.monotonic() + timeout_s
        try:
            while True:
                try:
                    _connect(self._socket, self.path)
                    break
                except BlockingIOError:
                    # So many connect at this moment that none may wait to be taken (EAGAIN of connect(2)).
                    if time.monotonic() >= give_up_s:
                        raise
                    time.sleep(0.02)
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rwb")

    def close(self) -> None:
        """Hang up."""
        try:
            # What was not sent is tried once more, and fails where the board has hung up.
            self._stream.close()
        finally:
            self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self) -> dict[str, Any]:
        """Version, classes, input shape, run, metrics, predictions so far and their joules."""
        return self._ask({"call": "info"})

    def predict(self, x: npt.NDArray[Any], *, top: int | None = None, energy: bool = False) -> dict[str, Any]:
        """Scores of examples.

        Args:
            x: uint8 or float [N, ...] in the input shape of the model.
            top: the best so many classes of each; None: ``scores`` of all, in the order of ``classes``.
            energy: with the joules of this call.

        Returns:
            ``version`` of the one head that made all of them, and ``scores`` or ``top``.

        Raises:
            ModelError: why there is none.
        """
        asked = {"call": "predict", **_described(x), "energy": energy, **({} if top is None else {"top": top})}
        return self._ask(asked, _bytes(x))

    def predict_image(self, image: str | os.PathLike[str] | bytes, *, top: int = 1, energy: bool = False) -> Any:
        """The best classes of an image, from its file or the bytes of one."""
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        return self._ask({"call": "predict", "format": "image", "top": top, "energy": energy}, data)

    def add(self, x: npt.NDArray[Any] | bytes, label: str | None = None) -> str:
        """Give the board an example to train on: one raw example [...], or the bytes of an image file.

        Args:
            label: the name of its class; None: it waits for one.

        Returns:
            Its name.
        """
        shape = {"format": "image"} if isinstance(x, bytes) else _described(x)
        more = {} if label is None else {"label": label}
        return str(self._ask({"call": "add", **shape, **more}, x if isinstance(x, bytes) else _bytes(x))["name"])

    def events(self) -> Iterator[dict[str, Any]]:
        """What is at work now, then each new head as it comes, without end. The connection is for nothing else then."""
        self._send({"call": "events"}, b"")
        self._socket.settimeout(None)
        for line in self._stream:
            if line.strip():
                yield json.loads(line)

    def _ask(self, asked: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
        self._send(asked, data)
        line = self._stream.readline()
        if not line:
            raise ModelError("the board hung up")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            fix = f"; {answer['fix']}" if answer.get("fix") else ""
            raise ModelError(f"{answer.get('error', 'no reason given')}{fix}")
        return answer

    def _send(self, asked: dict[str, Any], data: bytes) -> None:
        self._stream.write(json.dumps({**asked, "bytes": len(data)}).encode() + b"\n" + data)
        self._stream.flush()


def _described(x: npt.NDArray[Any]) -> dict[str, Any]:
    return {"dtype": "uint8" if x.dtype == np.uint8 else "float32", "shape": list(x.shape)}


def _bytes(x: npt.NDArray[Any]) -> bytes:
    return np.ascontiguousarray(x, "uint8" if x.dtype == np.uint8 else "<f4").tobytes()


def _connect(near: socket.socket, path: Path) -> None:
    """Also where the path is longer than an address of a Unix socket may be."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        near.connect(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        near.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
