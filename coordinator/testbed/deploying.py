"""A board made ready, step by step. Each step looks at the board first and is left out where it is done already.

What was done stands on the board itself, in ``testbed.json`` in its folder and in the things made: an environment that
was installed whole has a mark, a file that arrived has its hash. So a deploy that was cut goes on where it was, from
whichever machine, and a second one does nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.testbed import daemon, reservation
from coordinator.testbed.across import Progress
from coordinator.testbed.enrolling import token_for
from coordinator.testbed.inventory import Board, Inventory, profile_of
from coordinator.testbed.ssh import Session, digest_of
from protos.errors import CheckFailed, ConfigError, UsageError

__all__ = ["Deployment", "Parts", "deploy"]

RECORD = "testbed.json"
INSTALL_S = 1800.0
_UPGRADE_S = 1200.0


@dataclass(frozen=True)
class Parts:
    """What is brought to boards.

    Attributes:
        wheel: of our distribution; None: programs stay as they are.
        links: further wheels; the board then asks no index.
        pip: options for pip.
    """

    wheel: Path | None = None
    links: tuple[Path, ...] = ()
    pip: tuple[str, ...] = ()

    def checked(self) -> Parts:
        """The same, if its files are there.

        Raises:
            UsageError: one is not, or is no wheel.
        """
        for link in (*filter(None, [self.wheel]), *self.links):
            if not link.is_file() or link.suffix != ".whl":
                raise UsageError("is no wheel", where=str(link), fix="make one with: pip wheel --no-deps .")
        return self

    def mark(self, board: Board) -> str:
        """Twelve digits that tell this installation from others."""
        assert self.wheel is not None
        said = [digest_of(self.wheel), board.python, *self.pip, *(digest_of(link) for link in sorted(self.links))]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


class Deployment:
    """What is done on one board: ``done`` and ``left`` name steps, in their order."""

    def __init__(self, lab: Inventory, session: Session, progress: Progress, who: str, *, dry_run: bool) -> None:
        self.lab, self.session, self.progress, self.who, self.dry_run = lab, session, progress, who, dry_run
        self.board = session.board
        self.folder = self.board.place_of_ours
        self.done: list[str] = []
        self.left: list[str] = []
        self.record: dict[str, Any] = {}
        self._restart = False

    async def look(self) -> None:
        """Read where the folder is, and what was done."""
        self.progress.say("looking")
        said = await self.session.must(_LOOK, self.folder, RECORD, doing="looking")
        where, _, text = said.partition("\n")
        self.folder = where.strip()
        try:
            found = json.loads(text) if text.strip() else {}
        except ValueError:
            found = {}
        self.record = found.get("steps", {}) if isinstance(found, dict) else {}

    async def _noted(self, step: str, mark: str) -> None:
        self.record[step] = {"mark": mark, "unix_s": round(time.time(), 3), "by": self.who}
        text = json.dumps({"schema": "edgejoule.testbed-board/1", "steps": self.record}, indent=2)
        await self.session.write(text + "\n", f"{self.folder}/{RECORD}")

    def _was(self, step: str) -> str | None:
        one = self.record.get(step)
        return str(one["mark"]) if isinstance(one, dict) and "mark" in one else None

    def _told(self, step: str, needed: bool) -> bool:
        """Whether a step is to be done now."""
        (self.done if needed else self.left).append(step)
        if needed:
            self.progress.say(step)
        return needed and not self.dry_run

    async def _is_there(self, target: str, digest: str) -> bool:
        script = '[ -f "$1" ] && [ "$(sha256sum < "$1" | cut -d" " -f1)" = "$2" ]'
        return (await self.session.run(script, target, digest, doing=f"looking at {target}")).code == 0

    async def bring(self, step: str, source: Path, target: str) -> bool:
        """Bring one file. Whether the board had it not yet."""
        needed = not await self._is_there(target, digest_of(source))
        if self._told(step, needed):
            await self.session.put(source, target, on_part=self.progress.part)
        return needed

    async def install(self, parts: Parts) -> None:
        """The program, in an environment of its own beside those of before, switched to when it is whole."""
        if parts.wheel is None:
            return
        for link in (parts.wheel, *parts.links):
            await self.bring(f"wheel {link.name}", link, f"{self.folder}/wheels/{link.name}")
        mark = parts.mark(self.board)
        if self.board.service == "systemd" and await daemon.state_of(self.session) != "absent":
            # The service's own way: a trial, and the way back.
            if self._told("upgrade", self._was("install") != mark):
                await self._upgrade(parts)
                await self._noted("install", mark)
            return
        ready = 'cd "$1" && [ -f "versions/$2/.ready" ] && [ "$(readlink current)" = "versions/$2" ]'
        done = await self.session.run(ready, self.folder, mark, doing="looking at the environment")
        if self._told("environment", done.code != 0):
            options = [*(["--no-index", "--find-links", "wheels"] if parts.links else []), *parts.pip]
            words = [self.folder, mark, self.board.python, f"wheels/{parts.wheel.name}", *options]
            await self.session.must(_INSTALL, *words, timeout_s=INSTALL_S, doing="installing", tied=True)
            await self._noted("install", mark)
            self._restart = True

    async def _upgrade(self, parts: Parts) -> None:
        assert parts.wheel is not None
        program = await daemon.program_of(self.session)
        words = ["service", "upgrade", "--wheel", f"{self.folder}/wheels/{parts.wheel.name}"]
        words += ["--find-links", f"{self.folder}/wheels"] if parts.links else []
        await self.session.must('"$@"', program, *words, timeout_s=_UPGRADE_S, doing="upgrading the service")

    async def data(self) -> None:
        """The board's shard."""
        if not self.board.shard:
            return
        source = self.lab.beside(self.board.shard)
        if not source.is_file():
            where = f"{self.lab.path}: board {self.board.name}: shard"
            raise ConfigError(f"{source} is no file", where=where, fix="make shards with: coordinator partition")
        self._restart |= await self.bring(f"data {source.name}", source, f"{self.folder}/data/{source.name}")

    def settings(self, before: dict[str, Any]) -> dict[str, Any]:
        """The settings that the board's daemon should have, over what stands there of enrolment."""
        made: dict[str, Any] = {"device_id": self.board.name}
        if self.lab.coordinator or "coordinator" in before:
            there = str(before.get("coordinator", ""))
            # Enrolment writes all addresses of the coordinator.
            known = [part.strip() for part in there.split(",")]
            made["coordinator"] = (
                there if not self.lab.coordinator or self.lab.coordinator in known else self.lab.coordinator
            )
        if self.board.shard:
            made["data"] = f"{self.folder}/data/{self.lab.beside(self.board.shard).name}"
        if self.board.service == "process":
            made["state"] = f"{self.folder}/state"
        channel = "" if self.board.channel is None else f"?sensor={self.board.channel}"
        made["sensor"] = self.board.sensor or (f"serial:{self.board.bridge}{channel}" if self.board.bridge else "none")
        if (profile := profile_of(self.board)) is not None:
            made["board"] = profile
        if self.board.budget_j is not None:
            made["budget_j"] = self.board.budget_j
        return {**made, **self.board.settings}

    async def configure(self) -> None:
        """The settings file. It is written only where one of its keys differs."""
        config = self._config
        done = await self.session.run('cat "$1" 2>/dev/null', config, doing="reading the settings")
        try:
            before = tomllib.loads(done.out)
        except ValueError:
            before = {}
        wanted = self.settings(before)
        if self._told("settings", before != wanted):
            lines = ["# Written by coordinator testbed, from the inventory of the lab."]
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in wanted.items()]
            await self.session.write("\n".join(lines) + "\n", config)
        self._restart |= before != wanted

    @property
    def _config(self) -> str:
        return daemon.SYSTEM_CONFIG if self.board.service == "systemd" else f"{self.folder}/device.toml"

    async def enrol(self) -> None:
        """The board's identity in the fleet, where the inventory says who gives them out."""
        if not self.lab.coordinator_state:
            return
        program = await daemon.program_of(self.session)
        state = [] if self.board.service == "systemd" else ["--state", f"{self.folder}/state"]
        # Before the first settings are there, a board that is looked at alone has no program either.
        known = await daemon.identity_of(self.session, program)
        if not self._told("enrolment", known is None):
            return
        token = token_for(
            self.lab.beside(self.lab.coordinator_state), self.board.name,
            groups=tuple(filter(None, (self.board.kind, *self.board.groups))), address=self.lab.coordinator,
        )  # fmt: skip
        words = [program, "enroll", "-", "--no-start", "--config", self._config, *state]
        await self.session.must('"$@"', *words, stdin=token + "\n", doing="enrolling")
        self._restart = True

    async def serve(self, *, up: bool) -> None:
        """The daemon, installed as a service where it is one; started for ``up``, and again where things changed."""
        if self.board.service == "systemd" and not self.dry_run and await daemon.state_of(self.session) == "absent":
            program = await daemon.program_of(self.session)
            if self._told("service", True):
                words = [program, "service", "install", "--config", daemon.SYSTEM_CONFIG]
                await self.session.must('"$@"', *words, timeout_s=INSTALL_S, doing="installing the service")
            return
        state = await daemon.state_of(self.session)
        if state == "running" and self._restart:
            if self._told("restart", True):
                await daemon.stop(self.session)
                await daemon.start(self.session)
        elif up and self._told("start", state != "running"):
            await daemon.start(self.session)


_LOOK = """
d=$1
case "$d" in /*) ;; *) d=$(pwd -P)/$d;; esac
echo "$d"
cat "$d/$2" 2>/dev/null || true
"""
# $1 folder, $2 mark, $3 python, $4 wheel, then options of pip. An installation that was cut has no mark, and is made
# anew; the one that runs is not touched before the new one is whole. Of older ones the one before is kept.
_INSTALL = """
set -e
cd "$1"
mkdir -p versions
exec 9> versions/.lock
flock -w 1500 9 || { echo "another deploy is at work there" >&2; exit 6; }
mark=$2 python=$3 wheel=$4
shift 4
new=versions/$mark
if [ ! -f "$new/.ready" ]; then
  rm -rf "$new"
  "$python" -m venv "$new"
  "$new/bin/python" -m pip install --quiet --disable-pip-version-check "$@" "$wheel"
  "$new/bin/edge-runtime" --version > /dev/null
  : > "$new/.ready"
fi
before=$(readlink current || true)
ln -sfn "$new" current.new
mv -Tf current.new current
for one in versions/*; do
  [ "$one" = "$new" ] || [ "$one" = "$before" ] || rm -rf "$one"
done
"""


async def deploy(
    lab: Inventory,
    session: Session,
    progress: Progress,
    parts: Parts,
    *,
    who: str,
    up: bool = True,
    dry_run: bool = False,
    steps: Sequence[str] = ("install", "data", "settings", "enrol", "serve"),
) -> dict[str, Any]:
    """Make a board ready; which steps were done (in a dry run: would be), and which were left out as done before.

    Raises:
        RefusedError: somebody else has reserved the board. CheckFailed: a step failed there. And as of `Session`.
    """
    await reservation.allowed(session, who)
    one = Deployment(lab, session, progress, who, dry_run=dry_run)
    await one.look()
    if "install" in steps:
        await one.install(parts)
    if "data" in steps:
        await one.data()
    if "settings" in steps:
        await one.configure()
    if "enrol" in steps:
        if parts.wheel is None and not dry_run and await daemon.version_of(
            session, await daemon.program_of(session)
        ) is None:  # fmt: skip
            raise CheckFailed("nothing is installed", where=session.board.name, fix="give --wheel FILE")
        await one.enrol()
    if "serve" in steps:
        await one.serve(up=up)
    return {"done": one.done, "left": one.left, "dry_run": dry_run}
