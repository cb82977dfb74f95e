"""Getting a report to the coordinator, and what that cost.

Rules kept here:

* A report is stored before it is sent, and sent until it is answered. Only a stop request ends the trying; the
  report then waits in the outbox for the next start. When it cannot be stored, it is sent from memory.
* A refusal is an answer: the report is set aside, and the next order is asked for.
* Only the time of sending is in the phase SEND; waiting to try again is idle time.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter

from edge_runtime.daemon.backoff import Backoff
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.energy_sums import in_words, with_idle
from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.metrics_file import MetricsFile
from edge_runtime.daemon.outbox import Letter
from edge_runtime.daemon.stopping import Interrupted, Stopping
from edge_runtime.round.work import energy_of
from edge_runtime.systemd.journal import facts
from edge_runtime.systemd.logging_setup import log
from protos.commands.json_document import document
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import RefusedError, StoreError
from protos.orders import DeviceReport, Receipt, SettledEnergy, Verdict

# What of the time to stop is kept for the goodbye after the last report, and for giving everything back.
_GOODBYE_S = 1.0
_HURRIED_SETTLE_S = 0.2
# A report on which a coordinator fails this often is set aside.
_MOST_FAILURES = 8


class Delivery:
    """Sends the reports of one device.

    Args:
        rows: print one JSON object per round to stdout.
        metrics: is told of each round.
    """

    def __init__(
        self, device: Device, link: Link, stopping: Stopping, *, rows: bool, metrics: MetricsFile | None = None
    ) -> None:
        self._metrics = metrics or MetricsFile(None)
        self._device, self._link, self._stopping, self._rows = device, link, stopping, rows
        self._failures: Counter[tuple[str, int]] = Counter()
        self._told: set[tuple[str, int]] = set()

    def send_left_over(self) -> None:
        """Send every report that an earlier start, or an outage, left without an answer.

        Raises:
            Away, Interrupted: the rest is kept.
        """
        outbox, meter = self._device.outbox, self._device.meter
        for letter in outbox.pending():
            meter.mark(Phase.SEND)
            try:
                receipt = self._link.report(self._device.settings.device_id, letter.run_id, letter.round, letter.data)
            except Away as error:
                if not self._hopeless(letter, error):
                    raise
                self._device.memory.settle(letter.run_id, letter.round, accepted=False)
                outbox.set_aside(letter, "the coordinator fails on it")
                continue
            except RefusedError as error:
                self._device.memory.settle(letter.run_id, letter.round, accepted=False)
                outbox.set_aside(letter, str(error))
                continue
            finally:
                meter.mark(Phase.IDLE)
                energy = meter.settle(_HURRIED_SETTLE_S)
            outbox.add_sending(letter, energy)
            log().info("round %d: left over report %s", letter.round, in_short(receipt))
            self._answered(letter, receipt)

    def send(self, report: DeviceReport, bytes_down: int) -> Receipt | None:
        """Store a report, send it until it is answered, settle the energy of that, and say so in one line.

        Returns:
            The answer, or None when the daemon was asked to stop before there was one.
        """
        data = serialise_report(report, self._link.meter)
        meter, clock, outbox = self._device.meter, self._device.clock, self._device.outbox
        letter = self._stored(Letter(report.run_id, report.round, data, None, report.attempt), say=True)
        receipt: Receipt | None = None
        backoff, sent_s, tried_in_a_hurry = Backoff(), 0.0, False
        while receipt is None and not tried_in_a_hurry:
            tried_in_a_hurry = self._stopping.requested
            start_s = clock.monotonic()
            meter.mark(Phase.SEND)
            try:
                receipt = self._try(letter, hurry=tried_in_a_hurry)
            finally:
                meter.mark(Phase.IDLE)
                sent_s += clock.monotonic() - start_s
            if receipt is None and letter.path is None:
                letter = self._stored(letter, say=tried_in_a_hurry)
            if receipt is None and not tried_in_a_hurry:
                self._stopping.wait(backoff.next_s())
        after = meter.settle(_HURRIED_SETTLE_S if self._stopping.requested else 2.0)
        spent = with_idle(after, report.energy)
        outbox.add_settled(SettledEnergy(report.run_id, report.round, spent, report.attempt))
        if receipt is not None:
            self._answered(letter, receipt)
        self._device.reserve.sent(energy_of(after, Phase.SEND), sent_s)
        self._say(report, receipt, after, len(data), bytes_down)
        answer = "none" if receipt is None else receipt.verdict.name.lower()
        newer = {phase_energy.phase for phase_energy in spent}
        self._metrics.round(
            answer,
            [*(phase_energy for phase_energy in report.energy if phase_energy.phase not in newer), *spent],
            report.strain,
        )
        return receipt

    def _answered(self, letter: Letter, receipt: Receipt) -> None:
        """The codec's memory first: killed in between, the same bytes are sent again, and the answer is DUPLICATE."""
        counts = receipt.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)
        self._device.memory.settle(letter.run_id, letter.round, accepted=counts)
        self._device.outbox.answered(letter)

    def _stored(self, letter: Letter, *, say: bool) -> Letter:
        """The letter on disk, or as it is when it cannot be written."""
        try:
            return self._device.outbox.put(letter.run_id, letter.round, letter.data, letter.attempt)
        except StoreError as error:
            if say:
                log().warning("round %d: %s; the report is in memory only, until it is sent", letter.round, error)
            return letter

    def _try(self, letter: Letter, *, hurry: bool) -> Receipt | None:
        device_id = self._device.settings.device_id
        try:
            return self._link.report(
                device_id,
                letter.run_id,
                letter.round,
                letter.data,
                hurry_s=self._stopping.left_s(_GOODBYE_S) if hurry else None,
            )
        except Interrupted:
            return None
        except Away as error:
            if self._hopeless(letter, error):
                self._device.outbox.set_aside(letter, "the coordinator fails on it")
                return Receipt(Verdict.REJECTED, error.what)
            # Once per report at the level that people read, then only for those who look closely.
            key = (letter.run_id, letter.round)
            say = log().debug if key in self._told else log().warning
            say("round %d: %s %s; the report is kept and sent again", letter.round, error.where, error.what)
            self._told.add(key)
            return None
        except RefusedError as error:
            self._device.outbox.set_aside(letter, str(error))
            return Receipt(Verdict.REJECTED, error.what)

    def _hopeless(self, letter: Letter, error: Away) -> bool:
        """Whether a coordinator that is there has failed on these bytes so often that they would block all others."""
        key = (letter.run_id, letter.round)
        self._failures[key] += error.failed
        return self._failures[key] >= _MOST_FAILURES

    def _say(
        self,
        report: DeviceReport,
        receipt: Receipt | None,
        after: tuple[PhaseEnergy, ...],
        bytes_up: int,
        bytes_down: int,
    ) -> None:
        accepted = receipt is not None and receipt.verdict is Verdict.ACCEPTED
        log().info(
            "round %d: %d/%d steps (%s), %s, %d B up%s",
            report.round, report.steps_done, report.steps_planned, report.stop_reason,
            in_words([*report.energy, *after]), bytes_up, "" if accepted else f", {in_short(receipt)}",
        )  # fmt: skip
        records = (*report.energy, *with_idle(after, report.energy))
        for phase_energy in records:
            told = "unknown" if phase_energy.energy_j is None else f"{phase_energy.energy_j:.3f} J"
            more = facts(phase=phase_energy.phase, joules=phase_energy.energy_j, journal_only=True)
            log().info("round %d: %s %s", report.round, phase_energy.phase, told, extra=more)
        if not self._rows:
            return
        spent = [record.energy_j for record in records if record.phase is not Phase.IDLE]
        row = {
            "run_id": report.run_id, "run": report.run_id, "round": report.round, "steps_done": report.steps_done,
            "steps_planned": report.steps_planned, "stop_reason": report.stop_reason, "embedded": report.embedded,
            "examples": report.examples, "loss_first": report.loss_first, "loss_last": report.loss_last,
            "energy_j": None if None in spent else sum(value for value in spent if value is not None),
            "joules": {record.phase: record.energy_j for record in records},
            "bytes_up": bytes_up, "bytes_down": bytes_down, "verdict": receipt.verdict if receipt else None,
            "strain": dataclasses.asdict(report.strain) if report.strain else None,
        }  # fmt: skip
        print(json.dumps(document("round", row)), flush=True, file=sys.stdout)


def in_short(receipt: Receipt | None) -> str:
    """The answer to a report, in a few words."""
    if receipt is None:
        return "not sent yet"
    return f"{receipt.verdict} ({receipt.reason})" if receipt.reason else str(receipt.verdict)
