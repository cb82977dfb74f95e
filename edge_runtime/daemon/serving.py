"""The daemon: joins, asks for orders, does them, reports, and does not give up on a coordinator that is away.

Rules kept here:

* Before anything new is asked for, every report without an answer is sent again.
* After the first contact no silence of the coordinator ends the process; before it, ``wait_for_coordinator_s`` does.
  A coordinator that refuses this device, or is of another version, is waited for in the same way.
* An order that this device cannot do is declined by leaving with the reason, so that no round waits for it. It joins
  again at once with a card that says which run it declines and why. What may pass is tried again after a wait that
  grows; data that do not fit are looked at again when they have changed.
* The card is what is so: whenever it is not what was told (data, sensor, engine), it is told before anything else is
  done, also between an order and its work.
* SIGTERM and SIGINT end training at the next step; what was trained is sent if that goes quickly, else it stays in
  the outbox for the next start. Then the device leaves, and the exit code is 0.
* Progress is told where it happens: each step and batch, each call, each turn of a wait. See
  ``edge_runtime/systemd/notify.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.daemon.backoff import Backoff
from edge_runtime.daemon.delivery import Delivery
from edge_runtime.daemon.device import DATA_FAULTS, Device
from edge_runtime.daemon.link import ORDER_S, Away, Link
from edge_runtime.daemon.masking import Masks
from edge_runtime.daemon.metrics_file import MetricsFile
from edge_runtime.daemon.order_watch import OrderWatch
from edge_runtime.daemon.stopping import Interrupted, Stopping
from edge_runtime.daemon.upgrading import Upgrades
from edge_runtime.health.pauses import open_pauses
from edge_runtime.identity.signatures import Signatures
from edge_runtime.model.adopting import receive
from edge_runtime.power.live import LivePower
from edge_runtime.power.meters.shared_meter import SharedMeter
from edge_runtime.round import work as one_round
from edge_runtime.round.held_heads import CannotRebuildError
from edge_runtime.round.inputs.examples import ChangedDataError
from edge_runtime.round.work import Workbench
from edge_runtime.state import is_full, storing
from edge_runtime.systemd.journal import about
from edge_runtime.systemd.logging_setup import log
from edge_runtime.systemd.notify import Notifier
from edge_runtime.systemd.vitals import VitalsFile
from protos.atomic import write_whole
from protos.energy.trace import Phase
from protos.errors import (
    EdgejouleError,
    IntegrityError,
    RefusedError,
    StoreError,
    UnknownRunError,
    UnreachableError,
    UpdateError,
)
from protos.model.bundle import Bundle
from protos.model.manifest import brief
from protos.orders import (
    DeviceCard,
    DeviceReport,
    Holding,
    Order,
    Publication,
    Reception,
    RejoinOrder,
    RevealOrder,
    SettledEnergy,
    StopReason,
    TrainOrder,
    UpgradeOffer,
    Verdict,
    WaitOrder,
)

_LEAST_WAIT_S = 0.05
_DECLINED_WAIT_S = 10.0
_LEAST_CALL_S = 0.5
_TRIED_AGAIN_S = 600.0
# A disk that is full is not free a second later, and each try costs the run an attempt.
_FULL_AGAIN_S = 30.0
# A coordinator that does not understand why this device declines orders again; so long at most it stays away then.
_AWAY_S = 30.0
# How often data that cannot be used are looked at again, s; a folder costs one stat a file.
_LOOK_EACH_S, _LOOK_FOLDER_EACH_S = 5.0, 60.0
_TRIES = 3
# The name of the publication that was dealt with last.
_PUBLISHED = "published"


@dataclass(frozen=True)
class _Declined:
    """A run whose orders this device cannot do.

    Attributes:
        again_s: when it tries again, of the monotonic clock.
        data: it is for the data, and they may change before.
    """

    run_id: str
    reason: str
    again_s: float
    data: bool


class Daemon:
    """Serves one device until it is told to stop, or has done what it was asked for.

    Args:
        device: opened.
        link: to the coordinator.
        stopping: asked often.
        rows: print one JSON object per round to stdout.
        notifier: tells the service manager what the daemon does.
        vitals: shows that the coordinator answers.
    """

    def __init__(
        self,
        device: Device,
        link: Link,
        stopping: Stopping,
        *,
        rows: bool = False,
        notifier: Notifier | None = None,
        vitals: VitalsFile | None = None,
    ) -> None:
        self._device, self._link, self._stopping = device, link, stopping
        self._notifier, self._vitals = notifier or Notifier(None), vitals or VitalsFile(None)
        metrics = MetricsFile(device.settings.metrics_file)
        metrics.ready(device.card())
        self._delivery = Delivery(device, link, stopping, rows=rows, metrics=metrics)
        self._settings = device.settings
        self._joined = self._met = False
        self._check_in_s = _DECLINED_WAIT_S
        self._rounds = 0
        self._last_order_s = time.monotonic()
        self._answered: tuple[str, int, int | None] | None = None
        self._run_id = ""
        self._told: DeviceCard | None = None
        self._receive_known = False
        self._declined: _Declined | None = None
        self._declines = Backoff(1.0, _TRIED_AGAIN_S)
        self._repeated = Backoff(1.0, 60.0)
        self._look_s = time.monotonic()
        self._said: tuple[str, str] | None = None
        self._seen: object = None
        self._masks = Masks(device.settings.device_id, device.session, link)
        state = device.state.path
        self._signatures = Signatures(state)
        self._upgrades = Upgrades(state, device.settings.machine_root, self._signatures)
        # What became of publications, until the coordinator knows.
        self._receptions: list[Reception] = []
        # A publication that cannot be taken before some time of the monotonic clock.
        self._put_off: tuple[str, float] | None = None
        self._put_offs = Backoff(5.0, _TRIED_AGAIN_S)
        self._live = LivePower(
            lambda: device.late.sensor if device.late is not None else None,
            lambda: device.late.trouble if device.late is not None else "",
            lambda bins, reason, ends: link.live(device.settings.device_id, device.session, bins, reason, ends),
            link.end_live,
        )
        self._pauses = open_pauses(device.settings, device.clock, wait=self._rest, tell=self._notifier.status)

    def serve(self) -> None:
        """Run until stopped, until ``max_rounds`` are done, or until ``exit_when_idle_s`` passed without an order.

        Raises:
            UnreachableError: no contact within ``wait_for_coordinator_s`` of the start.
            RefusedError, UpdateError: all that time the coordinator did not want this device, or made no sense.
        """
        give_up_s = time.monotonic() + self._settings.wait_for_coordinator_s
        backoff = Backoff()
        reason = ""
        try:
            while not self._finished():
                try:
                    self._turn()
                    backoff.reset()
                except (Away, RefusedError, UpdateError) as error:
                    if not self._met and time.monotonic() >= give_up_s:
                        if not isinstance(error, Away):
                            raise
                        raise UnreachableError(error.what, where=error.where, fix=error.fix) from error
                    delay_s = backoff.next_s()
                    # Once per outage at the level that people read, then only for those who look closely.
                    say = log().warning if backoff.tries == 1 else log().debug
                    say("%s %s; again in %.1f s", error.where, error.what, delay_s)
                    self._notifier.status(f"{error.where} {error.what}")
                    if not self._met:
                        delay_s = min(delay_s, max(_LEAST_WAIT_S, give_up_s - time.monotonic()))
                    self._stopping.wait(delay_s)
        except Interrupted:
            pass
        except EdgejouleError as error:
            reason = str(error)
            raise
        finally:
            reason = reason or self._stopping.reason or "done"
            self._notifier.stopping(reason)
            self._live.close()
            self._leave(reason)

    def _rest(self, timeout_s: float) -> bool:
        """A pause of the work; predictions go on."""
        with self._device.gate.resting():
            return self._stopping.wait(timeout_s)

    def _finished(self) -> bool:
        settings = self._settings
        idle_s = time.monotonic() - self._last_order_s
        # A sum that this device is a part of is unmasked with its help.
        done = self._has_done_all() and not self._masks.owes
        bored = settings.exit_when_idle_s is not None and idle_s >= settings.exit_when_idle_s
        return self._stopping.requested or done or bored

    def _has_done_all(self) -> bool:
        return self._settings.max_rounds is not None and self._rounds >= self._settings.max_rounds

    def _turn(self) -> None:
        """Join if need be, send what is left over, ask once, and do what is ordered."""
        self._look_around()
        if not self._joined:
            self._join()
        self._delivery.send_left_over()
        settled = self._device.outbox.settled()
        order, size_bytes = self._ask(settled)
        self._vitals.answered()
        self._stopping.progressed()
        if isinstance(order, RejoinOrder):
            # A coordinator that forgot the session took no notice of the energy either.
            self._joined = False
            return
        self._device.outbox.told(settled)
        if isinstance(order, WaitOrder) and self._receive_known and isinstance(self._device.meter, SharedMeter):
            self._device.meter.no_order_came()
        match order:
            case WaitOrder(upgrade=UpgradeOffer() as offered):
                self._receptions.clear()
                self._upgrade(offered)
            case WaitOrder(_, _, Publication() as published):
                self._receptions.clear()
                self._take(published)
            case WaitOrder(watts=True):
                self._receptions.clear()
                self._live.begin()
            case WaitOrder(retry_after_s, reason):
                self._receptions.clear()
                if self._put_off is not None and time.monotonic() >= self._put_off[1]:
                    # It is not offered any more.
                    self._put_off, self._device.refused_head = None, ""
                log().debug("waiting %.1f s: %s", retry_after_s, reason)
                self._pause(retry_after_s)
            case RevealOrder():
                self._reveal(order)
            case TrainOrder() if self._has_done_all():
                # The round of the masks is over without its help.
                self._masks.forget()
            case TrainOrder():
                self._receptions.clear()
                self._last_order_s = time.monotonic()
                self._notifier.status(f"round {order.round} of run {order.run_id}: {one_round.in_words(order)}")
                with about(run=order.run_id, round=order.round):
                    self._do(order, size_bytes)
                self._last_order_s = time.monotonic()

    def _reveal(self, order: RevealOrder) -> None:
        """Help to unmask the sum of a round; a refusal is said, and holds up nobody but that sum."""
        try:
            self._masks.reveal(order)
        except RefusedError as error:
            log().warning("round %d cannot be unmasked with this device's help: %s", order.round, error)
            self._pause(self._check_in_s)

    def _upgrade(self, offered: UpgradeOffer) -> None:
        """Fetch a version of the service, leave it to root, and wait for what becomes of it."""
        log().info("a version of the service is offered: %s", offered.wheel)
        name, session = self._settings.device_id, self._device.session
        try:
            handed = self._upgrades.take(offered, lambda folder: self._link.fetch_upgrade(name, offered, folder))
        except (RefusedError, UnknownRunError, StoreError) as error:
            # Stopped meanwhile, or no room now.
            log().warning("%s cannot be fetched now: %s", offered.wheel, error)
            self._pause(max(self._check_in_s, _DECLINED_WAIT_S))
            return
        if handed:
            # The coordinator is told with this question; an order is not given to who installs.
            self._ask(())
            self._link.leave(name, session, (), f"installs {offered.wheel}")
            self._joined, self._told = False, None
            self._upgrades.wait(offered, self._stopping, self._notifier.status)

    def _look_around(self) -> None:
        """Is there a sensor, are the data as they were, may what was declined be tried again?"""
        self._device.refresh()
        now_s, waits = time.monotonic(), self._device.data_fault is not None
        if (waits or (self._declined is not None and self._declined.data)) and now_s >= self._look_s:
            self._look_s = now_s + self._look_each_s
            if self._device.data_changed():
                log().info("the data have changed: they are looked at again")
                with self._stopping.loading():
                    self._device.look_at_data()
                self._declined = None
        if self._declined is not None and now_s >= self._declined.again_s:
            self._declined = None
        if self._joined and self._card() != self._told:
            self._joined = False

    @property
    def _look_each_s(self) -> float:
        """How often data that are missing or do not fit are looked at: one stat a file."""
        folder = Path(self._settings.data or "").expanduser().is_dir()
        return _LOOK_FOLDER_EACH_S if folder else _LOOK_EACH_S

    def _has_news(self) -> bool:
        """Whether a call that waits for an order is to be given up, since something happened here. Cheap: a call may
        wait for minutes, and this is asked every few seconds."""
        self._device.refresh()
        now_s, declined = time.monotonic(), self._declined
        again = declined is not None and now_s >= declined.again_s
        if (self._device.data_fault is not None or (declined is not None and declined.data)) and now_s >= self._look_s:
            if self._device.data_changed():
                return True
            self._look_s = now_s + self._look_each_s
        return self._finished() or again or self._state() != self._seen

    def _state(self) -> object:
        """What may change by itself, and is told."""
        return self._device.meter.identity, self._device.complaints, self._upgrades.stamp()

    def _card(self) -> DeviceCard:
        card = self._device.card()
        if self._declined is None:
            return card
        reason = "; ".join(text for text in (self._declined.reason, card.reason) if text)
        return dataclasses.replace(card, reason=reason, declined_run=self._declined.run_id)

    def _ask(self, settled: tuple[SettledEnergy, ...]) -> tuple[Order, int]:
        try:
            return self._link.next_order(
                self._settings.device_id,
                self._device.session,
                settled,
                bundle_id=self._device.bench.bundle.bundle_id if self._device.bench else "",
                holding=self._holding(),
                receptions=self._receptions,
                waits_s=self._patience_s(),
                given_up=self._has_news,
                arriving=self._arriving,
            )
        except (RefusedError, UnknownRunError) as error:
            # Figures that the coordinator does not take must not keep this device from working for ever.
            if settled:
                log().warning("the energy of %d rounds is dropped, since it is not taken: %s", len(settled), error)
                self._device.outbox.told(settled)
            raise Away(error.what, where=error.where, fix=error.fix) from error

    def _arriving(self, begins: bool) -> None:
        """What comes in is metered as that, where the coordinator knows of it."""
        if self._receive_known:
            self._device.meter.mark(Phase.RECEIVE if begins else Phase.IDLE)

    def _holding(self) -> Holding:
        """What this device holds; of a publication that it could not take, it says for a while that it has."""
        device, late = self._device, self._put_off
        name = late[0] if late is not None and time.monotonic() < late[1] else self._published()
        bench = device.bench.bundle.bundle_id if device.bench else ""
        return dataclasses.replace(
            device.heads.holding(),
            basis_version=device.bases.version,
            bundle_id=bench,
            published=name,
            upgrade=self._upgrades.said(),
        )

    def _published(self) -> str:
        """The publication that was dealt with last, as the state remembers it."""
        try:
            return (self._device.state.path / _PUBLISHED).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def _take(self, published: Publication) -> None:
        """Look at the head that a run ended with. What cannot be done now is tried again after a while."""
        device, settings = self._device, self._settings
        try:
            with self._stopping.loading():
                bundle = self._bundle(published.bundle_id)
                bench = None
                with contextlib.suppress(*DATA_FAULTS):
                    if device.data_fault is None:
                        bench = device.take_up(bundle)
                said, model = receive(
                    published,
                    bundle,
                    bench,
                    device.state.path,
                    device.heads,
                    self._signatures,
                    adopt=settings.adopt,
                    personally=settings.personal_head == "on",
                    bits=settings.head_bits,
                )
                if model is not None:
                    # Before anything else can fail: what is on disk as the model at work is to answer.
                    device.model.catch_up(model)
                place = device.state.path / _PUBLISHED
                with storing(place), write_whole(place) as file:
                    file.write(published.id.encode())
        except (Away, Interrupted):
            raise
        except EdgejouleError as error:
            if not self._stopping.requested:
                log().warning("the head of %s cannot be taken to work now: %s", published.run_id, error)
                if isinstance(error, ChangedDataError):
                    device.forget_data()
                if isinstance(error, IntegrityError):
                    # With the card, for as long as it is so.
                    device.refused_head = str(error)
                self._put_off = (published.id, time.monotonic() + self._put_offs.next_s())
            return
        self._put_off = None
        device.refused_head = ""
        self._put_offs.reset()
        # What a plan hides is judged here, and not told.
        self._receptions.append(said if published.evaluate else dataclasses.replace(said, evaluation=None, reason=""))
        if model is not None:
            self._notifier.status(f"model {model.about.version} of {model.about.run} is at work")

    def _patience_s(self) -> float:
        """How long a call for work may stay open: until this device would go for want of it."""
        # Who lacks something looks for it while the call is held: see _has_news.
        if self._receptions or self._vitals.wanted:
            # What is to be told is told with the question; an answer is not waited for. Nor is the first one, which
            # says that the coordinator takes this version: held while there is no work, it could outlast a trial.
            return _LEAST_CALL_S
        if (limit_s := self._settings.exit_when_idle_s) is None:
            return ORDER_S
        return min(ORDER_S, max(_LEAST_CALL_S, self._last_order_s + limit_s - time.monotonic()))

    def _pause(self, seconds: float) -> None:
        if (limit_s := self._settings.exit_when_idle_s) is not None:
            seconds = min(seconds, self._last_order_s + limit_s - time.monotonic())
        self._stopping.wait(max(_LEAST_WAIT_S, seconds))

    def _join(self) -> None:
        try:
            card, self._seen = self._card(), self._state()
            welcome = self._link.join(card)
        except Interrupted:
            # The coordinator may have taken note of it: the goodbye must not be left out.
            self._joined = True
            raise
        known = self._told is not None and self._told.session == card.session
        say = log().debug if known and self._told == card else log().info
        more = f": {card.reason}" if card.reason else ""
        say("%s %s as %s%s", "told" if known else "joined", self._link.address, self._settings.device_id, more)
        self._notifier.status(f"joined {self._link.address}, waiting for an order")
        self._joined = self._met = True
        if card != self._told:
            # With what is new, the same order may now be done.
            self._answered = None
        self._told = card
        self._check_in_s = welcome.check_in_s or _DECLINED_WAIT_S
        self._receive_known = welcome.receive_known

    def _do(self, order: TrainOrder, size_bytes: int) -> None:
        # Of a further attempt it is a new order, also when the report of the one before came late or was refused.
        if self._answered == (order.run_id, order.round, order.attempt):
            say = log().debug if self._repeated.tries else log().warning
            say("round %d is ordered again after its report was answered", order.round)
            self._pause(max(self._check_in_s, self._repeated.next_s()))
            return
        self._repeated.reset()
        if self._declined is not None and self._declined.run_id == order.run_id and not self._may_try():
            self._leave_for(order, self._declined.reason)
            self._pause(min(_AWAY_S, max(1.0, self._declined.again_s - time.monotonic())))
            return
        started_s = time.monotonic()
        if order.run_id != self._run_id:
            # Waiting for a run to begin is no cost of that run; its first order is one.
            self._device.meter.mark(Phase.IDLE)
            if isinstance(meter := self._device.meter, SharedMeter):
                meter.begin_run(2.0 if self._receive_known else 0.0)
            else:
                meter.settle(0.0)
            self._run_id = order.run_id
        watch = self._link.watch(self._settings.device_id, self._device.session, order, self._live.begin)
        try:
            with self._stopping.loading():
                report = self._work(order, started_s, watch)
        except (Away, Interrupted):
            raise
        except CannotRebuildError as error:
            log().warning("%s; a whole head is asked for", error)
            return
        except EdgejouleError as error:
            # A signal to the whole group of processes also kills a model's trial, which says nothing of the model.
            if not self._stopping.requested:
                self._decline(order, error)
            return
        finally:
            watch.close()
        if watch.ended():
            log().info("round %d is not wanted any more: ended after %d steps", order.round, report.steps_done)
        if self._stopping.requested and report.steps_done == 0 and report.stop_reason is not StopReason.COMPLETED:
            return
        self._declined = None
        self._declines.reset()
        receipt = self._delivery.send(report, size_bytes)
        if receipt is not None:
            self._answered = (report.run_id, report.round, report.attempt)
            self._rounds += 1
            if receipt.verdict is Verdict.REJECTED and self._device.data_changed():
                # Perhaps it was refused for what is not so any more; the card tells.
                with self._stopping.loading():
                    self._device.look_at_data()
            self._notifier.status(f"round {report.round} of run {report.run_id} is done, waiting for an order")

    def _work(self, order: TrainOrder, started_s: float, watch: OrderWatch) -> DeviceReport:
        """One round. Data that change under it are looked at again, and the coordinator is told first what is new."""
        self._device.take_inbox()
        for tried in range(1, _TRIES + 1):
            # A store that somebody adds to all the time would be another one at each look: from the second on it is
            # held until its examples are embedded.
            release = self._device.hold_store() if tried > 1 else None
            try:
                return self._try(order, started_s, watch, release)
            except DATA_FAULTS as error:
                # What a store lets go of, or somebody moves, while it is embedded is such a change as well.
                changed = isinstance(error, ChangedDataError) or self._device.data_changed()
                if tried == _TRIES or not changed:
                    raise
                log().info("%s; they are looked at again", error)
                self._device.forget_data()
            finally:
                if release is not None:
                    release()
        raise AssertionError("the loop returns or raises")

    def _try(
        self, order: TrainOrder, started_s: float, watch: OrderWatch, release: Callable[[], None] | None
    ) -> DeviceReport:
        """One round by the data as they are now; ``release`` is called when they are embedded."""
        if self._device.data_fault is not None or self._device.data_changed():
            self._device.forget_data()
        bench = self._bench(order.bundle_id)
        bench.embedded = release or (lambda: None)
        if self._card() != self._told:
            self._join()
        if order.mask is not None:
            self._masks.agree(order)
        # What fetching took is gone from the deadline.
        left_s = max(0.0, order.deadline_s - (time.monotonic() - started_s))
        shortened = dataclasses.replace(order, deadline_s=left_s)
        return one_round.work(
            shortened,
            bench,
            lambda: self._stopping.progressed() or watch.ended(),
            self._pauses,
            self._masks.hide,
        )

    def _bench(self, bundle_id: str) -> Workbench:
        cache = self._device.bundle_cache
        held = self._device.bench
        if held is not None and held.bundle.bundle_id == bundle_id and cache.may_run(bundle_id):
            return held
        return self._device.take_up(self._bundle(bundle_id, ordered=True))

    def _bundle(self, bundle_id: str, *, ordered: bool = False) -> Bundle:
        """The bundle of this name, fetched if need be.

        Args:
            ordered: for an order, whose joules those of the fetching are.
        """
        cache = self._device.bundle_cache
        twin = self._device.accelerator.available
        bundle = cache.find(bundle_id, twin=twin)
        if bundle is None:
            log().info("fetching bundle %s", brief(bundle_id))

            def fetch(folder: Path) -> None:
                if ordered:
                    self._arriving(True)
                try:
                    self._link.fetch_bundle(bundle_id, folder, twin=twin, signature=cache.asks_signatures)
                finally:
                    if ordered:
                        self._arriving(False)

            bundle = cache.fetch(bundle_id, fetch)
        return bundle

    def _decline(self, order: TrainOrder, error: EdgejouleError) -> None:
        """Leave, so that no round waits, and tell the reason with the next card. Once at the level that people read."""
        reason, data = str(error), isinstance(error, DATA_FAULTS)
        say = log().debug if self._said == (order.run_id, reason) else log().error
        self._said = (order.run_id, reason)
        say("round %d cannot be done: %s", order.round, reason)
        now_s, wait_s = time.monotonic(), self._declines.next_s()
        if is_full(error.__cause__):
            wait_s = max(wait_s, _FULL_AGAIN_S)
        # Data that do not fit will not fit by waiting, only by a change.
        self._declined = _Declined(order.run_id, reason, math.inf if data else now_s + wait_s, data)
        self._look_s = now_s
        self._leave_for(order, reason)
        self._pause(max(self._check_in_s, 1.0))

    def _leave_for(self, order: TrainOrder, reason: str) -> None:
        self._link.leave(self._settings.device_id, self._device.session, (), f"cannot do the order: {reason}")
        self._joined, self._told = False, None
        self._notifier.status(f"cannot do run {order.run_id}: {reason}")

    def _may_try(self) -> bool:
        return self._declined is None or time.monotonic() >= self._declined.again_s

    def _leave(self, reason: str) -> None:
        if not self._joined:
            return
        outbox = self._device.outbox
        try:
            settled = outbox.settled()
            self._link.leave(self._settings.device_id, self._device.session, settled, reason)
            outbox.told(settled)
            log().info("left: %s", reason)
        except EdgejouleError as error:
            log().info("left without a goodbye: %s", error.what)
        except Interrupted:
            # A coordinator that goes down at the same time cancels the call.
            log().info("left without a goodbye: the coordinator went away as well")
