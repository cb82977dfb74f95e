"""The server that tests use ends with them, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from throwaway_postgres import missing, throwaway_postgres

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
psycopg = pytest.importorskip("psycopg", reason="needs the postgresql extra")
_USER = """
import sys, time
from throwaway_postgres import throwaway_postgres
with throwaway_postgres() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=60).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("whom", ["the user", "its group", "the keeper"])
def test_a_server_does_not_outlive_who_asked_for_it(whom: str, tools: Any) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    user = subprocess.Popen(
        [sys.executable, "-c", _USER], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert user.stdout is not None
    try:
        url = user.stdout.readline().strip()
        assert answers(url)
        if whom == "the keeper":
            children = Path(f"/proc/{user.pid}/task/{user.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGTERM)
        else:
            (os.killpg if whom == "its group" else os.kill)(user.pid, signal.SIGKILL)
        tools.until(lambda: not answers(url), "the end of the server")
    finally:
        user.kill()
        user.wait()
        user.stdout.close()


def test_a_server_ends_with_the_block_that_asked_for_it() -> None:
    with throwaway_postgres() as url:
        assert answers(url)
    assert not answers(url)
