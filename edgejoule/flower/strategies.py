"""Strategies that know joules: weights by budget, and who is asked by what it has, without a bias.

Both decode what :func:`edgejoule.flower.codec.coded` coded, and add joules up (:func:`total_joules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import sample_nodes

from coordinator.budgets.unbiased import Totals, Whole, rescaled
from coordinator.budgets.weights import Standing, weight
from edgejoule.flower.codec import Decoding
from edgejoule.flower.metering import BUDGET_J, ENERGY_J, total_joules
from protos.errors import UsageError
from protos.update.codecs import generator

WEIGHT = "edgejoule-weight"
EXAMPLES = "num-examples"
_INFO, _WARNING = 20, 30


class EnergyWeighted(Decoding, FedAvg):  # type: ignore[misc]
    """The mean of what nodes send, weighted by a product of factors: examples, and the joules that they may spend.

    Args:
        factors: names of docs/plans.md (``aggregate.weight``), or of installed packages. ``by_budget`` reads the metric
            ``edgejoule-budget-j`` of a reply; a node without it, or with NaN, has no limit and counts as the best
            endowed of the round.
        more: of FedAvg.
    """

    def __init__(self, factors: Sequence[str] = ("by_examples", "by_budget"), **more: Any) -> None:
        more.setdefault("train_metrics_aggr_fn", total_joules)
        super().__init__(**more)
        self._factors = tuple(factors)
        # A name that is wrong is told before a round is spent on it.
        weight(self._factors, Standing(1, 1.0, 1.0))

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Write each reply's weight beside its metrics, and let FedAvg take it."""
        valid, _ = self._check_and_log_replies(self.decoded(replies), is_train=True)
        contents = [one.content for one in valid]
        if not contents:
            return None, None
        budgets = [_budget(_metrics(content)) for content in contents]
        largest = max((budget for budget in budgets if budget is not None), default=None)
        weights = [
            weight(self._factors, Standing(int(_metrics(content)[self.weighted_by_key]), budget, largest))
            for content, budget in zip(contents, budgets, strict=True)
        ]
        if not sum(weights) > 0:
            log(_WARNING, "round %d: no reply has a weight; the model stays", server_round)
            return None, self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return _mean(contents, weights), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


class Unbiased(Decoding, FedAvg):  # type: ignore[misc]
    """Each node is asked by chance, so often that its joules a round keep to a limit; the mean is still that of all.

    Node i is asked in a round with probability ``p_i = min(1, per_round_j / c_i)``, where ``c_i`` is the mean of the
    joules that its rounds cost it so far (``@meter``), rounds of unknown joules left out, independently of the others;
    a node of which nothing is known is asked. With w its weight (examples), x the model and D_i the change that it
    sends, the model becomes

        x + (sum over those who came of (w_i / p_i) D_i) / (sum over all nodes of w_i)

    whose expectation is the weighted mean of all changes (Horvitz and Thompson, 1952). Weights and costs are those of a
    node's last replies. A node that was asked and did not answer is missing from the sum: failures that have to do with
    what a node knows are a bias, as everywhere. A round in which chance asks nobody leaves the model as it is.

    Args:
        per_round_j: joules a round, on average, of each node; > 0.
        chance: in place of that: node id to probability in (0, 1].
        seed: of who is asked.
        more: of FedAvg; ``fraction_train`` is not looked at.
    """

    def __init__(
        self,
        per_round_j: float | None = None,
        *,
        chance: Callable[[int], float] | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        if (per_round_j is None) == (chance is None):
            raise UsageError("give per_round_j or chance, and one of them alone", where="Unbiased")
        if per_round_j is not None and not 0 < per_round_j < math.inf:
            raise UsageError(f"{per_round_j!r} is no number of joules", where="per_round_j", fix="give more than 0")
        more.setdefault("train_metrics_aggr_fn", total_joules)
        super().__init__(**more)
        self._per_round_j, self._chance, self._seed = per_round_j, chance, seed
        self._weights: dict[int, float] = {}
        self._costs: dict[int, list[float]] = {}
        self._asked: dict[int, float] = {}
        self._nodes: list[int] = []

    def probability(self, node_id: int) -> float:
        """With which a node is asked in the next round.

        Raises:
            UsageError: ``chance`` gives what is no probability, or 0: such a node could never be made up for.
        """
        if node_id not in self._weights:
            return 1.0
        if self._chance is not None:
            given = float(self._chance(node_id))
            if not 0 < given <= 1:
                raise UsageError(f"{given!r} for node {node_id} is not in (0, 1]", where="chance")
            return given
        assert self._per_round_j is not None
        costs = self._costs.get(node_id)
        if not costs:
            return 1.0
        return min(1.0, self._per_round_j * len(costs) / max(sum(costs), 1e-12))

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        """Draw who is asked."""
        # As Flower does: waits until so many are there.
        _, there = sample_nodes(grid, self.min_available_nodes, self.min_available_nodes)
        self._nodes = sorted(there)
        chances = {node: self.probability(node) for node in self._nodes}
        self._asked = {
            node: chance
            for node, chance in chances.items()
            if generator(self._seed, "asked", node, server_round).random() < chance
        }
        log(_INFO, "configure_train: asks %d of %d nodes", len(self._asked), len(self._nodes))
        config["server-round"] = server_round
        self._sent = {str(name): array.numpy() for name, array in arrays.items()}
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [Message(record, dst_node_id=node, message_type=MessageType.TRAIN) for node in self._asked]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Learn weights and costs, and move the model."""
        valid, _ = self._check_and_log_replies(self.decoded(replies), is_train=True)
        if not valid:
            return None, None
        weights = []
        for reply in valid:
            node, metrics = int(reply.metadata.src_node_id), _metrics(reply.content)
            self._weights[node] = float(metrics[self.weighted_by_key])
            # A round without joules, such as one with the sensor away, says nothing of what rounds cost.
            if math.isfinite(cost_j := float(metrics.get(ENERGY_J, math.nan))):
                self._costs.setdefault(node, []).append(cost_j)
            weights.append(self._weights[node] / self._asked[node])
        contents = [one.content for one in valid]
        told = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        whole = sum(self._weights.get(node, 0.0) for node in self._nodes)
        if not sum(weights) > 0:
            log(_WARNING, "round %d: no reply has a weight; the model stays", server_round)
            return None, told
        share, _ = rescaled("none", Totals(weight=sum(weights)), Whole(whole, whole))
        mean = _mean(contents, weights)
        moved = {
            name: base if base.dtype.kind != "f" else (base + share * (mean[name].numpy() - base)).astype(base.dtype)
            for name, base in self._sent.items()
        }
        return ArrayRecord({name: Array(np.asarray(one)) for name, one in moved.items()}), told


def _metrics(content: RecordDict) -> MetricRecord:
    return next(iter(content.metric_records.values()))


def _budget(metrics: MetricRecord) -> float | None:
    found = float(metrics.get(BUDGET_J, math.nan))
    return found if math.isfinite(found) else None


def _mean(contents: Sequence[RecordDict], weights: Sequence[float]) -> ArrayRecord:
    """The weighted mean of the arrays, summed in float64 in the order of the replies, in the arrays' own types."""
    whole = math.fsum(weights)
    records = [next(iter(content.array_records.values())) for content in contents]
    made = {}
    for name, first in records[0].items():
        kind = first.numpy().dtype
        total = sum(
            value * record[name].numpy().astype(np.float64) for value, record in zip(weights, records, strict=True)
        )  # fmt: skip
        made[name] = Array(np.asarray(total / whole).astype(kind))
    return ArrayRecord(made)
