"""The operator's end of the conversation: values in, values out, and the coordinator's errors as they were raised."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from coordinator.operator import messages
from coordinator.operator.credentials import Credentials
from coordinator.operator.failures import error_of
from coordinator.operator.status import (
    DeviceBudget,
    DeviceStatus,
    ExportSummary,
    ForgottenDevice,
    HeadEvaluation,
    RoundStatus,
    RunDetails,
    RunStatus,
)
from coordinator.operator.unpacking import unpacked
from coordinator.operator.upgrades import UpgradeStatus, UpgradeWanted, header_to, upgrade_from, upgrades_from
from coordinator.operator.watts import WattsCall
from protos.atomic import write_whole
from protos.errors import EdgejouleError, IntegrityError, StoreError, UsageError
from protos.orders import PART_BYTES
from protos.trust.names import SERVER_NAME
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

DEFAULT_ADDRESS = "127.0.0.1:50461"
CALL_S = 30.0
# Devices' rows in one answer: some tens of milliseconds of a coordinator.
PAGE = 1000
# Devices with their cards or ledgers.
DEVICES_PAGE = 500
# Of any run: nothing comes after it.
LAST_ROUND = 2**31 - 1
# Data sets are read, and models assembled, while these wait.
LONG_CALL_S = 1800.0
MAX_RECEIVE_BYTES = 256 << 20
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


class Operator:
    """A connection to the coordinator at ``address``, HOST:PORT. Nothing is sent before the first call.

    With ``credentials`` it is TLS, and both ends show certificates; without, only loopback makes sense.

    Every method raises UnreachableError when no coordinator answers, and otherwise whatever EdgejouleError the
    coordinator raised.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, credentials: Credentials | None = None) -> None:
        self.address = address
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        else:
            secure = grpc.ssl_channel_credentials(
                credentials.root_pem.encode(), credentials.key_pem.encode(), credentials.chain_pem.encode()
            )
            # Whose certificate it must be, whatever address it is reached at today.
            named = ("grpc.ssl_target_name_override", SERVER_NAME)
            self._channel = grpc.secure_channel(address, secure, options=[*_OPTIONS, named])
        self._stub: Any = rpc.OperatorServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def start_run(self, plan_toml: str, directory: Path) -> str:
        """Start a run; paths in the plan are relative to ``directory`` on the coordinator. Returns the run's id."""
        request = pb.StartRunRequest(plan_toml=plan_toml, plan_directory=str(directory.resolve()))
        with self._translated():
            return str(self._stub.StartRun(request, timeout=LONG_CALL_S).run_id)

    def stop_run(self, run: str) -> str:
        """End a run named by id, beginning of an id, or name; returns its state."""
        with self._translated():
            return str(self._stub.StopRun(pb.StopRunRequest(run_id=run), timeout=LONG_CALL_S).state)

    def pause_run(self, run: str, *, after_round: bool = False) -> str:
        """Let a run rest, at once or when its round has closed; returns its state."""
        request = pb.PauseRunRequest(run_id=run, after_round=after_round)
        with self._translated():
            return str(self._stub.PauseRun(request, timeout=LONG_CALL_S).state)

    def resume_run(self, run: str, plan_toml: str = "", directory: Path | None = None) -> str:
        """Let a run that rests go on, by another plan if one is given; returns its state."""
        base = "" if directory is None else str(directory.resolve())
        request = pb.ResumeRunRequest(run_id=run, plan_toml=plan_toml, plan_directory=base)
        with self._translated():
            return str(self._stub.ResumeRun(request, timeout=LONG_CALL_S).state)

    def status(self, run: str = "", since_round: int = 0) -> list[RunStatus]:
        """One run with its rounds from ``since_round`` on, which come in pages, however many there are; or all runs,
        with every round and device."""
        if not run:
            return self._page(run, since_round)[0]
        rounds: dict[int, RoundStatus] = {}
        for first in self.pages(run, since_round):
            rounds |= {this_round.round: this_round for this_round in first.rounds}
        return [replace(first, rounds=tuple(rounds[number] for number in sorted(rounds)))]

    def pages(self, run: str, since_round: int = 0) -> Iterator[RunStatus]:
        """One run again and again, each time with its next rounds: what is held of a long one is never more than
        about :data:`PAGE` devices' rows. The last one is the newest."""
        begun: RoundStatus | None = None
        after, say = "", 0.0
        while True:
            (found,), since_round, after, say = self._page(run, since_round, after, say)
            shown = list(found.rounds)
            if begun is not None and shown and shown[0].round == begun.round:
                shown[0] = replace(shown[0], devices=(*begun.devices, *shown[0].devices))
            elif begun is not None:
                shown.insert(0, begun)
            # A round that goes on in the next page is shown when all of it is there.
            begun = shown.pop() if since_round and after and shown else None
            if shown or not since_round:
                yield replace(found, rounds=tuple(shown))
            if not since_round:
                return
            # By its id: a name may mean another run by now.
            run = found.run_id

    def details(self, run: str) -> RunDetails:
        """The plan of a run, and what happened to it. An older coordinator tells neither."""
        request = pb.GetStatusRequest(run_id=run, since_round=LAST_ROUND, details=True)
        with self._translated():
            return messages.details_from(self._stub.GetStatus(request, timeout=CALL_S))

    def _page(
        self, run: str, since_round: int, after: str = "", say: float = 0.0
    ) -> tuple[list[RunStatus], int, str, float]:
        """The next rounds, where the next page begins, and behind which device of that round: of a round with more
        devices than a page has, a coordinator that knows of parts sends some."""
        request = pb.GetStatusRequest(
            run_id=run,
            since_round=since_round,
            page=PAGE if run else 0,
            parts=bool(run),
            after=after,
            say=say if after else None,
        )
        with self._translated():
            answer = self._stub.GetStatus(request, timeout=CALL_S)
        return messages.runs_from(answer), answer.next_round, answer.next_after, answer.next_say

    def runs(self) -> list[RunStatus]:
        """Every run, with its newest closed round alone and none of the devices."""
        with self._translated():
            return messages.runs_from(self._stub.GetStatus(pb.GetStatusRequest(newest_only=True), timeout=CALL_S))

    def report_counts(self) -> dict[str, int]:
        """What became of reports since the coordinator started: reason to count. An older coordinator says nothing."""
        with self._translated():
            answer = self._stub.GetStatus(pb.GetStatusRequest(newest_only=True), timeout=CALL_S)
        return dict(sorted(answer.reports.items()))

    def devices(self) -> list[DeviceStatus]:
        """Every device that ever joined."""
        found: list[DeviceStatus] = []
        while True:
            request = pb.ListDevicesRequest(after=found[-1].device_id if found else "", page=DEVICES_PAGE)
            with self._translated():
                answer = self._stub.ListDevices(request, timeout=CALL_S)
            found += messages.devices_from(answer)
            # A coordinator that knows of no pages has told all.
            if not answer.more:
                return found

    def budgets(self, run: str) -> list[DeviceBudget]:
        """What each device of a run was granted, spent, and may have spent."""
        found: list[DeviceBudget] = []
        while True:
            request = pb.GetBudgetsRequest(run_id=run, after=found[-1].device_id if found else "", page=DEVICES_PAGE)
            with self._translated():
                answer = self._stub.GetBudgets(request, timeout=CALL_S)
            found += messages.budgets_from(answer)
            if not answer.more:
                return found
            # By its id: a name may mean another run by now.
            run = answer.run_id

    def watch_watts(self, device_id: str) -> WattsCall:
        """The power of a device as it is, for as long as what this gives is not ended."""
        return WattsCall(self._stub.WatchWatts(pb.WatchWattsRequest(device_id=device_id)), self.address)

    def forget_device(self, device_id: str) -> None:
        """Take a device that is gone off the list; what it did in runs stays."""
        with self._translated():
            self._stub.ForgetDevice(pb.ForgetDeviceRequest(device_id=device_id), timeout=CALL_S)

    def forget(self, run: str, device_id: str) -> ForgottenDevice:
        """Subtract a device's statistics from a run that is over, delete them, and publish the head without them."""
        request = pb.UnlearnDeviceRequest(run_id=run, device_id=device_id)
        with self._translated():
            return messages.forgotten_from(self._stub.UnlearnDevice(request, timeout=LONG_CALL_S))

    def evaluate(self, run: str, bits: Iterable[int], head_version: str = "") -> HeadEvaluation:
        """How good a head of a run is on its held-out data with kernels on so many bits; the best one by default."""
        request = pb.EvaluateRunRequest(run_id=run, head_version=head_version, bits=bits)
        with self._translated():
            return messages.evaluation_from(self._stub.EvaluateRun(request, timeout=LONG_CALL_S))

    def export(
        self, run: str, out: Path, head_version: str = "", *, max_drop: float | None = None, head_alone: bool = False
    ) -> ExportSummary:
        """Write the integer model of a run, whole or not at all.

        Args:
            run: id, beginning of one, or name.
            out: the file.
            head_version: of an earlier round; empty for the newest.
            max_drop: accuracy that it may lose against the float head, 0..1; None for the coordinator's own limit.
            head_alone: the tensors of the head as an .npz, and no model.

        Raises:
            IntegrityError: it arrived damaged.
            StoreError: it cannot be written.
        """
        request = pb.ExportRunRequest(run_id=run, head_version=head_version, max_drop=max_drop, head_alone=head_alone)
        try:
            with self._translated(), write_whole(out) as file:
                summary = self._exported(request, file, str(out))
                if head_alone and not summary.note.startswith("tensors"):
                    raise UsageError("the coordinator is too old to give heads", where=self.address, fix="upgrade it")
        except EdgejouleError:
            raise  # some of ours are OSErrors as well
        except OSError as error:
            what = f"cannot be written ({error.strerror or error})"
            raise StoreError(what, where=str(out), fix="choose another path") from error
        return summary

    def export_bundle(self, run: str, out: Path, head_version: str = "", *, again: bool = False) -> ExportSummary:
        """Write the bundle of a run with a head of it as the one that it starts from, a folder, whole or not at all.

        Args:
            run, head_version: as for :meth:`export`.
            out: the folder.
            again: replace a bundle that is there.

        Raises:
            IntegrityError: it arrived damaged.
            UsageError: something is there already, or the coordinator is too old.
            StoreError: it cannot be written.
        """
        request = pb.ExportRunRequest(run_id=run, head_version=head_version, bundle=True)
        content = io.BytesIO()
        with self._translated():
            summary = self._exported(request, content, str(out))
        if not summary.note.startswith("a bundle"):
            raise UsageError("the coordinator is too old to give bundles", where=self.address, fix="upgrade it")
        unpacked(content.getvalue(), out, again=again)
        return summary

    def _exported(self, request: pb.ExportRunRequest, file: IO[bytes], where: str) -> ExportSummary:
        summary: ExportSummary | None = None
        digest, size = hashlib.sha256(), 0
        for part in self._stub.ExportRun(request, timeout=LONG_CALL_S):
            if part.WhichOneof("part") == "summary":
                summary = messages.summary_from(part.summary)
                continue
            digest.update(part.data)
            size += len(part.data)
            file.write(part.data)
        if summary is None or size != summary.size_bytes or digest.digest() != summary.sha256:
            raise IntegrityError("what was exported arrived damaged", where=where, fix="export it again")
        return summary

    def start_upgrade(self, wanted: UpgradeWanted, data: bytes) -> UpgradeStatus:
        """Begin an upgrade of the devices' service by a signed wheel."""

        def parts() -> Iterator[pb.StartUpgradeRequest]:
            yield pb.StartUpgradeRequest(header=header_to(wanted))
            for start in range(0, len(data), PART_BYTES):
                yield pb.StartUpgradeRequest(data=data[start : start + PART_BYTES])

        with self._translated():
            return upgrade_from(self._stub.StartUpgrade(parts(), timeout=LONG_CALL_S).upgrade)

    def stop_upgrade(self, upgrade_id: str = "") -> UpgradeStatus:
        """Offer an upgrade to nobody else: the one called so, or the one that is on."""
        request = pb.StopUpgradeRequest(upgrade_id=upgrade_id)
        with self._translated():
            return upgrade_from(self._stub.StopUpgrade(request, timeout=CALL_S).upgrade)

    def upgrade(self, upgrade_id: str = "") -> UpgradeStatus:
        """An upgrade with its devices: the one called so, or the newest."""
        request = pb.ListUpgradesRequest(upgrade_id=upgrade_id)
        with self._translated():
            return upgrades_from(self._stub.ListUpgrades(request, timeout=CALL_S))[0]

    def upgrades(self) -> list[UpgradeStatus]:
        """Every upgrade without its devices, the newest first."""
        with self._translated():
            return upgrades_from(self._stub.ListUpgrades(pb.ListUpgradesRequest(all=True), timeout=CALL_S))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error
