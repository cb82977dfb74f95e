"""A board in a folder, whose service is real daemons under a manager that stands in for systemd.

What is real: enrolment, the daemon as a process, TLS, the wheel's way and its checks, the request in the state folder,
root's part, the record, the trial. What stands in: systemd, which needs a machine of its own (hw_tests has one), and
pip, which fills an environment with one program: this tree, under another version.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from edge_runtime.config import resolve
from edge_runtime.daemon.upgrading import FOLDER, REQUEST
from edge_runtime.identity.enrolment import enroll
from edge_runtime.service.access import access_of
from edge_runtime.service.install import Place
from edge_runtime.service.systemctl import Sight, Systemd
from edge_runtime.service.unit import NAME, read_back, unit_text
from edge_runtime.service.upgrade import environments
from edge_runtime.service.upgrade.ordered import allow, take_up
from edge_runtime.service.upgrade.switching import WATCH, Switching
from edge_runtime.service.upgrade.trial import watch
from edge_runtime.systemd.notify import Notifier
from protos.trust.token import read_token

ROOT = Path(__file__).resolve().parents[3]


class Manager(Systemd):
    """Starts what the unit of a board names, and shows how it is."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board
        self._watch: threading.Thread | None = None

    def call(self, *words: str) -> None:
        if words[-2:] == ("restart", NAME):
            self._board.restart()
        elif words[-2:] == ("restart", WATCH):
            self._watch = threading.Thread(target=self._watched)
            self._watch.start()

    def _watched(self) -> None:
        watch(Switching(self._board.place, self), Notifier(None), say=self._board.say, sleep=lambda _: time.sleep(0.1))

    def ask(self, *words: str) -> str:
        alive = self._watch is not None and self._watch.is_alive()
        return "ActiveState=active" if alive else "ActiveState=inactive"

    def sight(self) -> Sight:
        process = self._board.process
        code = process.poll() if process is not None else 0
        active = "active" if process is not None and code is None else "failed"
        pid = process.pid if process is not None else 0
        return Sight(active, "", pid, 0, "exit-code", code or 0, False, 0.0, 0.0)

    def going_down(self) -> bool:
        return False

    def close(self) -> None:
        if self._watch is not None:
            self._watch.join()


class Board:
    """See the module.

    Args:
        home: an empty folder.
        token: of `coordinator enroll`.
    """

    def __init__(self, home: Path, token: str, address: str) -> None:
        self.root, self.said = home, list[str]()
        self.place, self.process = Place(home), None
        self.place.state.mkdir(parents=True)
        self.address, self.name = address, enroll(read_token(token), self.place.state).identity.device_id
        self.config = home / "etc/edgejoule/device.toml"
        self.config.parent.mkdir(parents=True)
        self.config.write_text(f'data = "{home}/none.npz"\ncoordinator = "{address}"\ndevice_id = "{self.name}"\n')
        self.old = home / "opt/edgejoule"
        self.program(self.old, "0.9.0")
        self.place.unit.parent.mkdir(parents=True)
        self.place.unit.write_text(self.unit_of(self.old))
        self.process: subprocess.Popen[bytes] | None = None
        self.manager = Manager(self)
        self._ending = threading.Event()
        self._root = threading.Thread(target=self._take_up)
        self._root.start()

    def allow(self) -> None:
        allow(self.place, self.manager)

    def unit_of(self, environment: Path) -> str:
        resolved = resolve({}, {}, self.config)
        program = environment / "bin/edge-runtime"
        return unit_text(
            resolved, access_of(resolved.settings, self.config, program), program=program, config=self.config
        )

    def program(self, environment: Path, version: str, *, crashes: bool = False) -> None:
        """An environment of this tree under another version, or of one that ends at once when it is run."""
        site = environment / "lib/python3/site-packages" / f"edgejoule-{version}.dist-info"
        site.mkdir(parents=True)
        (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: edgejoule\nVersion: {version}\n")
        file = environment / "bin/edge-runtime"
        file.parent.mkdir(parents=True)
        start = f"import sys; sys.prefix = {str(environment)!r}; sys.path.insert(0, {str(site.parent)!r}); "
        start += "from edge_runtime.cli import main; sys.exit(main())"
        # Its own answer to `service check` takes seconds; what it answers is tested elsewhere.
        answer = environment / "answer.json"
        finding = '{"check": "fresh start", "verdict": "ok", "what": "", "fix": ""}'
        unit = self.unit_of(environment).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        answer.write_text(
            f'{{"version": "{version}", "delegate": null, "unit": "{unit}", "checks": [{finding}], "ok": true}}'
        )
        run = "exit 7" if crashes else f'PYTHONPATH={ROOT} exec {sys.executable} -c "{start}" "$@"'
        file.write_text(f"#!/bin/sh\nif [ $1 = service ]; then exec cat {answer}; fi\n{run}\n")
        file.chmod(0o755)

    def restart(self) -> None:
        """Start what the unit names, in place of what runs."""
        self.stop()
        written = read_back(self.place.unit.read_text())
        assert written is not None
        run = self.place.vitals.parent
        run.mkdir(parents=True, exist_ok=True)
        self.place.vitals.unlink(missing_ok=True)
        environ = {**os.environ, "EDGEJOULE_STATE": str(self.place.state), "RUNTIME_DIRECTORY": str(run)}
        command = [str(written.program), "run", "--config", str(written.config), "--machine-root", str(self.root)]
        with (self.root / "journal").open("ab") as journal:
            self.process = subprocess.Popen(command, env=environ, stdout=journal, stderr=journal)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None

    def say(self, line: str) -> None:
        self.said.append(line)

    def _take_up(self) -> None:
        """What the path unit does."""
        request = self.place.state / FOLDER / REQUEST
        while not self._ending.wait(0.1):
            if request.exists():
                take_up(Switching(self.place, self.manager), self.say)

    def close(self) -> None:
        self._ending.set()
        self._root.join()
        self.manager.close()
        self.stop()

    @property
    def runs(self) -> Path:
        """The environment that the unit names."""
        written = read_back(self.place.unit.read_text())
        assert written is not None
        return written.program.parent.parent


def installs(boards: dict[str, Board], crashes: set[str]) -> object:
    """Stands in for the commands that fill an environment: ``python -m venv PATH``, then pip."""

    def run(command: list[str], *, fix: str) -> None:
        if command[1:3] == ["-m", "venv"]:
            path = Path(command[3])
            board = next(each_board for each_board in boards.values() if path.is_relative_to(each_board.root))
            version = path.name.rpartition("-")[0]
            board.program(path, version, crashes=version in crashes)

    return run


def stand_in(monkeypatch: object, boards: dict[str, Board], crashes: set[str]) -> None:
    """Put the stand-ins into place, and let a trial end soon after the first answer."""
    from edge_runtime.service.upgrade import trial

    monkeypatch.setattr(environments, "_run", installs(boards, crashes))  # type: ignore[attr-defined]
    monkeypatch.setattr(environments, "_carry", lambda old, new: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(trial, "SETTLE_S", 0.2)  # type: ignore[attr-defined]
