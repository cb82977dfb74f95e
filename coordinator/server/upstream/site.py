"""A site: a coordinator that is one device of the coordinator above it.

It joins once enough of its own devices are there, with their examples together. Ordered to send statistics, it begins a
run of its own, by which its devices send theirs to it; when that is over it sends the sum. Other orders are declined
with the reason, since a mean of means is another number than the mean, in its last bits and, with codecs, in more.

Rules kept here:

* What the devices sent is in the site's own store before anything is sent upward. So a site that is cut off goes on
  with its devices, and a report that was lost is made again from the store, after a restart as well.
* Devices that are held are not asked again: another attempt above costs them nothing. New ones, and those with other
  examples, are asked by a run that adds to the one before.
* The joules of a run of the site are reported once.
* Heads that runs above ended with go on to the site's devices as they came, signature and all: the site signs nothing
  of it, and its own runs for one above deliver no head.
* A coordinator above that is away is asked again, at growing intervals, for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, select

from coordinator.run.resume import Rooms
from coordinator.server.operations import Operations
from coordinator.server.run_scheduler import RunScheduler
from coordinator.server.upstream import sums
from coordinator.server.upstream.handed_down import HandedDown
from coordinator.server.upstream.identity import renewed
from coordinator.server.upstream.link import Away, UpstreamLink
from coordinator.server.version import software_version
from coordinator.store import runs, tables
from protos.atomic import write_whole
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase, PhaseEnergy, joined
from protos.errors import EdgejouleError, IntegrityError, RefusedError, StoreError, UnknownRunError, UsageError
from protos.model.bundle import Bundle
from protos.model.engine import engine_identity
from protos.orders import (
    DeviceCard,
    DeviceReport,
    Engine,
    MeterCard,
    Publication,
    RejoinOrder,
    SettledEnergy,
    StopReason,
    TrainOrder,
    Verdict,
    WaitOrder,
)

log = logging.getLogger("edgejoule.coordinator")

FILE = "upstream.json"
HANDED_DOWN = "handed-down"
# How long a call for work stays open: then it is looked whether devices have come or gone.
_WAITS_S = 5.0
_LOOK_S = 0.2
_FIRST_AGAIN_S, _LAST_AGAIN_S = 0.5, 30.0
_RENEWAL_LOOK_S, _RENEWAL_AGAIN_S = 60.0, 3600.0
# Of the time that is left above, what the site's own devices get.
_SHARE_OF_DEADLINE = 0.8
_TOLD = 200
# Runs of its own that a site begins for one attempt above.
_TRIES = 3


class Site:
    """One site; :meth:`run` until it is cancelled, then :meth:`close`.

    Args:
        name: its device id above.
        devices: so many of its own devices must be there before it joins, and before its own runs begin.
        state: the coordinator's state folder, in which it keeps what it has told.
        identity: folder of what it shows above; None: nothing, and the one above is on loopback.
    """

    def __init__(
        self,
        address: str,
        name: str,
        devices: int,
        state: Path,
        rooms: Rooms,
        scheduler: RunScheduler,
        operations: Operations,
        identity: Path | None = None,
    ) -> None:
        self._link, self._identity = UpstreamLink(address, identity), identity
        if self._link.identity is not None and self._link.identity.name != name:
            log.info("this site is %s above, as its certificate says, not %s", self._link.identity.name, name)
            name = self._link.identity.name
        self._renewal: asyncio.Task[None] | None = None
        self._name, self._devices, self._path = name, devices, state / FILE
        self._rooms, self._scheduler, self._operations = rooms, scheduler, operations
        self._session = uuid.uuid4().hex
        found = engine_identity()
        self._engine = Engine(found.name, found.version, found.delegate)
        self._instance, self._told_runs = self._remembered()
        self._card: DeviceCard | None = None
        self._settled: tuple[SettledEnergy, ...] = ()
        self._declined: tuple[str, str] | None = None
        self._answered: tuple[str, int, int | None] | None = None
        self._published = self._bundle_id = ""
        # Run and bundle whose signature was looked after.
        self._looked_after: tuple[str, str] = ("", "")
        self._handed_down = HandedDown(state / HANDED_DOWN / self._fleet_above())
        scheduler.handed_down = self._handed_down
        self._receive_known = False

    def _fleet_above(self) -> str:
        """Under which name heads from above are kept: those of another fleet are none of its devices' business."""
        identity = self._link.identity
        whose = self._link.address if identity is None else identity.signing_root_pem
        return hashlib.sha256(whose.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Its device id above."""
        return self._name

    async def run(self) -> None:
        """Serve the coordinator above, for ever."""
        again_s, said = _FIRST_AGAIN_S, ""
        if self._identity is not None:
            self._renewal = asyncio.create_task(self._renew(self._identity))
        while True:
            try:
                await self._turn()
                again_s, said = _FIRST_AGAIN_S, ""
            except EdgejouleError as error:
                # Once per outage at the level that people read.
                (log.debug if str(error) == said else log.warning)("upstream: %s; asked again", error)
                said = str(error)
                self._card = None
                await asyncio.sleep(again_s)
                again_s = min(_LAST_AGAIN_S, 2 * again_s)
            except Exception:
                log.exception("upstream: internal error; asked again")
                self._card = None
                await asyncio.sleep(_LAST_AGAIN_S)

    async def _renew(self, folder: Path) -> None:
        """Renew the certificate when two thirds of its life are over, for ever."""
        while True:
            wait_s, identity = _RENEWAL_LOOK_S, self._link.identity
            if identity is not None and time.time() >= identity.due_unix_s:
                why_not = await asyncio.to_thread(renewed, folder, self._link.address)
                if why_not:
                    left_d = (identity.ends_unix_s - time.time()) / 86400
                    log.warning("upstream: no new certificate (%s); %.1f days are left", why_not, left_d)
                    wait_s = _RENEWAL_AGAIN_S
                else:
                    log.info("upstream: a new certificate of %s", self._name)
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Say goodbye, if anybody listens."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        try:
            if self._card is not None:
                await asyncio.wait_for(self._link.leave(self._card, "the site ends"), 2.0)
        except (EdgejouleError, TimeoutError):
            pass
        finally:
            await self._link.close()

    # ------------------------------------------------------------ a turn

    async def _turn(self) -> None:
        """Join if need be, ask once, and do what is ordered."""
        if await self._link.take_up_renewed():
            self._card = None
        there = self._present()
        if len(there) < self._devices:
            await asyncio.sleep(_LOOK_S)
            return
        card = self._made_card(there)
        if card != self._card:
            self._receive_known = await self._link.join(card)
            if self._card is None:
                log.info("joined %s as %s: %d devices", self._link.address, self._name, len(there))
            self._card, self._answered = card, None
        order, _ = await self._link.next_order(card, self._settled, self._bundle_id, self._published, _WAITS_S)
        match order:
            case RejoinOrder():
                self._card = None
            case WaitOrder():
                self._settled = ()
                if order.publication is not None:
                    await self._hand_down(order.publication)
                await asyncio.sleep(min(1.0, order.retry_after_s))
            case TrainOrder():
                self._settled = ()
                await self._do(order, card)
            case _:
                raise RefusedError("orders what no site does", where=f"coordinator {self._link.address}")

    async def _hand_down(self, publication: Publication) -> None:
        """Let the site's own devices have a head from above, to the bit and with what vouches for it."""
        try:
            bundle = await self._bundle(publication.bundle_id, publication.run_id)
            await self._rooms.models.do(self._handed_down.take, publication, bundle)
        except (Away, StoreError, IntegrityError):
            # It is asked for again: what was damaged on the way, or had no room, may come whole.
            raise
        except EdgejouleError as error:
            log.error("the head of %s is not handed down: %s", publication.run_id, error)
        else:
            log.info("the head of %s goes on to this site's devices", publication.run_id)
            self._scheduler.tell()
        self._published = publication.id

    def _present(self) -> dict[str, int]:
        """Devices that are there, and their examples."""
        return {
            member.card.device_id: member.card.train_examples
            for member in self._scheduler.fleet
            if member.state == "present" and member.card.train_examples
        }

    def _made_card(self, there: dict[str, int]) -> DeviceCard:
        card = DeviceCard(
            device_id=self._name,
            session=self._session,
            software_version=software_version(),
            board="",
            engine=self._engine,
            meter=MeterCard("estimated", f"site:{self._name}"),
            train_examples=sum(there.values()),
            test_examples=0,
            instance=self._instance,
            account=f"a site of {len(there)} devices",
        )
        if self._declined is None:
            return card
        return replace(card, declined_run=self._declined[0], reason=self._declined[1])

    async def _do(self, order: TrainOrder, card: DeviceCard) -> None:
        if self._answered == (order.run_id, order.round, order.attempt):
            await asyncio.sleep(1.0)
            return
        try:
            _check(order)
            bundle = await self._bundle(order.bundle_id, order.run_id)
            run_id = await self._collected(order, bundle)
            report, told = await self._rooms.looks.read(self._report, order, run_id, bundle)
        except (Away, StoreError):
            raise
        except EdgejouleError as error:
            log.error("round %d of %s cannot be done by this site: %s", order.round, order.run_id, error)
            self._declined = order.run_id, str(error)
            await self._link.leave(card, f"cannot do the order: {error}")
            self._card = None
            return
        data = serialise_report(report, card.meter)
        receipt = await self._link.report(order.run_id, order.round, self._name, data)
        log.info("round %d of %s: %s %s", order.round, order.run_id, receipt.verdict.name.lower(), receipt.reason)
        if receipt.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE):
            self._told_runs = [*self._told_runs, *told][-_TOLD:]
            self._remember()
            sent = await self._rooms.looks.read(self._sending, told)
            self._settled = (SettledEnergy(order.run_id, order.round, sent, order.attempt),) if sent else ()
        self._answered = order.run_id, order.round, order.attempt

    async def _bundle(self, bundle_id: str, run_id: str) -> Bundle:
        store = self._rooms.bundle_store
        try:
            found = await self._rooms.models.do(store.open, bundle_id)
            if self._looked_after != (run_id, bundle_id):
                # It may be another one by now: signatures end before bundles do.
                if signature := await self._link.fetch_signature(bundle_id):
                    await self._rooms.models.do(store.sign, bundle_id, signature)
                self._looked_after = run_id, bundle_id
        except UnknownRunError:
            files = await self._link.fetch_bundle(bundle_id)
            found = await self._rooms.models.do(store.take_in, bundle_id, files)
        self._bundle_id = bundle_id
        return found

    # ------------------------------------------------------------ the site's own devices

    async def _collected(self, order: TrainOrder, bundle: Bundle) -> str:
        """A run of this site that is over and holds every device that is there.

        Raises:
            Away: the round above is over before that.
            UsageError: the site's own runs end without sums again and again.
        """
        name, begun = f"for {order.run_id}", 0
        until_s = asyncio.get_running_loop().time() + order.deadline_s
        while True:
            newest = await self._rooms.looks.read(_newest, name)
            going = newest is not None and newest[1] in runs.OPEN_STATES
            if asyncio.get_running_loop().time() > until_s:
                if newest is not None and going:
                    # It may wait for a device that is gone; the next attempt begins with those that are there.
                    await self._operations.stop_run(newest[0])
                raise Away("its round is over before this site's devices had answered", where=self._link.address)
            holds: dict[str, int] = {}
            if newest is not None and not going:
                holds = await self._rooms.looks.read(sums.held, newest[0])
                there = self._present()
                if holds and all(holds.get(key) == examples for key, examples in there.items()):
                    return newest[0]
            if going or len(self._present()) < self._devices:
                await asyncio.sleep(_LOOK_S)
                continue
            if newest is not None and begun == _TRIES:
                raise UsageError(f"the site's own runs end without sums ({newest[1]})", where=newest[0])
            await self._begin(order, bundle, name, newest[0] if newest is not None and holds else None)
            begun += 1

    async def _begin(self, order: TrainOrder, bundle: Bundle, name: str, add_to: str | None) -> None:
        assert order.statistics is not None
        there, before = self._present(), {}
        if add_to is not None:
            before = await self._rooms.looks.read(sums.held, add_to)
        asked = [key for key, examples in there.items() if before.get(key) != examples]
        lines = [
            "[run]",
            f"name = {json.dumps(name)}",
            f"bundle = {json.dumps(str(bundle.path.resolve()))}",
            "rounds = 1",
            # Its devices get the head of the run above.
            'deliver = "none"',
            # Signs of a projection are drawn from it.
            f"seed = {order.statistics.seed}",
            "[round]",
            f"devices = {max(1, len(asked))}",
            # Who is away must not hold up the others for ever; whoever came by then is in the sum.
            "quorum = 0.0",
            f"deadline_s = {max(1.0, _SHARE_OF_DEADLINE * order.deadline_s)}",
            "[train]",
            'method = "closed_form"',
            "[closed_form]",
            # The site's own head is nobody's aim: nothing is chosen for it.
            "shrinkage = 1.0",
            f"project = {order.statistics.project}",
            *([f"add_to = {json.dumps(add_to)}"] if add_to else []),
        ]
        text = "\n".join(lines) + "\n"
        run_id = await self._operations.start_run(text, str(self._path.parent.resolve()))
        log.info("%s: statistics of %d devices for round %d of %s", run_id, len(asked), order.round, order.run_id)

    def _report(
        self, connection: Connection, order: TrainOrder, run_id: str, bundle: Bundle
    ) -> tuple[DeviceReport, list[str]]:
        """The report, and the runs whose joules are in it."""
        assert order.statistics is not None
        found = sums.summed(connection, run_id, bundle, order.statistics)
        mine = [text for text in _named(connection, f"for {order.run_id}") if text not in self._told_runs]
        energy, embedded = sums.spent(connection, mine, self._name)
        return DeviceReport(
            run_id=order.run_id,
            round=order.round,
            device_id=self._name,
            plan_id=order.plan_id,
            bundle_id=order.bundle_id,
            head_version=order.head_version,
            steps_planned=order.steps,
            steps_done=0,
            examples=found.examples,
            local_normaliser=0.0,
            stop_reason=StopReason.COMPLETED,
            loss_first=None,
            loss_last=None,
            engine=self._engine,
            energy=tuple(record for record in self._sayable(energy) if record.phase is not Phase.SEND),
            update=(),
            embedded=embedded,
            train_s=0.0,
            attempt=order.attempt,
            statistics=found.coded,
        ), mine

    def _sayable(self, energy: Sequence[PhaseEnergy]) -> Sequence[PhaseEnergy]:
        """Joules by phase, as the coordinator above knows phases: an earlier release takes what came in as idling."""
        by_phase = {record.phase: record for record in energy}
        if self._receive_known or (arrived := by_phase.pop(Phase.RECEIVE, None)) is None:
            return energy
        idle, arrived = by_phase.get(Phase.IDLE), replace(arrived, phase=Phase.IDLE)
        by_phase[Phase.IDLE] = arrived if idle is None else joined(idle, arrived)
        return list(by_phase.values())

    def _sending(self, connection: Connection, run_ids: Iterable[str]) -> tuple[PhaseEnergy, ...]:
        """What the devices' own reports cost to send, as far as they have told."""
        energy, _ = sums.spent(connection, run_ids, self._name)
        return tuple(phase_energy for phase_energy in energy if phase_energy.phase is Phase.SEND)

    # ------------------------------------------------------------ what is remembered

    def _remembered(self) -> tuple[str, list[str]]:
        try:
            found = json.loads(self._path.read_text("utf-8"))
            return str(found["instance"]), [str(one) for one in found["told"]]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s): joules may be told twice", self._path, error)
        return uuid.uuid4().hex, []

    def _remember(self) -> None:
        try:
            with write_whole(self._path) as file:
                file.write(json.dumps({"instance": self._instance, "told": self._told_runs}).encode())
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(self._path)) from error


def _check(order: TrainOrder) -> None:
    """Decline what has no exact sum.

    Raises:
        RefusedError: it says why.
    """
    fix = 'take train.method = "closed_form" for runs over sites'
    if order.statistics is None:
        raise RefusedError("steps on several devices have no sum with the bits of a flat fleet", where="site", fix=fix)
    if order.budget_j is not None:
        raise RefusedError("a budget of joules is not divided over a site's devices", where="site", fix="leave it out")


def _named(connection: Connection, name: str) -> list[str]:
    """Runs of this name, the oldest first."""
    query = select(tables.runs.c.run_id).where(tables.runs.c.name == name).order_by(tables.runs.c.sequence)
    return [str(value) for value in connection.execute(query).scalars()]


def _newest(connection: Connection, name: str) -> tuple[str, str] | None:
    """Id and state of the newest run of this name."""
    named = _named(connection, name)
    return (named[-1], str(runs.row(connection, named[-1])["state"])) if named else None
