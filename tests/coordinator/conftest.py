"""A coordinator on a real loopback port, devices that follow a script, and bundles.

Scripted devices speak the real protocol through the generated stub; what they "train" is a given change of the head,
so that a test knows the exact result. The plain bundle has a real manifest and real starting values; its model files
are never run, since nothing is evaluated. The digits bundle is real throughout.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kept_models import kept
from plain_bundle import make_plain_bundle
from scripted_device import ScriptedDevice, joules
from throwaway_postgres import missing, throwaway_postgres
from warm_tensorflow import WarmTensorFlow

from coordinator.server import run_scheduler
from coordinator.server.serving import Settings, serve
from coordinator.store.database import Database, sqlite_url
from protos.update.trees import shapes


@pytest.fixture(autouse=True)
def _short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices without an order are answered soon: tests ask on purpose when there is none."""
    monkeypatch.setattr(run_scheduler, "HOLD_S", 0.1)
    monkeypatch.setattr(run_scheduler, "MOST_HOLD_S", 0.1)


@pytest.fixture
def plain_bundle(tmp_path: Path) -> Path:
    return make_plain_bundle(tmp_path / "plain")


def plan_text(bundle: Path, *, rounds: int = 1, devices: int = 1, more: str = "", **keys: Any) -> str:
    """A plan whose changes and heads travel whole, unless ``more`` says otherwise; ``keys`` go to [round]."""
    lines = [f"{key} = {value}" for key, value in {"devices": devices, "deadline_s": 60, **keys}.items()]
    head = f'[run]\nbundle = "{bundle}"\nname = "test"\nrounds = {rounds}\nseed = 7\n'
    train = "" if "[train]" in more else "\n[train]\nepochs = 1\n"
    down = "" if "[downlink]" in more else '[downlink]\ncodec = "float32"\n'
    return head + "[round]\n" + "\n".join(lines) + train + '\n[update]\ncodec = "float32"\n' + more + down


@contextmanager
def served(state: Path, database: str | None = None) -> Iterator[str]:
    """A coordinator in this process, in a thread with its own event loop; gives its address."""
    ready = state.parent / f"{state.name}.ready"
    ready.unlink(missing_ok=True)
    stop: dict[str, Any] = {}
    failure: list[BaseException] = []

    async def run() -> None:
        stop["event"], stop["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await serve(Settings(state, "127.0.0.1:0", database, ready), stop=stop["event"])

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    while not ready.exists():
        if not thread.is_alive():
            raise failure[0] if failure else AssertionError("the coordinator ended")
        time.sleep(0.01)
    try:
        yield ready.read_text().strip()
    finally:
        stop["loop"].call_soon_threadsafe(stop["event"].set)
        thread.join(90)
        assert not thread.is_alive()
        if failure:
            raise failure[0]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A coordinator with fresh state in `tmp_path/state`."""
    with served(tmp_path / "state") as bound:
        yield bound


@pytest.fixture
def fleet() -> Iterator[Callable[..., ScriptedDevice]]:
    """`fleet(address, device_id, **card)`: a device, closed at the end."""
    made: list[ScriptedDevice] = []

    def make(address: str, device_id: str, **card: Any) -> ScriptedDevice:
        made.append(ScriptedDevice(address, device_id, **card))
        return made[-1]

    yield make
    for device in made:
        device.close()


@pytest.fixture(scope="session")
def tools() -> Any:
    """The functions of this file, for tests that cannot import a conftest."""

    class Tools:
        plan = staticmethod(plan_text)
        joules = staticmethod(joules)
        served = staticmethod(served)
        bundle = staticmethod(make_plain_bundle)
        shapes = staticmethod(shapes)
        device = ScriptedDevice

        @staticmethod
        def until(check: Callable[[], Any], what: str = "it") -> Any:
            """Wait for something that must come about."""
            end_s = time.monotonic() + 90.0
            while time.monotonic() < end_s:
                if found := check():
                    return found
                time.sleep(0.02)
            raise AssertionError(f"{what} did not come about")

        @staticmethod
        def finished(operator: Any, run_id: str) -> Any:
            """The status of a run when it is over."""
            Tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
            return operator.status(run_id)[0]

    return Tools


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a throw-away PostgreSQL on loopback, from Debian's packages."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="needs the postgresql extra")
    with throwaway_postgres() as url:
        yield url.replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def fresh_database(postgres_server: str) -> Callable[[], str]:
    """Makes empty databases on PostgreSQL; returns the URL of each."""

    def make() -> str:
        name = f"t{uuid.uuid4().hex}"
        import psycopg

        with psycopg.connect(postgres_server.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres_server.rsplit("/", 1)[0] + f"/{name}"

    return make


@pytest.fixture
def postgres(fresh_database: Callable[[], str]) -> str:
    """The URL of an empty database on PostgreSQL, of this test alone: a run that another left open would be taken
    up."""
    return fresh_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "store.db")
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


_MAKE_DIGITS = """
import keras
import numpy as np
from sklearn.datasets import load_digits

data = load_digits()
x = np.round(data.images * 15.9375).astype(np.uint8)[..., None]
y = data.target.astype(np.int32)
np.savez("digits.npz", x=x, y=y, is_test=np.arange(len(y)) % 5 == 0)
keras.utils.set_random_seed(3)
stack = keras.Sequential([
    keras.Input((8, 8, 1)),
    keras.layers.Rescaling(1 / 255),
    keras.layers.Conv2D(12, 3, activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(24, activation="relu"),
    keras.layers.Dense(10, activation="softmax"),
])
stack.compile("adam", "sparse_categorical_crossentropy")
stack.fit(x[:400], y[:400], epochs=4, verbose=0)
stack.save("digits.keras")
"""


@pytest.fixture(scope="session")
def digits(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.npz and digits/, a real bundle made by the converter."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: the workshop extra")

    def make(folder: Path) -> None:
        tensorflow.script(_MAKE_DIGITS, folder)
        tensorflow.converted(folder / "digits.keras", "--eval", folder / "digits.npz", "-o", folder / "digits")

    return kept("coordinator", tmp_path_factory.mktemp("coordinator-digits"), make)
