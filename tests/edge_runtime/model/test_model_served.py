"""Applications ask the model at work: one version to an answer, before training, with its own joules."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_rig import always, at_work, trained
from peer_coordinator import PeerCoordinator, order, publication
from PIL import Image
from running_daemon import RunningDaemon

from benchmarks.device import switching
from edge_runtime import client as client_room
from edge_runtime.client import Client, ModelError
from edge_runtime.model.gate import Gate
from edge_runtime.model.http_server import HttpServer
from edge_runtime.model.service import ModelService
from edge_runtime.model.socket_server import LARGE_BYTES, MOST_CONNECTIONS, MOST_LARGE, SocketServer
from protos.energy.trace import Phase
from protos.errors import StoreError
from protos.model.bundle import Bundle
from protos.update import trees

Start = Callable[..., RunningDaemon]
X = np.zeros((1, 8, 8, 1), np.uint8)


@pytest.fixture
def served(tmp_path: Path, bundle: Bundle) -> Iterator[ModelService]:
    service = ModelService(tmp_path, Gate())
    server = SocketServer(tmp_path / "model.sock", service)
    yield service
    service.close()
    server.close()


def test_ten_thousand_predictions_through_fifty_switches_are_each_of_one_version(
    bundle: Bundle, tmp_path: Path
) -> None:
    found = switching.switched(tmp_path, bundle, 10_000, 50)
    assert (found["predictions"], found["switches"], found["torn"]) == (10_000, 50, 0)
    assert found["versions"] > 25, "the switches came while predictions were asked for"


def test_before_there_is_a_model_the_board_says_so(served: ModelService, tmp_path: Path, bundle: Bundle) -> None:
    with Client(tmp_path / "model.sock") as model:
        assert model.info()["version"] is None
        with pytest.raises(ModelError, match="no model at work yet; a head comes when a run"):
            model.predict(X)
        served.switch(at_work(tmp_path, bundle, always(bundle, 2)))
        answer = model.predict(X, top=2)
        assert answer["top"][0][0]["class"] == bundle.manifest.classes[2]
        assert len(answer["top"][0]) == 2


def test_what_does_not_fit_is_refused_in_one_line_and_the_connection_goes_on(
    served: ModelService, tmp_path: Path, bundle: Bundle
) -> None:
    at_work(tmp_path, bundle, always(bundle, 0))
    with Client(tmp_path / "model.sock") as model:
        for call, words in (
            (
                lambda: model.predict(np.zeros((1, 9, 9, 1), np.uint8)),
                r"shape \[9, 9, 1\], the model takes \[8, 8, 1\]",
            ),
            (lambda: model.predict(np.full((1, 8, 8, 1), np.nan, np.float32)), "NaN"),
            (lambda: model.predict_image(b"no image at all"), "cannot be read as an image"),
            (lambda: model.add(X[0], "a"), "takes no examples"),
            (lambda: model._ask({"call": "prefict"}), "'prefict' is no call"),
            (
                lambda: model._ask({"call": "predict", "dtype": "float64", "shape": [8]}, bytes(64)),
                "no type of examples",
            ),
            (lambda: model._ask({"call": "predict", "dtype": "uint8", "shape": [1, 8]}, bytes(9)), "9 bytes are not"),
            (lambda: model._ask({"call": "predict", "top": 0, "shape": [1]}, bytes(1)), "`top` is no count"),
        ):
            with pytest.raises(ModelError, match=words):
                call()
        assert model.predict(X)["version"] == trees.version(always(bundle, 0))
    # What is no question ends the connection, with a reason.
    for bad in (b"what?\n", b"[]\n", b'{"call": "info", "bytes": -1}\n', b"x" * 70_000):
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(str(tmp_path / "model.sock"))
            near.sendall(bad)
            near.shutdown(socket.SHUT_WR)
            answer = json.loads(near.makefile("rb").readline())
        assert not answer["ok"]


def test_an_image_file_is_predicted_as_training_would_read_it(
    served: ModelService, tmp_path: Path, bundle: Bundle
) -> None:
    head = trained(bundle, tmp_path)
    at_work(tmp_path, bundle, head)
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[30:40] = 200  # of row 3 of 8: class 1
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "PNG")
    (tmp_path / "photo.png").write_bytes(file.getvalue())
    with Client(tmp_path / "model.sock") as model:
        by_path = model.predict_image(tmp_path / "photo.png", top=3)
        by_bytes = model.predict_image(file.getvalue(), top=3)
    assert by_path["top"] == by_bytes["top"]
    assert by_path["top"][0][0]["class"] == bundle.manifest.classes[1]


def test_who_listens_is_told_of_each_new_head(served: ModelService, tmp_path: Path, bundle: Bundle) -> None:
    at_work(tmp_path, bundle, always(bundle, 0))
    with Client(tmp_path / "model.sock") as model:
        events = model.events()
        assert next(events)["version"] == trees.version(always(bundle, 0))
        for index in (1, 2):
            served.switch(at_work(tmp_path, bundle, always(bundle, index)))
            told = next(events)
            assert (told["event"], told["version"]) == ("head", trees.version(always(bundle, index)))
        served.close()
        assert list(events) == []


def test_training_makes_one_piece_at_a_time_and_predictions_go_between() -> None:
    gate, order_of, inside = Gate(), [], threading.Event()
    go_on = threading.Event()

    def predict() -> None:
        inside.set()
        with gate.predicting():
            order_of.append("prediction")

    with gate.at_work():
        gate.between()
        order_of.append("piece 1")
        asking = threading.Thread(target=predict)
        asking.start()
        assert inside.wait(60)
        while not gate._waiting:
            time.sleep(0.001)
        assert order_of == ["piece 1"], "not in the middle of a piece"
        gate.between()
        order_of.append("piece 2")
    asking.join(60)
    assert order_of == ["piece 1", "prediction", "piece 2"]
    # Nobody works: predictions wait for nothing. Somebody predicts all the time: work goes on all the same.
    with gate.predicting():
        pass

    def always_predict() -> None:
        while not go_on.is_set():
            with gate.predicting():
                time.sleep(0.01)

    busy = [threading.Thread(target=always_predict) for _ in range(3)]
    for thread in busy:
        thread.start()
    with gate.at_work():
        for _ in range(3):
            gate.between()
        with gate.resting(), gate.predicting():
            pass
    go_on.set()
    for thread in busy:
        thread.join(60)


def test_predictions_are_answered_while_the_board_trains_and_their_joules_are_their_own(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.orders.append(publication(bundle, trained(bundle, tmp_path)))
    peer.orders.append(order(bundle, 1, steps=10_000_000, deadline_s=600.0))
    running = started(peer)
    peer.until(lambda: len(peer.receptions) == 1)
    answers = 0
    with Client(tmp_path / "state" / "model.sock") as model:
        while peer.orders:
            time.sleep(0.01)
        for _ in range(300):
            model.predict(X)
            answers += 1
        one = model.predict(X, energy=True)["energy"]
        told = model.info()
    running.stop()
    assert answers == 300
    assert one["method"] == "estimated"
    assert 0 < one["energy_j"] < 10
    assert one["interval_j"][0] < one["energy_j"] < one["interval_j"][1]
    assert told["predictions"] == 301
    assert told["energy"]["energy_j"] > one["energy_j"]
    report = peer.read()
    assert report.steps_done > 0
    assert Phase.INFER not in {phase_energy.phase for phase_energy in report.energy}
    assert Phase.INFER not in {phase_energy.phase for settled in peer.settled for phase_energy in settled.energy}


def test_the_same_is_asked_over_http_by_programs_of_this_machine_alone(
    served: ModelService, tmp_path: Path, bundle: Bundle
) -> None:
    at_work(tmp_path, bundle, always(bundle, 1))
    server = HttpServer(0, served)

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    try:
        assert ask("GET", "/info")[1]["version"] == trees.version(always(bundle, 1))
        code, answer = ask("POST", "/predict?dtype=uint8&shape=1,8,8,1&top=1", X.tobytes())
        assert (code, answer["top"][0][0]["class"]) == (200, bundle.manifest.classes[1])
        assert ask("POST", "/predict", b"no image")[0] == 400
        assert ask("POST", "/predict?shape=a", b"x")[0] == 400
        assert ask("GET", "/etc/passwd")[0] == 404
        assert ask("GET", "/info", Origin="http://example.com")[0] == 403
        assert ask("GET", "/info", Host="example.com:80")[0] == 403
    finally:
        server.close()


def test_a_client_whose_board_hung_up_keeps_no_descriptor(served: ModelService, tmp_path: Path) -> None:
    client = Client(tmp_path / "model.sock")
    client._socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match=r"Broken pipe|not connected"):
        client.info()
    with contextlib.suppress(OSError):
        client.close()
    assert client._socket.fileno() == -1


def test_the_client_needs_only_numpy_and_the_standard_library() -> None:
    code = (
        "import sys; import edge_runtime.client; "
        "print([one for one in sys.modules if one.split('.')[0] in "
        "('grpc', 'google', 'serial', 'protos', 'ai_edge_litert', 'tflite_runtime', 'PIL', 'cryptography')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert client_room.SERVICE_SOCKET.name == "model.sock"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is here")
def test_the_c_example_asks_and_names_the_version(served: ModelService, tmp_path: Path, bundle: Bundle) -> None:
    head = always(bundle, 2)
    at_work(tmp_path, bundle, head)
    source = Path(__file__).parents[3] / "examples" / "predict.c"
    program = tmp_path / "predict"
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    (tmp_path / "example.raw").write_bytes(X.tobytes())
    asked = [program, tmp_path / "model.sock", tmp_path / "example.raw", "1,8,8,1"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr
    assert trees.version(head) in found.stdout
    assert bundle.manifest.classes[2] in found.stdout
    refused = subprocess.run([*asked[:-1], "1,9,9,1"], capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "bytes are not" in refused.stdout + refused.stderr


def test_a_socket_that_somebody_answers_on_is_left_to_him_and_one_that_is_left_over_is_replaced(
    served: ModelService, tmp_path: Path, bundle: Bundle
) -> None:
    at_work(tmp_path, bundle, always(bundle, 0))
    with pytest.raises(StoreError, match="another daemon answers here already"):
        SocketServer(tmp_path / "model.sock", ModelService(tmp_path / "other", Gate()))
    with Client(tmp_path / "model.sock") as model:
        assert model.info()["version"] == trees.version(always(bundle, 0))
    # As a process leaves it that was killed.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    server = SocketServer(tmp_path / "left.sock", served)
    with Client(tmp_path / "left.sock") as model:
        assert model.info()["version"] == trees.version(always(bundle, 0))
    server.close()


def test_applications_that_hang_hold_up_nobody(
    served: ModelService, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than may connect: they say nothing, send half a question, take no answer, or listen for events."""
    at_work(tmp_path, bundle, always(bundle, 0))
    monkeypatch.setattr("edge_runtime.model.socket_server.BEGUN_S", 0.5)
    path, held = tmp_path / "model.sock", list[socket.socket]()
    try:
        for sent in (b"", b'{"call": "info", "bytes": 99}\nhalf', b'{"call": "info"}\n' * 400, b'{"call": "events"}\n'):
            for _ in range(MOST_CONNECTIONS + 8):
                near = socket.socket(socket.AF_UNIX)
                held.append(near)
                near.connect(str(path))
                near.settimeout(0.05)
                with contextlib.suppress(OSError):
                    near.sendall(sent)
            end_s = time.monotonic() + 120
            while True:
                assert time.monotonic() < end_s, "nobody else is answered"
                try:
                    with Client(path) as client:
                        assert client.info()["version"]
                    break
                except (OSError, ModelError):
                    # All of the others ask; half a second later what they asked should have come.
                    time.sleep(0.05)
    finally:
        for near in held:
            near.close()


@pytest.mark.parametrize("http_spoken", [False, True])
def test_applications_that_send_a_byte_now_and_then_hold_up_no_large_example(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, http_spoken: bool
) -> None:
    """As many as may send large examples at a time never end; another's is answered all the same."""
    at_work(tmp_path, bundle, always(bundle, 0))
    for module in ("socket_server", "http_server"):
        monkeypatch.setattr(f"edge_runtime.model.{module}.BEGUN_S", 2.0)
    service = ModelService(tmp_path, Gate())
    path, size = tmp_path / "slow.sock", LARGE_BYTES + 1
    server = HttpServer(0, service) if http_spoken else SocketServer(path, service)
    begins = json.dumps({"call": "predict", "format": "image", "bytes": size}).encode() + b"\n"
    if http_spoken:
        begins = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()

    def connected() -> socket.socket:
        if isinstance(server, HttpServer):
            near = socket.create_connection(("127.0.0.1", server.port))
        else:
            near = socket.socket(socket.AF_UNIX)
            near.connect(str(path))
        near.settimeout(30.0)
        near.sendall(begins)
        return near

    slow, over = [connected() for _ in range(MOST_LARGE)], threading.Event()

    def drip() -> None:
        while not over.wait(0.1):
            for near in slow:
                with contextlib.suppress(OSError):
                    near.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        # Both are being read from by then.
        time.sleep(0.5)
        with connected() as near:
            near.sendall(bytes(size))
            assert near.recv(1 << 16)
    finally:
        over.set()
        dripping.join()
        server.close()
        service.close()
        for near in slow:
            near.close()


def test_a_socket_in_a_deep_folder_can_be_asked(tmp_path: Path, bundle: Bundle) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    at_work(deep, bundle, always(bundle, 0))
    service = ModelService(deep, Gate())
    server = SocketServer(deep / "model.sock", service)
    with Client(deep / "model.sock") as model:
        assert model.info()["version"] == trees.version(always(bundle, 0))
    service.close()
    server.close()
    assert not (deep / "model.sock").exists()
