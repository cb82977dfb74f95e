"""Twenty simulated devices: unlike boards, links, budgets and shares of real data; their time is virtual.

What is simulated is the energy: each device has true prices, drawn once, and every phase of a round costs them with
noise and now and then an outlier. All else is the project's own: the objective of the head (softmax cross-entropy with
weight decay, here in numpy), codecs, allowance, folding, downlink. Embeddings are cached: they are paid for once, and
the same by every policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.inputs import reference_data
from coordinator.budgets.cost_model import Prices, Work
from edge_runtime.round.allowance import Allowance
from edge_runtime.round.costs import CostHistory, Reserve
from edge_runtime.round.training import batches
from protos.convert.tensors import tensors_to
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import DataError
from protos.model.head_algebra import standardisation_of
from protos.orders import CostHint, StopReason
from protos.update import codecs
from protos.update.trees import Tree, shapes, subtract

DEVICES = 20
BATCH = 32
WEIGHT_DECAY = 0.01
# Watts at work of the board table, seconds of a step of a head of 1024 x 5 in batches of 32: assumptions of the right
# size; they are the same truth for every policy.
_BOARDS = {"pi-zero-2": (1.25, 0.010), "pi4": (5.3, 0.004), "pi5": (4.6, 0.002), "coral-dev": (3.9, 0.006)}
# Joules a byte up and down, and joules of waking the link. LTE at 1 Mbit/s: Huang et al., "A close examination of
# performance and power characteristics of 4G LTE networks", MobiSys 2012 (1.29 W, and 438 and 52 mW a Mbit/s). The
# others are assumptions.
_LINKS = {
    "ethernet": (1e-7, 1e-7, 0.02),
    "wifi": (6e-7, 4e-7, 0.05),
    "lte": (1.4e-5, 1.1e-5, 12.6),
    "cat-m": (1e-4, 6e-5, 1.0),
}
_NOISE, _OUTLIERS = 0.05, 0.02


@dataclass(frozen=True)
class Data:
    """Standardised features float32 [N, D], labels int32 [N]; the rows of each device; what is held out.

    Attributes:
        raw: whole numbers [N, D] that the features are made of: x = ((raw - offset) unit - mean) scale.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    shards: list[np.ndarray]
    test_x: np.ndarray
    test_y: np.ndarray
    raw: np.ndarray
    offset: int
    unit: float
    mean: np.ndarray
    scale: np.ndarray

    @property
    def classes(self) -> int:
        return int(max(self.y.max(), self.test_y.max())) + 1

    def start(self) -> Tree:
        """The head before training."""
        kernel = np.zeros((self.x.shape[1], self.classes), np.float32)
        return {"out_bias": np.zeros(self.classes, np.float32), "out_kernel": kernel}

    def accuracy(self, head: Tree) -> float:
        """Of a head on what is held out."""
        scores = self.test_x @ head["out_kernel"] + head["out_bias"]
        return float((scores.argmax(axis=1) == self.test_y).mean())


def load(seed: int, name: str = "") -> Data:
    """The data set of this name, or flowers where it is there, else digits. Each class is dealt out by a Dirichlet draw
    of concentration 0.5, so that devices have unlike labels and unlike amounts.

    flowers: 3,670 photos as integer embeddings (1,024 numbers) of a Coral extractor, 736 of them held out. digits:
    scikit-learn's, 64 pixels of 0 to 16 each.

    Raises:
        DataError: flowers were asked for, and are not there.
    """
    offset, unit = 0, 1.0
    try:
        if name == "digits":
            raise DataError("not asked for")
        with np.load(
            reference_data.root() / "flowers_embeddings" / "flowers_mobilenet_v1_emb.npz", allow_pickle=False
        ) as stored:
            raw, y = stored["emb"], stored["y"].astype(np.int32)
            unit = float(stored["scale"])
            held_out = stored["split"] == "val"
        name = "flowers"
    except (DataError, OSError):
        if name == "flowers":
            raise
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        bunch = load_digits()
        raw, y = bunch.data.astype(np.uint8), bunch.target.astype(np.int32)
        held_out = np.random.default_rng(0).random(len(y)) < 0.3
        name = "digits"
    x = raw.astype(np.float32) * unit
    mean, scale = standardisation_of(x[~held_out][:500])
    x = (x - mean) * scale
    random = np.random.default_rng([seed, 1])
    train_y = y[~held_out]
    parts: list[list[np.ndarray]] = [[] for _ in range(DEVICES)]
    for label in range(int(y.max()) + 1):
        rows = random.permutation(np.flatnonzero(train_y == label))
        ends = (np.cumsum(random.dirichlet([0.5] * DEVICES)) * len(rows)).astype(int)[:-1]
        for part, some in zip(parts, np.split(rows, ends), strict=True):
            part.append(some)
    shards = [np.concatenate(part) for part in parts]
    largest = int(np.argmax([len(shard) for shard in shards]))
    for at, shard in enumerate(shards):
        if not len(shard):
            shards[at], shards[largest] = shards[largest][:4], shards[largest][4:]
    return Data(
        name, x[~held_out], train_y, shards, x[held_out], y[held_out], raw[~held_out], offset, unit, mean, scale
    )


@dataclass
class Spent:
    """What a device did in one round; ``joules`` is everything, ``metered`` all but idling."""

    update: tuple
    steps: int
    stop_reason: StopReason
    bytes_up: int
    metered: float
    joules: float
    energy: tuple[PhaseEnergy, ...]
    loss: float
    first_loss: float


@dataclass
class Device:
    """One device with its truth."""

    device_id: str
    board: str
    link: str
    x: np.ndarray
    y: np.ndarray
    truth: Prices
    work_w: float
    budget_j: float
    random: np.random.Generator
    reserve: Reserve = field(default_factory=Reserve)
    spent_j: float = 0.0
    held: str = ""

    @property
    def examples(self) -> int:
        return len(self.y)

    @property
    def left_j(self) -> float:
        return max(0.0, self.budget_j - self.spent_j)

    def _noisy(self, energy_j: float) -> float:
        factor = 1.0 + _NOISE * float(self.random.standard_normal())
        return energy_j * max(0.2, factor) * (2.0 if self.random.random() < _OUTLIERS else 1.0)

    def priced(self, energy_j: float) -> float:
        """What this much costs on one occasion."""
        return self._noisy(energy_j)

    def price(self, work: Work) -> float:
        """Joules of a round without noise, idling left out."""
        truth = self.truth
        sending_j = truth.encode_j + truth.send_fixed_j + truth.up_j * work.bytes_up
        return truth.train_fixed_j + truth.step_j * work.steps + sending_j

    def work(
        self,
        head: Tree,
        *,
        steps: int,
        rate: float,
        codec: codecs.Codec,
        seed: int,
        budget_j: float | None,
        bytes_down: int,
        hint: CostHint | None = None,
        proximal_mu: float = 0.0,
        code_weights: bool = False,
        gate: Callable[[float], bool] = lambda loss: True,
    ) -> Spent:
        """Train from ``head`` and code the change; the device's own allowance stops it in time. ``gate`` says, by the
        loss that training ends with, whether the change is sent at all."""
        limit_j = min(self.left_j, self.left_j if budget_j is None else budget_j)
        self.reserve.told(hint)
        charged = self._noisy(self.truth.train_fixed_j)
        clock = [0.0]
        allowance = Allowance(
            budget_j=limit_j, deadline_s=1e9, reserve=self.reserve, spent_j=lambda: charged,
            now_s=lambda: clock[0], stopping=lambda: False,
        )  # fmt: skip
        kernel, bias = head["out_kernel"].copy(), head["out_bias"].copy()
        losses: list[float] = []
        reason = StopReason.COMPLETED
        step_j = self._noisy(self.truth.step_j)
        order = batches(self.examples, BATCH, codecs.generator(seed, "batches", self.device_id))
        while len(losses) < steps:
            refused = allowance.step()
            if refused is not None:
                reason = refused
                break
            rows = next(order)
            losses.append(_step(kernel, bias, head, self.x[rows], self.y[rows], rate, proximal_mu))
            charged += step_j
            clock[0] += step_j / self.work_w
        train_j = charged
        trained = {"out_bias": bias, "out_kernel": kernel}
        sent = trained if code_weights else subtract(trained, head)
        # A device that keeps its change to itself codes nothing and says so in a few bytes.
        update: tuple = ()
        bytes_up, encode_j = 64, 0.0
        uploads = bool(losses) and gate(losses[-1])
        if uploads:
            random = codecs.generator(seed, "encode", self.device_id)
            update, _ = codec.encode(sent, codec.init(shapes(sent)), random)
            bytes_up = 150 + _weight(update)
            encode_j = self._noisy(self.truth.encode_j)
        send_j = self._noisy(self.truth.send_fixed_j + self.truth.up_j * bytes_up)
        metered = train_j + encode_j + send_j
        idle_s = 2.0
        idle_j = self._noisy(self.truth.idle_w * idle_s + self.truth.down_j * bytes_down)
        energy = (
            _record(Phase.TRAIN, train_j, train_j / self.work_w),
            _record(Phase.ENCODE, encode_j, encode_j / self.work_w),
            _record(Phase.SEND, send_j, send_j / self.work_w),
            _record(Phase.IDLE, idle_j, idle_s),
        )
        self.reserve.worked(energy, 0, len(losses), 0.0)
        self.reserve.sent(send_j, 0.0)
        self.spent_j += metered
        return Spent(
            update, len(losses), reason, bytes_up, metered, metered + self.truth.down_j * bytes_down, energy,
            losses[-1] if losses else float("inf"), losses[0] if losses else float("inf"),
        )  # fmt: skip


def _weight(update: tuple) -> int:
    return sum(tensor.ByteSize() for tensor in tensors_to(update))


def _record(phase: Phase, energy_j: float, seconds: float) -> PhaseEnergy:
    return PhaseEnergy(phase, energy_j, seconds, 0.0, "measured", "simulated", None)


def _step(
    kernel: np.ndarray, bias: np.ndarray, start: Tree, x: np.ndarray, y: np.ndarray, rate: float, proximal_mu: float
) -> float:
    """One step of gradient descent in place; returns the loss before it."""
    scores = x @ kernel + bias
    scores -= scores.max(axis=1, keepdims=True)
    share = np.exp(scores)
    share /= share.sum(axis=1, keepdims=True)
    loss = float(-np.log(np.maximum(share[np.arange(len(y)), y], 1e-12)).mean())
    share[np.arange(len(y)), y] -= 1.0
    share /= len(y)
    pull, pull_bias = (kernel - start["out_kernel"], bias - start["out_bias"]) if proximal_mu else (0.0, 0.0)
    kernel -= rate * (x.T @ share + WEIGHT_DECAY * kernel + proximal_mu * pull)
    bias -= rate * (share.sum(axis=0) + proximal_mu * pull_bias)
    return loss


def make_fleet(data: Data, seed: int, *, rounds: int = 60, epochs: int = 2, radio: str = "mixed") -> list[Device]:
    """Devices on their shards. A budget is a tenth to all of what ``rounds`` plain rounds would cost the device.

    Args:
        radio: a link of the table for all, or "mixed", all of them in turn.
    """
    random = np.random.default_rng([seed, 2])
    boards, links = list(_BOARDS), list(_LINKS) if radio == "mixed" else [radio]
    made = []
    for at, rows in enumerate(data.shards):
        board, link = boards[at % len(boards)], links[(at // len(boards)) % len(links)]
        work_w, step_s = _BOARDS[board]
        up_j, down_j, wake_j = (value * _spread(random) for value in _LINKS[link])
        truth = Prices(
            embed_fixed_j=0.05, embedding_j=0.02,
            train_fixed_j=work_w * 0.005 * _spread(random), step_j=work_w * step_s * _spread(random),
            encode_j=work_w * 0.01 * _spread(random), send_fixed_j=wake_j + work_w * 0.02,
            up_j=up_j, idle_w=work_w / 2, down_j=down_j,
        )  # fmt: skip
        x, y = data.x[rows], data.y[rows]
        device = Device(f"device-{at:02d}", board, link, x, y, truth, work_w, 0.0, np.random.default_rng([seed, 3, at]))
        device.reserve = Reserve(CostHistory(None), "bundle")
        made.append(device)
    coordinates = data.x.shape[1] * data.classes + data.classes
    for each_device in made:
        work = Work(0, epochs * -(-each_device.examples // BATCH), 4 * coordinates, 4 * coordinates)
        each_device.budget_j = rounds * each_device.price(work) * float(np.exp(random.uniform(np.log(0.1), 0.0)))
    return made


def _spread(random: np.random.Generator) -> float:
    return float(np.exp(0.3 * random.standard_normal()))


def fresh(devices: list[Device], seed: int) -> list[Device]:
    """The same devices before any round, with the same truth and noise for each policy."""
    return [
        dataclasses.replace(
            device, random=np.random.default_rng([seed, 3, at]), reserve=Reserve(CostHistory(None), "bundle"),
            spent_j=0.0, held="",
        )
        for at, device in enumerate(devices)
    ]  # fmt: skip
