"""The daemon: joins, asks for orders, does them, reports, and does not give up on a coordinator that is away.

Rules kept here:

* Before anything new is asked for, every report without an answer is sent again.
* After the first contact no silence of the coordinator ends the process; before it, ``wait_for_coordinator_s`` does.
* An order that this device cannot do is declined by leaving with the reason, so that no round waits for it; it joins
  again later. Data that does not fit the ordered bundle ends the process, since only a person can mend that.
* SIGTERM and SIGINT end training at the next step; what was trained is sent if that goes quickly, else it stays in
  the outbox for the next start. Then the device leaves, and the exit code is 0.
* Progress is told where it happens: each step and batch, each call, each turn of a wait. See
  ``edge_runtime/systemd/notify.py``.
"""

from __future__ import annotations

import dataclasses
import time

from edge_runtime.daemon.backoff import Backoff
from edge_runtime.daemon.delivery import Delivery
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.link import ORDER_S, Away, Interrupted, Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.health.pauses import open_pauses
from edge_runtime.round import work as one_round
from edge_runtime.round.heads import CannotRebuildError
from edge_runtime.round.work import Workbench
from edge_runtime.systemd.journal import about
from edge_runtime.systemd.logging_setup import log
from edge_runtime.systemd.notify import Notifier
from edge_runtime.systemd.vitals import VitalsFile
from protos.energy.trace import Phase
from protos.errors import (
    DataError,
    EdgejouleError,
    EmptyShardError,
    LabelError,
    RefusedError,
    ShapeError,
    UnknownRunError,
    UnreachableError,
    UpdateError,
)
from protos.orders import Engine, Order, RejoinOrder, SettledEnergy, TrainOrder, WaitOrder

# Mistakes in the device's own data: waiting does not mend them.
_OWN_FAULT = (DataError, EmptyShardError, LabelError, ShapeError)
_LEAST_WAIT_S = 0.05
_DECLINED_WAIT_S = 10.0
_LEAST_CALL_S = 0.5


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
        self._delivery = Delivery(device, link, stopping, rows=rows)
        self._settings = device.settings
        self._joined = self._met = False
        self._check_in_s = _DECLINED_WAIT_S
        self._rounds = 0
        self._last_order_s = time.monotonic()
        self._answered: tuple[str, int, int | None] | None = None
        self._run_id = ""
        self._told: Engine | None = None
        self._pauses = open_pauses(device.settings, device.clock, wait=stopping.wait, tell=self._notifier.status)

    def serve(self) -> None:
        """Run until stopped, until ``max_rounds`` are done, or until ``exit_when_idle_s`` passed without an order.

        Raises:
            UnreachableError: no contact within ``wait_for_coordinator_s`` of the start.
            RefusedError: the coordinator does not want this device.
            EdgejouleError: the data does not fit the ordered bundle.
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
                    if not self._met and not isinstance(error, Away):
                        raise
                    if not self._met and time.monotonic() >= give_up_s:
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
            self._leave(reason)

    def _finished(self) -> bool:
        settings = self._settings
        idle_s = time.monotonic() - self._last_order_s
        done = settings.max_rounds is not None and self._rounds >= settings.max_rounds
        bored = settings.exit_when_idle_s is not None and idle_s >= settings.exit_when_idle_s
        return self._stopping.requested or done or bored

    def _turn(self) -> None:
        """Join if need be, send what is left over, ask once, and do what is ordered."""
        if not self._joined:
            self._join()
        self._delivery.send_left_over()
        settled = self._device.outbox.settled()
        order, size_bytes = self._ask(settled)
        self._vitals.answered()
        self._stopping.progressed()
        match order:
            case RejoinOrder():
                # A coordinator that forgot the session took no notice of the energy either.
                self._joined = False
            case WaitOrder(retry_after_s, reason):
                self._device.outbox.told(settled)
                log().debug("waiting %.1f s: %s", retry_after_s, reason)
                self._pause(retry_after_s)
            case TrainOrder():
                self._device.outbox.told(settled)
                self._last_order_s = time.monotonic()
                self._notifier.status(f"round {order.round} of run {order.run_id}: {order.steps} steps")
                with about(run=order.run_id, round=order.round):
                    self._do(order, size_bytes)
                self._last_order_s = time.monotonic()
                if self._device.card().engine != self._told:
                    # An Edge TPU was lost: the coordinator learns of it by the card of a new join.
                    self._joined = False

    def _ask(self, settled: tuple[SettledEnergy, ...]) -> tuple[Order, int]:
        try:
            return self._link.next_order(
                self._settings.device_id,
                self._device.session,
                settled,
                bundle_id=self._device.bench.bundle.bundle_id if self._device.bench else "",
                holding=self._device.heads.holding(),
                waits_s=self._patience_s(),
            )
        except (RefusedError, UnknownRunError) as error:
            # Figures that the coordinator does not take must not keep this device from working for ever.
            if settled:
                log().warning("the energy of %d rounds is dropped, since it is not taken: %s", len(settled), error)
                self._device.outbox.told(settled)
            raise Away(error.what, where=error.where, fix=error.fix) from error

    def _patience_s(self) -> float:
        """How long a call for work may stay open: until this device would go for want of it."""
        if (limit_s := self._settings.exit_when_idle_s) is None:
            return ORDER_S
        return min(ORDER_S, max(_LEAST_CALL_S, self._last_order_s + limit_s - time.monotonic()))

    def _pause(self, seconds: float) -> None:
        if (limit_s := self._settings.exit_when_idle_s) is not None:
            seconds = min(seconds, self._last_order_s + limit_s - time.monotonic())
        self._stopping.wait(max(_LEAST_WAIT_S, seconds))

    def _join(self) -> None:
        try:
            card = self._device.card()
            welcome = self._link.join(card)
        except Interrupted:
            # The coordinator may have taken note of it: the goodbye must not be left out.
            self._joined = True
            raise
        log().info("joined %s as %s", self._link.address, self._settings.device_id)
        self._notifier.status(f"joined {self._link.address}, waiting for an order")
        self._joined = self._met = True
        self._told = card.engine
        self._answered = None
        self._check_in_s = welcome.check_in_s or _DECLINED_WAIT_S

    def _do(self, order: TrainOrder, size_bytes: int) -> None:
        # Of a further attempt it is a new order, also when the report of the one before came late or was refused.
        if self._answered == (order.run_id, order.round, order.attempt):
            log().warning("round %d is ordered again after its report was answered", order.round)
            self._pause(self._check_in_s)
            return
        if order.run_id != self._run_id:
            # Waiting for a run to begin is no cost of that run.
            self._device.meter.mark(Phase.IDLE)
            self._device.meter.settle(0.0)
            self._run_id = order.run_id
        watch = self._link.watch(self._settings.device_id, self._device.session, order)
        try:
            started_s = time.monotonic()
            bench = self._bench(order.bundle_id)
            # What fetching took is gone from the deadline.
            left_s = max(0.0, order.deadline_s - (time.monotonic() - started_s))
            shortened = dataclasses.replace(order, deadline_s=left_s)
            report = one_round.work(
                shortened, bench, lambda: self._stopping.progressed() or watch.ended(), self._pauses
            )
        except (Away, Interrupted):
            raise
        except CannotRebuildError as error:
            log().warning("%s; a whole head is asked for", error)
            return
        except _OWN_FAULT:
            raise
        except EdgejouleError as error:
            # A signal to the whole group of processes also kills a model's trial, which says nothing of the model.
            if not self._stopping.requested:
                self._decline(order, error)
            return
        finally:
            watch.close()
        if watch.ended():
            log().info("round %d is not wanted any more: ended after %d steps", order.round, report.steps_done)
        if self._stopping.requested and report.steps_done == 0:
            return
        if self._delivery.send(report, size_bytes) is not None:
            self._answered = (report.run_id, report.round, report.attempt)
            self._rounds += 1
            self._notifier.status(f"round {report.round} of run {report.run_id} is done, waiting for an order")

    def _bench(self, bundle_id: str) -> Workbench:
        if self._device.bench is not None and self._device.bench.bundle.bundle_id == bundle_id:
            return self._device.bench
        twin = self._device.accelerator.available
        bundle = self._device.shelf.find(bundle_id, twin=twin)
        if bundle is None:
            log().info("fetching bundle %s", bundle_id[:19])
            bundle = self._device.shelf.fetch(
                bundle_id, lambda folder: self._link.fetch_bundle(bundle_id, folder, twin=twin)
            )
        return self._device.take_up(bundle)

    def _decline(self, order: TrainOrder, error: EdgejouleError) -> None:
        log().error("round %d cannot be done: %s", order.round, error)
        self._link.leave(self._settings.device_id, self._device.session, (), f"cannot do the order: {error}")
        self._joined = False
        self._pause(max(self._check_in_s, 1.0))

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
