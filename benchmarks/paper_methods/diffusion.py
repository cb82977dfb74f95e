"""Green federated diffusion: a denoiser of latents, trained by a fleet whose changes travel in the fewest bits that do.

Lai, He, Kang, Li, Xu, Zhang, Xie, "On-demand Quantization for Green Federated Generative Diffusion in Mobile Edge
Networks", arXiv:2403.04430: devices train a DDPM by FedAvg, and the bits of each change follow from a bound on its
error. Here a frozen int8 encoder gives latents, and the head denoises them (`protos/model/head_kinds/diffusion.py`);
`[planner] policy = "on_demand"` sets the bits. The workstation samples and decodes.

Encoder, decoder and the classifier that judges see 10,000 images that no device has. The Frechet distance is that of
the classifier's 64 features between samples, as many of each class, and the held-out images. Rows:

unquantised    changes as float32
fixed 8 bits   `uniform_stochastic`, 8 bits a coordinate
on_demand      `entropy_coded`, the fewest bits whose relative error is at most 0.1, by the coordinator's planner
closed form    no step: class means and one covariance from exact sums, once; normal latents of these (docs/one-pass.md)
start          the head before any round: normal latents
autoencoder    held-out images encoded and decoded: the least distance that this decoder leaves

Ten boards of four kinds, over WiFi, LTE and LTE-M in turn, meter their joules on a clock of their own
(`one_pass/metered.py`). Rate, epochs and bound were fixed with seed 10; seeds that judge begin at 0.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.federated import call
from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import Device, Task
from benchmarks.one_pass.metered import MeteredFleet
from benchmarks.one_pass.methods import _Planner, averaged, plan_of
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from coordinator.budgets.cost_model import Work
from coordinator.budgets.guesses import Remembered
from coordinator.budgets.order_line import OrderLine
from coordinator.run.evaluation import Evaluator
from coordinator.run.reports.aggregation import Fold
from coordinator.run.reports.statistics_fold import decoded, features_of
from protos.datafiles.dataset import Dataset, save
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.head_kinds import diffusion
from protos.model.head_kinds.denoiser import Denoiser
from protos.statistics.moments import total
from protos.update.tensors import decode

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
LINKS = ("wifi", "lte", "cat-m")
SCHEME, DEVICES, WORKSHOP = "dirichlet:0.5", 10, 10_000
SHOWN = 10  # of each class, on a sheet
BOUND = 0.1
_TRAIN = "[train]\nepochs = {epochs}\nrate = 0.003\n"
_EXAMPLES = '[aggregate]\nnormalise = "none"\nweight = ["by_examples"]\n'
UPDATES = {
    "unquantised": '[update]\ncodec = "float32"\n',
    "fixed 8 bits": '[update]\ncodec = "uniform_stochastic"\nbits = 8\n',
    "on_demand": '[update]\ncodec = "entropy_coded"\nbits = 2\n'
    f'[planner]\npolicy = "on_demand"\nerror_bound = {BOUND}\n',
}

Images = npt.NDArray[np.uint8]
SHEETS: dict[str, Images] = {}
"""Samples of the first seed, by method: [classes * SHOWN, H, W, C]."""


@dataclass(frozen=True)
class Studio:
    """What judges samples.

    Attributes:
        task: latents of the fleet's data.
        decode: embeddings to images; features: images to features.
        real: features of the held-out images.
        count: samples of each class.
        home: for sheets.
    """

    task: Task
    decode: Callable[[npt.NDArray[np.float32]], Images]
    features: Callable[[Images], npt.NDArray[np.float32]]
    real: npt.NDArray[np.float32]
    count: int
    home: Path

    @property
    def classes(self) -> npt.NDArray[np.int32]:
        """Of the samples."""
        return np.repeat(np.arange(len(self.task.bundle.manifest.classes), dtype=np.int32), self.count)

    def judged(self, embeddings: npt.NDArray[np.float32], sheet: str = "") -> float:
        """Distance of samples from held-out images; kept as a sheet under this name."""
        images = self.decode(embeddings)
        if sheet:
            shown = np.concatenate([images[at : at + SHOWN] for at in range(0, len(images), self.count)])
            np.save(self.home / f"{sheet}.npy", shown)
        return diffusion.frechet(self.features(images), self.real)


class _OnDemand(_Planner):
    """The coordinator's planner, fed with what devices metered."""

    def _one(self, device: Device, line: OrderLine, number: int, fold: Fold) -> None:
        fleet = self.fleet
        assert isinstance(fleet, MeteredFleet)
        up, down = fleet.bytes_up, fleet.bytes_down
        report = fleet.ask(device, number, steps=line.steps, bits=line.bits)
        energy = fleet.last[device.name]
        self.spent[device.name] += sum(phase_energy.energy_j or 0.0 for phase_energy in energy)
        done = Work(0, report.steps_done, fleet.bytes_up - up, fleet.bytes_down - down)
        self.costs[device.name].observe(done, energy)
        update = decode(report.update, fleet.shapes)
        fold.add(report, update)
        fleet.accepted(device, number)
        unit = np.float32(report.local_normaliser)
        self.recent[device.name] = Remembered({name: value / unit for name, value in update.items()}, number)
        if (size := fold.sizes_of(report, update)) is not None:
            self.sizes[device.name] = size
            self.rounds_of[device.name].append(number)


def rows(asked: Asked) -> list[Row]:
    """Every data set and method."""
    if strange := set(asked.methods) - set(UPDATES):
        raise UsageError(f"no method is called {min(strange)!r}", where="--method", fix=", ".join(UPDATES))
    found: list[Row] = []
    for name in asked.only or ("mnist",):
        found += _compared(_studio(name, asked), asked)
    return found


def _data(name: str, folder: Path) -> Dataset:
    try:
        known = {"mnist": reference_data.mnist, "fashion_mnist": reference_data.fashion_mnist}
        if name not in known:
            raise UsageError(f"no data set is called {name!r}", where="--only", fix=", ".join(known))
        return known[name]()
    except DataError:
        from firmware_tools.pretrain.digits import pretrain
        from protos.datafiles.dataset import load

        print("diffusion: no reference data, so scikit-learn's digits stand in", file=sys.stderr)
        return load(pretrain(folder / "digits").fleet_data)


def _studio(name: str, asked: Asked) -> Studio:
    data = _data(name, asked.folder)
    train, test = (np.flatnonzero(data.is_test == part) for part in (False, True))
    shop = train[-min(WORKSHOP, len(train) // 2) :]
    most, judge = (4_000, 2_000) if asked.quick else (5_000, 10_000)
    fleet, held_out = train[: min(most, len(train) - len(shop))], test[:judge]
    folder = (asked.keep or asked.folder) / f"diffusion-{name}-{'quick' if asked.quick else 'full'}"
    folder.mkdir(parents=True, exist_ok=True)
    bundle, workshop = folder / "bundle", folder / "workshop.npz"
    if not bundle.exists():
        save(data.select(shop), workshop)
        call("firmware-tools", "pretrain", "autoencoder", "--data", workshop, "-o", folder / "coder",
             "--epochs", "4" if asked.quick else "6")  # fmt: skip
        call("firmware-tools", "convert", folder / "coder" / "encoder.keras", "-o", bundle, "--calibrate", workshop,
             "--objective", "diffusion", "--cut", "latent", "--classes", "10", "--optimizer", "adam")  # fmt: skip
    opened = open_bundle(bundle)
    backbone, y = Backbone(opened, threads=2), data.y.astype(np.int32)
    x = data.x[..., None] if data.x.ndim == 3 else data.x
    task = Task(
        name, opened, backbone.embed(x[fleet]), y[fleet], backbone.embed(x[held_out]), y[held_out], None, DEVICES,
        SCHEME, float("nan"),
    )  # fmt: skip
    decoder = _decoder(folder / "coder" / "decoder.keras")
    features = _classifier(x[shop], y[shop], 2 if asked.quick else 4, folder / "classifier.keras")
    return Studio(task, decoder, features, features(x[held_out]), 100 if asked.quick else 500, folder)


def _decoder(path: Path) -> Callable[[npt.NDArray[np.float32]], Images]:
    import keras

    decoder = keras.models.load_model(path, compile=False)
    return lambda given: np.rint(255 * decoder.predict(given, batch_size=500, verbose=0)).astype(np.uint8)


def _classifier(
    x: Images, y: npt.NDArray[np.int32], epochs: int, path: Path
) -> Callable[[Images], npt.NDArray[np.float32]]:
    """Features [N, 64] of images, of a small CNN trained on these, or of the one that is there."""
    import keras

    if not path.exists():
        _trained_classifier(x, y, epochs).save(path)
    model = keras.models.load_model(path, compile=False)
    part = keras.Model(model.inputs, model.get_layer("features").output)
    return lambda images: np.asarray(part.predict(images, batch_size=500, verbose=0))


def _trained_classifier(x: Images, y: npt.NDArray[np.int32], epochs: int) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="features"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def _compared(studio: Studio, asked: Asked) -> list[Row]:
    task, bundle = studio.task, studio.task.bundle
    rounds, epochs = (asked.rounds or 6, 2) if asked.quick else (asked.rounds or 20, 10)
    whole = Backbone(bundle).dequantise(task.test)
    floor = studio.judged(whole)
    found = [row(task.setting, "autoencoder", "Frechet distance", [floor])]
    figures: dict[str, dict[str, list[float]]] = {}
    for seed in range(asked.first, asked.first + asked.seeds):
        for name in UPDATES:
            if asked.methods and name not in (*asked.methods, "unquantised"):
                continue
            name_kept = f"{studio.home.name}-{rounds}-rounds-seed-{seed}-{name}"
            _keep(figures, name, kept(asked, name_kept, partial(_trained, studio, name, seed, rounds, epochs,
                                                                name if seed == asked.first else "")))  # fmt: skip
        _keep(figures, "closed form", _closed(studio, seed, "closed form" if seed == asked.first else ""))
        start = Denoiser.of(bundle, bundle.initial_head()).embeddings(studio.classes, seed=seed)
        _keep(figures, "start", {"Frechet distance": studio.judged(start)})
    for sheet in (*UPDATES, "closed form"):
        if (path := studio.home / f"{sheet}.npy").exists():
            SHEETS[sheet] = np.load(path, allow_pickle=False)
    plain = figures["unquantised"]
    for name, own in figures.items():
        if name in UPDATES and own is not plain:
            for quantity, new in (
                ("Frechet distance", "distance over unquantised, %"),
                ("joules", "joules of unquantised, %"),
                ("kB up", "bits up of unquantised, %"),
            ):
                base = 100.0 if "over" in new else 0.0
                own[new] = [100 * a / b - base for a, b in zip(own[quantity], plain[quantity], strict=True)]
        found += [row(task.setting, name, quantity, values) for quantity, values in own.items()]
    return found


def _keep(figures: dict[str, dict[str, list[float]]], name: str, now: dict[str, float]) -> None:
    print(f"{name}: { ({key: round(value, 3) for key, value in now.items()}) }", file=sys.stderr, flush=True)
    for key, value in now.items():
        figures.setdefault(name, {}).setdefault(key, []).append(value)


def _trained(studio: Studio, name: str, seed: int, rounds: int, epochs: int, sheet: str) -> dict[str, float]:
    plan = plan_of(_TRAIN.format(epochs=epochs) + UPDATES[name] + _EXAMPLES, seed, rounds)
    with tempfile.TemporaryDirectory(prefix="edgejoule-diffusion-") as home:
        fleet = MeteredFleet(studio.task, plan, seed, Path(home), LINKS)
        course = _OnDemand(fleet).rounds(rounds) if name == "on_demand" else averaged(fleet, 1, rounds)
        for number, _ in enumerate(course, 1):
            if number % 5 == 0:
                print(f"{name}, seed {seed}: round {number}", file=sys.stderr, flush=True)
    return _figures(studio, fleet, seed, sheet)


def _figures(studio: Studio, fleet: MeteredFleet, seed: int, sheet: str) -> dict[str, float]:
    embeddings = Denoiser.of(fleet.bundle, fleet.head).embeddings(studio.classes, seed=seed)
    referee = Evaluator(fleet.bundle, studio.task.test, studio.task.test_labels)
    return {
        "Frechet distance": studio.judged(embeddings, sheet),
        "explained noise": referee.evaluate(fleet.head).accuracy,
        "kB up": fleet.bytes_up / 1e3,
        "kB down": fleet.bytes_down / 1e3,
        "joules": fleet.joules_metered,
        "joules of sending": fleet.metered["send"],
        "joules of training": fleet.metered["train"],
    }


def _closed(studio: Studio, seed: int, sheet: str) -> dict[str, float]:
    """Normal latents by the sums of all devices: n_c, s_c, G. With m_c = s_c / n_c the covariance within classes is
    (G - sum_c n_c m_c m_c^T) / n."""
    task, bundle = studio.task, studio.task.bundle
    spec, plan = bundle.manifest.backbone, plan_of("", seed, 1)
    features = features_of(plan, bundle)
    with tempfile.TemporaryDirectory(prefix="edgejoule-diffusion-") as home:
        fleet = MeteredFleet(task, plan, seed, Path(home), LINKS)
        reports = [fleet.ask(device, 1, steps=0, statistics=features) for device in fleet.devices]
    parts = [decoded(report.statistics, bundle, features) for report in reports if report.statistics is not None]
    sums = total(parts, len(bundle.manifest.classes), spec.embedding_width)
    means = sums.sums / np.maximum(sums.counts, 1)[:, None]
    within = (sums.square() - np.einsum("c,ci,cj->ij", sums.counts, means, means)) / sums.examples
    random = np.random.default_rng([seed, 0xC105])
    noise = random.standard_normal((len(studio.classes), spec.embedding_width))
    drawn = means[studio.classes] + noise @ np.linalg.cholesky(within + 1e-6 * np.eye(len(within))).T
    embeddings = (drawn * spec.output_scale).astype(np.float32)
    return {
        "Frechet distance": studio.judged(embeddings, sheet),
        "kB up": fleet.bytes_up / 1e3,
        "kB down": fleet.bytes_down / 1e3,
        "joules": fleet.joules_metered,
        "joules of sending": fleet.metered["send"],
        "joules of training": fleet.metered["train"],
    }


def draw(rows: object, path: Path) -> None:
    """The sample sheets of this process's first seed, side by side; a row of each is a class."""
    if not SHEETS:
        raise UsageError("sheets are drawn by the run that samples them", where="--plot", fix="run papers.py")
    from firmware_tools.sample.sheet import png

    for name, images in SHEETS.items():
        own = path.with_name(f"{path.stem}-{name.replace(' ', '-')}{path.suffix}")
        own.write_bytes(png(images, SHOWN))
    images = np.concatenate([sheet.reshape(-1, SHOWN, *sheet.shape[1:]) for sheet in SHEETS.values()], axis=1)
    path.write_bytes(png(images.reshape(-1, *images.shape[2:]), SHOWN * len(SHEETS)))
