"""KOALA: a large model on the workstation and small ones on devices teach each other, on images without labels.

Chen, You, Liu, Yu, Abdelmoniem, arXiv:2407.05268. Fashion-MNIST: 150 labelled images are the workshop's, from which a
large CNN and two small ones are pre-trained; 12,000 are spread over ten devices, Dirichlet(1); 2,000 are the proxy set,
without labels; the 10,000 of the test set judge. A small model is a frozen int8 backbone and a head that devices train.
So devices know more than the workshop, and their models are too small to make the most of it: only then is there
anything to learn on both sides. (With 500 labelled images, as the quick form has still, they do not know more.)

Each turn: devices train the heads of their cohort for three rounds (the device's round function, its codec and joules);
small models label the proxy set, their consensus is quantised and cached; the large model learns from it (reverse
distillation); its answers, with the consensus, are quantised too, and each cohort's head learns from them (forward).

fedavg                 the same rounds without the workstation
koala, homogeneous     one architecture on all ten devices
koala, heterogeneous   two architectures, five devices each: two runs, one consensus
..., backbones too     after the first turn the whole small models learn from the large one, outputs and features, and
                       devices get the new backbones, and embed again
..., proxy labels      the proxy set has labels: selective fusion (FedGEMS, arXiv:2110.11027)
closed form            heads from exact sums, one round and no step; the large model learns from what they say

Controls of the large model: as pre-trained; taught for as many passes by its own answers;
and, where there are proxy labels, by these alone. Accuracies are those that nothing was chosen by. Sizes, passes and
temperature were fixed with seed 10; seeds that judge begin at 0. With ``--keep`` a run that was cut goes on by method.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import Fleet, Task, embedding_joules
from benchmarks.one_pass.methods import METHODS, averaged, one_pass, plan_of
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from coordinator.lab.partition import partition
from coordinator.learning.distillation import head_student
from coordinator.learning.distillation.consensus import consensus, probabilities, selective
from coordinator.learning.distillation.soft_labels import Cache
from coordinator.run.evaluation import Evaluator
from firmware_tools.convert.many import Converter
from firmware_tools.distill import keras_student
from protos.datafiles import dataset
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle
from protos.update.trees import Tree

DEVICES, SCHEME = 10, "dirichlet:1"
LABELLED, PROXY, PRIVATE, HELD_OUT = 150, 2000, 12_000, 10_000
QUICK_LABELLED = 500
# Fixed before the seeds that judge. Rounds are those of devices in a turn, epochs the large model's.
TEMPERATURE, TURNS, ROUNDS, EPOCHS, BITS = 2.0, 4, 3, 3, 4
# Of the large model's answer in what small ones learn from; the rest is the consensus, which has seen the labels.
LARGE_SHARE = 0.5
SMALL = ("plain", "separable")
HALF, SELF_TAUGHT = "fedavg, half the devices each", "large alone, taught by itself"
BY_LABELS, WITH_LABELS = "large alone, proxy labels", "koala, heterogeneous, proxy labels"
BACKBONES = "koala, heterogeneous, backbones too"
CLOSED = "closed form, heterogeneous"
_LAYER = "features"


@dataclass
class _Data:
    """Images as uint8 [N, 28, 28], by whose they are."""

    x: dict[str, Any]
    y: dict[str, Any]
    owner: Any


@dataclass
class _Small:
    """A small model: in Keras, as a bundle, and what its backbone makes of the images."""

    name: str
    model: Any
    bundle: Bundle
    embedded: dict[str, Any]

    def features(self, part: str) -> Any:
        """Standardised, as heads take them."""
        spec, (mean, scale) = self.bundle.manifest.backbone, self.bundle.feature_affine()
        plain = (self.embedded[part].astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
        return (plain - mean) * scale


def rows(asked: Asked) -> list[Row]:
    """Every mode, with its controls."""
    figures: dict[tuple[str, str], list[float]] = {}
    with Converter() as converter:
        for seed in range(asked.first, asked.first + asked.seeds):
            found = _Seed(asked, converter, seed).run()
            for (method, quantity), value in (found | _points(found)).items():
                figures.setdefault((method, quantity), []).append(value)
            print(f"seed {seed} done", file=sys.stderr, flush=True)
    setting = f"{DEVICES} devices, {SCHEME}, {_turns(asked)} turns of {ROUNDS} rounds"
    return [row(setting, method, quantity, values) for (method, quantity), values in figures.items()]


def _points(found: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Of each mode, same seed: the large model over its control, small ones over FedAvg on the same devices."""
    points = {}
    for (method, quantity), value in found.items():
        if not quantity.endswith(", accuracy") or not _distils(method):
            continue
        name = quantity.removesuffix(", accuracy")
        control = f"fedavg, {name}" if method == "koala, homogeneous" else HALF
        control = control if name in SMALL else BY_LABELS if method == WITH_LABELS else SELF_TAUGHT
        if (other := found.get((control, quantity))) is not None:
            points[method, f"{name}, points over {control}"] = 100 * (value - other)
    return points


def _distils(method: str) -> bool:
    return method.startswith("koala") or method == CLOSED


def _turns(asked: Asked) -> int:
    return asked.rounds or (2 if asked.quick else TURNS)


class _Seed:
    def __init__(self, asked: Asked, converter: Converter, seed: int) -> None:
        import keras

        self.asked, self.converter, self.seed = asked, converter, seed
        self.turns = _turns(asked)
        self.found: dict[tuple[str, str], float] = {}
        self.data = _data(seed, quick=asked.quick)
        keras.utils.set_random_seed(seed)
        self.models = {"large": _large(keras), **{name: _small(keras, name) for name in SMALL}}
        for name, model in self.models.items():
            hard = np.eye(10)[self.data.y["labelled"]]
            epochs = 10 if asked.quick else 30
            keras_student.learn(model, _pixels(self.data.x["labelled"]), hard, epochs=epochs, rate=2e-3, seed=seed)
            self._say("pre-trained alone", f"{name}, accuracy", _accuracy(model, self.data))
        self.start = {name: model.get_weights() for name, model in self.models.items()}
        self.small = {name: self._converted(name, self.models[name], "0") for name in SMALL}
        macs = {name: float(self.small[name].bundle.manifest.backbone.macs or 0) for name in SMALL}
        large_macs, large_size = _large_macs(), float(self.models["large"].count_params())
        for name in SMALL:
            size = float(self.models[name].count_params())
            self._say(f"small, {name}", "parameters", size)
            self._say(f"small, {name}", "parameters less than the large model, %", 100 * (1 - size / large_size))
            self._say(f"small, {name}", "multiply-adds", macs[name])
            self._say(
                f"small, {name}", "multiply-adds less than the large model, %", 100 * (1 - macs[name] / large_macs)
            )
        self._say("large", "parameters", large_size)
        self._say("large", "multiply-adds", large_macs)

    def run(self) -> dict[tuple[str, str], float]:
        """All modes from the same models."""
        both = list(SMALL)
        steps: dict[str, Callable[[], None]] = {
            **{f"fedavg, {name}": partial(self._mode, f"fedavg, {name}", [name], distil=False) for name in SMALL},
            HALF: partial(self._mode, HALF, both, distil=False),
            SELF_TAUGHT: self._self_taught,
            "koala, homogeneous": partial(self._mode, "koala, homogeneous", [SMALL[0]]),
            "koala, heterogeneous": partial(self._mode, "koala, heterogeneous", both),
            BACKBONES: partial(self._mode, BACKBONES, both, backbones=True),
            CLOSED: partial(self._mode, CLOSED, both, closed=True),
            BY_LABELS: self._by_labels_alone,
            WITH_LABELS: partial(self._mode, WITH_LABELS, both, labels=True),
        }
        wanted = self.asked.methods or [name for name in steps if not (self.asked.quick and name == BACKBONES)]
        for name in wanted:
            if name not in steps:
                raise UsageError(f"no method is called {name!r}", fix=f"one of: {'; '.join(steps)}")
            size = f"{'quick' if self.asked.quick else 'full'}-{len(self.data.y['labelled'])}-labelled"
            of_it = kept(
                self.asked, f"koala-{size}-{self.turns}-turns-seed-{self.seed}-{name}", partial(self._only, steps[name])
            )
            self.found |= {(method, quantity): value for method, quantity, value in of_it}
        return self.found

    def _only(self, step: Callable[[], None]) -> list[tuple[str, str, float]]:
        """What one mode has found, as JSON holds it."""
        before = set(self.found)
        step()
        return [(*key, value) for key, value in self.found.items() if key not in before]

    def _say(self, method: str, quantity: str, value: float) -> None:
        self.found[method, quantity] = value
        print(f"seed {self.seed}: {method}: {quantity} {value:.4f}", file=sys.stderr, flush=True)

    def _fresh_large(self) -> Any:
        large = self.models["large"]
        large.set_weights(self.start["large"])
        return large

    def _self_taught(self) -> None:
        large, x = self._fresh_large(), _pixels(self.data.x["proxy"])
        for turn in range(self.turns):
            own = probabilities(large.predict(x, batch_size=256, verbose=0), TEMPERATURE)
            self._learn(large, x, own, turn)
        self._say(SELF_TAUGHT, "large, accuracy", _accuracy(large, self.data))

    def _by_labels_alone(self) -> None:
        large, x = self._fresh_large(), _pixels(self.data.x["proxy"])
        for turn in range(self.turns):
            self._learn(large, x, np.eye(10)[self.data.y["proxy"]], turn, temperature=1.0)
        self._say(BY_LABELS, "large, accuracy", _accuracy(large, self.data))

    def _learn(self, large: Any, x: Any, targets: Any, turn: int, temperature: float = TEMPERATURE) -> None:
        keras_student.learn(large, x, targets, epochs=EPOCHS, temperature=temperature, seed=100 * self.seed + turn)

    def _mode(
        self, method: str, names: Sequence[str], *, distil: bool = True, labels: bool = False, backbones: bool = False,
        closed: bool = False,
    ) -> None:  # fmt: skip
        large, x = self._fresh_large(), _pixels(self.data.x["proxy"])
        small = [self.small[name] for name in names]
        up, down, kept = [Cache(BITS) for _ in small], Cache(BITS), None
        with tempfile.TemporaryDirectory(prefix="edgejoule-koala-") as home:
            fleets = [
                self._fleet(student, at, len(small), Path(home) / f"a{at}", closed=closed)
                for at, student in enumerate(small)
            ]
            once = sum(embedding_joules(fleet.task, fleet) for fleet in fleets)
            spent = dict.fromkeys(_spent(fleets), 0.0)
            for turn in range(self.turns):
                for fleet in fleets:
                    self._trained(fleet, turn, closed=closed)
                if not distil:
                    continue
                said = np.stack([
                    cache.update(probabilities(head_student.scores_of(fleet.head, one.features("proxy")), TEMPERATURE))
                    for cache, fleet, one in zip(up, fleets, small, strict=True)
                ])  # fmt: skip
                agreed = consensus(said, [sum(d.examples for d in fleet.devices) for fleet in fleets])
                if labels:
                    ours = probabilities(large.predict(x, batch_size=256, verbose=0))
                    targets, kept = selective(ours, said, self.data.y["proxy"], kept)
                    self._learn(large, x, targets, turn, temperature=1.0)
                else:
                    self._learn(large, x, agreed, turn)
                answer = probabilities(large.predict(x, batch_size=256, verbose=0), TEMPERATURE)
                lesson = down.update(LARGE_SHARE * answer + (1 - LARGE_SHARE) * agreed)
                if closed:
                    # Exact heads know more of the devices' data than soft labels could tell them.
                    continue
                if backbones and turn == 0:
                    small = [self._retaught(name, large, x, lesson) for name in names]
                    again = [
                        self._fleet(student, at, len(small), Path(home) / f"b{at}") for at, student in enumerate(small)
                    ]
                    once += sum(embedding_joules(fleet.task, fleet) for fleet in again)
                    spent, fleets = _spent(fleets), again
                for fleet, student in zip(fleets, small, strict=True):
                    fleet.move(self._taught(fleet.head, student, lesson), ROUNDS * (turn + 1))
            total = {key: value + spent[key] for key, value in _spent(fleets).items()}
        for fleet, student in zip(fleets, small, strict=True):
            judge = Evaluator(student.bundle, student.embedded["held-out"], self.data.y["held-out"])
            self._say(method, f"{student.name}, accuracy", judge.evaluate(fleet.head).accuracy)
        if distil:
            self._say(method, "large, accuracy", _accuracy(large, self.data))
            self._say(method, "kB of soft labels", (sum(cache.bytes_sent for cache in up) + down.bytes_sent) / 1e3)
        for key, value in total.items():
            self._say(method, key, value)
        self._say(method, "joules of embedding", once)

    def _trained(self, fleet: Fleet, turn: int, *, closed: bool) -> None:
        """A turn of one cohort: rounds of steps, or one round of sums in the first turn and none later."""
        course = averaged(fleet, ROUNDS * turn + 1, ROUNDS * (turn + 1))
        if closed:
            course = one_pass(fleet, 1) if turn == 0 else iter(())
        for _ in course:
            pass

    def _taught(self, head: Tree, student: _Small, lesson: Any) -> Tree:
        return head_student.learn(head, student.features("proxy"), lesson, temperature=TEMPERATURE)

    def _retaught(self, name: str, large: Any, x: Any, lesson: Any) -> _Small:
        """A small model that has learned from the large one whole, outputs and features, as a new bundle."""
        model = self.models[name]
        model.set_weights(self.start[name])
        keras_student.learn(
            model, x, lesson, epochs=5 * EPOCHS, temperature=TEMPERATURE, rate=2e-3, seed=self.seed,
            layer=_LAYER, features=keras_student.features_of(large, _LAYER, x),
        )  # fmt: skip
        return self._converted(name, model, "1")

    def _converted(self, name: str, model: Any, part: str) -> _Small:
        home = self.asked.folder / f"{self.seed}-{name}-{part}"
        home.mkdir(exist_ok=True)
        model.save(home / "model.keras")
        x, y = self.data.x, self.data.y
        np.savez(home / "workshop.npz", x=x["labelled"], y=y["labelled"])
        done = self.converter.call("convert", home / "model.keras", "-o", home / "bundle", "--calibrate",
                                   home / "workshop.npz", "--preprocess", "none", "--force")  # fmt: skip
        if done.code:
            raise UsageError(f"convert: {done.stderr.strip().splitlines()[-1:]}", where="koala")
        bundle = open_bundle(home / "bundle")
        backbone = Backbone(bundle, threads=1)
        shape = bundle.manifest.backbone.input_shape
        parts = ("private", "proxy", "held-out")
        return _Small(name, model, bundle, {part: backbone.embed(x[part].reshape(-1, *shape)) for part in parts})

    def _fleet(self, one: _Small, at: int, cohorts: int, home: Path, *, closed: bool = False) -> Fleet:
        """The devices of one cohort, each with its own examples."""
        y, owner = self.data.y, self.data.owner
        mine = np.isin(owner, np.arange(DEVICES)[at::cohorts])
        task = Task("fashion", one.bundle, one.embedded["private"][mine], y["private"][mine], one.embedded["held-out"],
                    y["held-out"], owner[mine], len(np.unique(owner[mine])), "natural", float("nan"))  # fmt: skip
        text = '[train]\nepochs = 2\n[aggregate]\nnormalise = "none"\nweight = ["by_examples"]\n'
        if closed:
            text = METHODS["closed_form"].plan(task)
        return Fleet(task, plan_of(text, self.seed, 1 if closed else ROUNDS * self.turns), self.seed, home)


def _spent(fleets: Sequence[Fleet]) -> dict[str, float]:
    return {
        "kB up": sum(fleet.bytes_up for fleet in fleets) / 1e3,
        "kB down": sum(fleet.bytes_down for fleet in fleets) / 1e3,
        "J, WiFi": sum(fleet.joules.by_radio["wifi"] for fleet in fleets),
    }


def _data(seed: int, *, quick: bool) -> _Data:
    read = _source()
    random = np.random.default_rng([seed, 0x0A1A])
    share = 0.25 if quick else 1.0
    private, proxy = round(PRIVATE * share), round(PROXY * share)
    train, labelled = random.permutation(np.flatnonzero(~read.is_test)), QUICK_LABELLED if quick else LABELLED
    if len(train) < labelled + proxy + private:
        private = proxy = (len(train) - labelled) // 2
    held = random.permutation(np.flatnonzero(read.is_test))[: 2000 if quick else HELD_OUT]
    chosen = {
        "labelled": train[:labelled],
        "proxy": train[labelled : labelled + proxy],
        "private": train[labelled + proxy : labelled + proxy + private],
        "held-out": held,
    }
    x = {name: read.x[np.sort(at)].reshape(len(at), 28, 28) for name, at in chosen.items()}
    y = {name: read.y[np.sort(at)].astype(np.int32) for name, at in chosen.items()}
    owner = np.empty(len(y["private"]), np.int64)
    for number, mine in enumerate(partition(y["private"], None, DEVICES, SCHEME, seed)):
        owner[mine] = number
    return _Data(x, y, owner)


def _source() -> dataset.Dataset:
    """Fashion-MNIST, or scikit-learn's digits blown up to its size."""
    try:
        return reference_data.fashion_mnist()
    except DataError:
        from sklearn.datasets import load_digits

        print("koala: no reference data, so scikit-learn's digits stand in", file=sys.stderr)
        digits = load_digits()
        x = np.kron(digits.images, np.ones((3, 3)))
        x = np.pad(x * 255 / 16, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
        y = digits.target.astype(np.int32)
        return dataset.Dataset(x, y, np.arange(len(y)) % 4 == 0, None, tuple("0123456789"), "digits")


def _pixels(x: Any) -> Any:
    return x[..., None].astype(np.float32)


def _accuracy(model: Any, data: _Data) -> float:
    scores = model.predict(_pixels(data.x["held-out"]), batch_size=256, verbose=0)
    return float((scores.argmax(axis=1) == data.y["held-out"]).mean())


def _large(keras: Any) -> Any:
    """Three convolutions and 256 features: about 850,000 parameters."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((28, 28, 1)), layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"), layers.Flatten(), layers.Dropout(0.3),
        layers.Dense(256, activation="relu", name=_LAYER), layers.Dropout(0.3), layers.Dense(10),
    ])  # fmt: skip


def _large_macs() -> float:
    """Multiply-adds of the large model for one image."""
    return float(28 * 28 * 16 * 9 + 14 * 14 * 32 * 16 * 9 + 7 * 7 * 64 * 32 * 9 + 7 * 7 * 64 * 256 + 256 * 10)


def _small(keras: Any, name: str) -> Any:
    """Two or three convolutions that nobody trains any more, and what the head reads: all that they give."""
    layers = keras.layers
    first = [keras.Input((28, 28, 1)), layers.Rescaling(1 / 255)]
    if name == "plain":
        middle = [
            layers.Conv2D(6, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
        ]
    else:
        middle = [
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(16, 1, activation="relu"),
        ]
    last = [layers.Flatten(name=_LAYER), layers.Dense(10)]
    return keras.Sequential([*first, *middle, *last])
