"""Joules in the metrics of a ClientApp.

    @app.train()
    @meter("estimate:pi4")
    def train(msg, context): ...

The reply's metrics get ``edgejoule-energy-j``, ``edgejoule-uncertainty-j`` (half width of the 95 % interval) and
``edgejoule-seconds``: of the **whole board**, from the call to the reply. What is not known is NaN, never 0: Flower's
metrics are numbers. Clients that share a machine, as in a simulation, each have the joules of what the sensor says of
the machine, or of their own process for ``estimate``: do not add those of a sensor up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from edge_runtime.api import Meter
from protos.errors import UsageError

ENERGY_J, UNCERTAINTY_J, SECONDS = "edgejoule-energy-j", "edgejoule-uncertainty-j", "edgejoule-seconds"
BUDGET_J = "edgejoule-budget-j"
_SUMMED = (ENERGY_J, UNCERTAINTY_J)
# Of a node's configuration (`flower-supernode --node-config`).
SENSOR_KEY = "edgejoule-sensor"

Work = Callable[[Message, Context], Message]


def meter(sensor: str | None = None) -> Callable[[Work], Work]:
    """A decorator for a function of a ClientApp, under Flower's own.

    Args:
        sensor: as of ``edge-runtime --sensor``; None: the node's configuration says it, ``edgejoule-sensor``.

    Raises:
        UsageError: when the function is called, and neither says it.
        SensorError: then, and the sensor does not answer.
    """

    def decorate(work: Work) -> Work:
        @functools.wraps(work)
        def metered(msg: Message, context: Context) -> Message:
            spec = sensor or context.node_config.get(SENSOR_KEY)
            if not spec:
                raise UsageError(
                    "no sensor is named", where="meter", fix=f'give meter("serial:..."), or {SENSOR_KEY} of the node'
                )
            with Meter(str(spec)) as opened, opened.window("flower") as window:
                reply = work(msg, context)
            if reply.has_error():
                return reply
            metrics = next(iter(reply.content.metric_records.values()), None)
            if metrics is None:
                raise UsageError("the reply has no MetricRecord", where="meter", fix="put num-examples into one")
            metrics[ENERGY_J] = math.nan if window.energy_j is None else window.energy_j
            metrics[UNCERTAINTY_J] = math.nan if window.uncertainty_j is None else window.uncertainty_j
            metrics[SECONDS] = window.duration_s
            return reply

        return metered

    return decorate


def total_joules(records: Sequence[RecordDict], weighted_by: str) -> MetricRecord:
    """For ``train_metrics_aggr_fn`` of a strategy: joules are added up, and so are their half widths, since errors of
    one kind of sensor go together; everything else is the mean by weight, as Flower has it."""
    rows = [dict(next(iter(record.metric_records.values()))) for record in records]
    if sum(float(row[weighted_by]) for row in rows):
        made = aggregate_metricrecords(list(records), weighted_by)
    else:
        made = MetricRecord({key: math.nan for key in rows[0] if key != weighted_by})
    for key in _SUMMED:
        if key in rows[0]:
            made[key] = math.fsum(float(row[key]) for row in rows)
    return made
