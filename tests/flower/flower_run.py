"""Run by a Python that has Flower: simulations and a strategy by itself; prints JSON. See test_flower.py."""

import contextlib
import itertools
import json
import sys
from typing import Any

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from flwr.supercore.task_identity import TaskIdentity

from edgejoule.flower.codec import CODED, Decoding, coded
from edgejoule.flower.metering import BUDGET_J, ENERGY_J, meter
from edgejoule.flower.packing import pack, unpack
from edgejoule.flower.strategies import EnergyWeighted, Unbiased
from protos.errors import EdgejouleError
from protos.update import codecs
from protos.update.tensors import decode

WIDTH, CLASSES, NODES, ROUNDS = 128, 4, 3, 3
CENTRES = np.random.default_rng(0).normal(0, 0.4, size=(CLASSES, WIDTH))


def examples(seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, 160)
    return (CENTRES[y] + random.normal(0, 1.0, (len(y), WIDTH))).astype(np.float32), y


def trained(kernel: Any, bias: Any, seed: int) -> tuple[Any, Any]:
    x, y = examples(seed)
    for _ in range(20):
        scores = x @ kernel + bias
        share = np.exp(scores - scores.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        share[np.arange(len(y)), y] -= 1.0
        kernel -= np.float32(0.3) * (x.T @ share / len(y)).astype(np.float32)
        bias -= np.float32(0.3) * share.mean(0).astype(np.float32)
    return kernel, bias


def client(*mods: Any) -> ClientApp:
    app = ClientApp(mods=list(mods))

    @app.train()
    @meter("estimate:pi4")
    def train(msg: Message, context: Context) -> Message:
        arrays = {name: array.numpy().copy() for name, array in msg.content["arrays"].items()}
        part = int(context.node_config["partition-id"])
        arrays["kernel"], arrays["bias"] = trained(arrays["kernel"], arrays["bias"], 10 + part)
        metrics = MetricRecord({"num-examples": 100 + part, BUDGET_J: 1.0 + part})
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    return app


def start() -> ArrayRecord:
    kernel, bias = np.zeros((WIDTH, CLASSES), np.float32), np.zeros(CLASSES, np.float32)
    # Integers travel as they are.
    return ArrayRecord({"kernel": Array(kernel), "bias": Array(bias), "seen": Array(np.zeros(1, np.int64))})


def sizes(kind: Any, into: list[int]) -> Any:
    """The strategy, and how many bytes the arrays of its replies have."""

    class Counted(kind):  # type: ignore[misc]
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            for reply in replies:
                for record in reply.content.array_records.values():
                    into.append(sum(one.numpy().nbytes for one in record.values()))
            return super().aggregate_train(server_round, replies)

    return Counted


def simulated(app: ClientApp, kind: Any, **more: Any) -> dict[str, Any]:
    """A run of Flower's simulation; accuracy on unseen examples, joules, bytes."""
    told: dict[str, Any] = {}
    server, sent = ServerApp(), []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = sizes(kind, sent)(fraction_evaluate=0.0, min_available_nodes=NODES, min_train_nodes=NODES, **more)
        told["result"] = strategy.start(grid=grid, initial_arrays=start(), num_rounds=ROUNDS, timeout=900)

    # Of its own, whatever other Ray is on this machine.
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2, "address": "local"}}
    run_simulation(server, app, num_supernodes=NODES, backend_config=backend)
    # Flower leaves it up, with processors that the workers of this simulation may still hold.
    ray.shutdown()
    result = told["result"]
    head = {name: array.numpy() for name, array in result.arrays.items()}
    x, y = examples(99)
    metrics = {int(number): dict(one) for number, one in result.train_metrics_clientapp.items()}
    return {
        "accuracy": float(np.mean((x @ head["kernel"] + head["bias"]).argmax(1) == y)),
        "kernel": head["kernel"].tolist(),
        "types": {name: str(one.dtype) for name, one in head.items()},
        "joules": {number: metric.get(ENERGY_J) for number, metric in metrics.items()},
        "bytes": sent,
    }


def unbiased() -> dict[str, Any]:
    """Every set of nodes that chance may ask, by how likely it is: the mean model, and that of all nodes."""
    nodes, chances, weights = [1, 2, 3], {1: 1.0, 2: 0.5, 3: 0.25}, {1: 10, 2: 30, 3: 60}
    base = np.array([1.0, -2.0])
    changes = {1: np.array([1.0, 0.0]), 2: np.array([0.0, 4.0]), 3: np.array([-8.0, 2.0])}
    mean = np.zeros(2)
    for asked in itertools.chain.from_iterable(itertools.combinations(nodes, n) for n in range(4)):
        likely = np.prod([chances[node] if node in asked else 1 - chances[node] for node in nodes])
        strategy = Unbiased(chance=chances.__getitem__, fraction_evaluate=0.0)
        strategy._nodes, strategy._asked, strategy._weights = nodes, chances, {k: float(v) for k, v in weights.items()}
        strategy._sent = {"w": base}
        arrays, _ = strategy.aggregate_train(2, [_reply(node, base + changes[node], weights[node]) for node in asked])
        mean += likely * (base if arrays is None else arrays["w"].numpy())
    whole = base + sum(weights[node] * changes[node] for node in nodes) / 100
    return {"mean": mean.tolist(), "whole": whole.tolist()}


def _reply(node: int, w: Any, examples_: int, **more: float) -> Message:
    sent = Message(RecordDict(), dst_node_id=node, message_type=MessageType.TRAIN)
    metrics = MetricRecord({"num-examples": examples_, **more})
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": metrics}), reply_to=sent)


def keeps_to_joules() -> dict[str, float]:
    """How often a node of 4 J a round is asked that may spend 1 J, and one of 0.5 J; and before anything is known.

    Every fifth report of the dear one has no joules.
    """
    strategy = Unbiased(per_round_j=1.0, fraction_evaluate=0.0, seed=5)

    class Nodes:
        def get_node_ids(self) -> list[int]:
            return [1, 2]

    asked = {1: 0, 2: 0}
    first = strategy.probability(1)
    for number in range(1, 401):
        messages = strategy.configure_train(number, ArrayRecord({"w": Array(np.zeros(1))}), ConfigRecord(), Nodes())
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            asked[node] += 1
            dear = np.nan if asked[1] % 5 == 2 else 4.0
            replies.append(_reply(node, np.ones(1), 1, **{ENERGY_J: dear if node == 1 else 0.5}))
        strategy.aggregate_train(number, replies)
    return {"first": first, "dear": asked[1], "cheap": asked[2]}


def weighted() -> list[float]:
    strategy = EnergyWeighted(fraction_evaluate=0.0)
    replies = [_reply(1, np.array([0.0]), 10, **{BUDGET_J: 1.0}), _reply(2, np.array([1.0]), 10, **{BUDGET_J: 3.0})]
    for reply, by_class in zip(replies, ([0.0, 0.5], [1.0, 0.5]), strict=True):
        reply.content["metrics"]["by-class"] = by_class
    arrays, metrics = strategy.aggregate_train(1, replies)
    return [float(arrays["w"].numpy()[0]), float(metrics[BUDGET_J]), *metrics["by-class"]]


def packed() -> dict[str, bool]:
    """Every codec without a memory there and back by bytes; and bytes that are spoilt are refused."""
    random = np.random.default_rng(3)
    tree = {"a": random.normal(size=(40, 30)).astype(np.float32), "b": random.normal(size=30).astype(np.float32)}
    shapes = {name: array.shape for name, array in tree.items()}
    found = {}
    for name in codecs.CODECS:
        codec = codecs.build(name, {})
        tensors, _ = codec.encode(tree, codec.init(shapes), np.random.default_rng(1))
        data = pack(tensors)
        again = decode(unpack(data), shapes)
        same = all(np.array_equal(again[key], value) for key, value in decode(tensors, shapes).items())
        for at in random.integers(0, len(data), 60):
            spoilt = data.copy()
            spoilt[at] ^= 1 << int(random.integers(8))
            for broken in (spoilt, data[:at]):
                with contextlib.suppress(EdgejouleError):
                    decode(unpack(broken), shapes)
        found[name] = same
    return found


def spoilt_reply() -> list[float]:
    """A reply that cannot be read is left out, and the others count."""

    class Plain(Decoding, FedAvg):  # type: ignore[misc]
        pass

    strategy = Plain(fraction_evaluate=0.0)
    strategy._sent = {"w": np.zeros(2, np.float32)}
    bad = _reply(1, np.zeros(2, np.float32), 10)
    bad.content["arrays"] = ArrayRecord({CODED: Array(np.arange(9, dtype=np.uint8))})
    arrays, _ = strategy.aggregate_train(1, [bad, _reply(2, np.ones(2, np.float32), 10)])
    return [float(one) for one in arrays["w"].numpy()]


def refused() -> str:
    try:
        coded("sign")
    except EdgejouleError as error:
        return str(error)
    return ""


class CodedFedAvg(Decoding, FedAvg):  # type: ignore[misc]
    """Flower's own mean on coded changes."""


if __name__ == "__main__":
    # Messages carry the ids of a run, which Flower sets in a simulation alone.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    if sys.argv[1] == "alone":
        made: dict[str, Any] = {
            "unbiased": unbiased(), "asked": keeps_to_joules(), "weighted": weighted(), "packed": packed(),
            "spoilt": spoilt_reply(), "refused": refused(),
        }  # fmt: skip
    else:
        made = {
            "plain": simulated(client(), FedAvg),
            "lossless": simulated(client(coded("float32")), CodedFedAvg),
            "coded": simulated(client(coded("entropy_coded", bits=2.0)), EnergyWeighted),
            "unbiased": simulated(client(coded("uniform_stochastic", bits=8)), Unbiased, per_round_j=0.05),
        }
    print("MADE " + json.dumps(made))
