"""Heads for single writers whom the fleet never met: what fine-tuning costs, and what caution saves.

A CNN is pre-trained on 60 writers of FEMNIST, who are then the fleet: a device each, FedAvg from the bundle's head. The
45 others get that head and make it their own with what they wrote; judged on what they held out, by which nothing was
chosen.

naive       four passes at rate 0.1 on all examples, no more questions asked
steps       proximal steps; how many passes, and how much is mixed back, by the writer's own folds
statistics  one Newton step in closed form with the fleet's statistics; their weight by the writer's own folds
both        whichever the folds prefer
... without caution: whatever is best on the folds, by however little

The maths are `protos/model/personal.py`. Its settings were fixed on another division of the writers (seed 0 of
`pretrain.py`); judged is on that of seed 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import reference_data
from one_pass_fleet import Fleet, Task
from one_pass_methods import averaged, plan_of
from papers_rows import Asked, Row, row

from firmware_tools.convert.many import Converter
from protos.datafiles import dataset
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle
from protos.model.head import Head
from protos.model.personal import gram_of_sums, personalise
from protos.statistics.moments import moments_of
from protos.update.trees import Tree

METHODS: dict[str, tuple[tuple[str, ...], float]] = {
    "steps, one standard error": (("steps",), 1.0),
    "statistics, one standard error": (("statistics",), 1.0),
    "both, one standard error": (("steps", "statistics"), 1.0),
    "both, two standard errors": (("steps", "statistics"), 2.0),
    "both, without caution": (("steps", "statistics"), 0.0),
}
NAIVE_PASSES, NAIVE_RATE = 4, 0.1
LEAST_HELD_OUT = 5


def rows(asked: Asked) -> list[Row]:
    """Accuracy over writers, how many gained and how many lost."""
    model, seen, unseen = _source(asked)
    bundle_path = asked.folder / "writers"
    with Converter() as converter:
        done = converter.call("convert", model, "-o", bundle_path, "--calibrate", seen)
        if done.code:
            raise UsageError(f"convert: {done.stderr.strip().splitlines()[-1:]}", where="personal")
    bundle = open_bundle(bundle_path)
    fleet_data, ours = _embedded(bundle, seen), _embedded(bundle, unseen)
    rounds = asked.rounds or (1 if asked.quick else 10)
    figures: dict[str, dict[str, list[float]]] = {}
    for seed in range(asked.seeds):
        head, gram, examples = _fleet(bundle, fleet_data, seed, rounds)
        print(f"seed {seed}: the fleet has trained", file=sys.stderr, flush=True)
        for name, found in _writers(bundle, head, gram, examples, ours, seed).items():
            own = figures.setdefault(name, {})
            for key, value in found.items():
                own.setdefault(key, []).append(value)
    setting = f"{len(np.unique(ours[3]))} unseen writers, fleet of {len(np.unique(fleet_data[3]))}, {rounds} rounds"
    for name, found in figures.items():
        print(f"{name}: { ({key: round(float(np.mean(v)), 4) for key, v in found.items()}) }", file=sys.stderr)
    return [row(setting, name, key, values) for name, found in figures.items() for key, values in found.items()]


def _source(asked: Asked) -> tuple[Path, Path, Path]:
    try:
        reference_data.root()
    except DataError as error:
        raise DataError("personal heads are shown on FEMNIST's writers", where=error.where, fix=error.fix) from error
    from pretrain import pretrain

    home = asked.folder / "femnist"
    pretrain(home, epochs=4 if asked.quick else 12, seed=1)
    return home / "femnist_cnn.keras", home / "pretrained_writers.npz", home / "fleet_writers.npz"


Embedded = tuple[Any, Any, Any, Any]


def _embedded(bundle: Bundle, path: Path) -> Embedded:
    """Integer embeddings, labels, what is held out, and whose."""
    read = dataset.fitted(dataset.load(path), bundle.manifest.backbone.input_shape)
    owner = np.unique(read.owner, return_inverse=True)[1]
    return Backbone(bundle, threads=2).embed(read.x), read.y.astype(np.int32), read.is_test, owner


def _fleet(bundle: Bundle, data: Embedded, seed: int, rounds: int) -> tuple[Tree, Any, int]:
    """The head of a run by the writers of the fleet, and their statistics as what `personalise` takes."""
    x, y, test, owner = data
    task = Task("femnist", bundle, x[~test], y[~test], x[test], y[test], owner[~test], len(np.unique(owner)), "natural",
                float("nan"))  # fmt: skip
    text = '[train]\nepochs = 1\nrate = 0.05\n[aggregate]\nnormalise = "none"\nweight = ["by_examples"]\n'
    with tempfile.TemporaryDirectory(prefix="edgejoule-personal-") as home:
        fleet = Fleet(task, plan_of(text, seed, rounds), seed, Path(home))
        for _ in averaged(fleet, 1, rounds):
            pass
    spec, (mean, scale) = bundle.manifest.backbone, bundle.feature_affine()
    moments = moments_of(x[~test], y[~test], len(bundle.manifest.classes), spec.output_zero_point)
    # Sums are of integers less the zero point: z times the scale is the embedding.
    gram = gram_of_sums(
        moments.square() * spec.output_scale**2, moments.sums.sum(axis=0) * spec.output_scale, moments.examples, mean,
        scale,
    )  # fmt: skip
    return fleet.head, gram, moments.examples


def _writers(
    bundle: Bundle, fleet: Tree, gram: Any, examples: int, data: Embedded, seed: int
) -> dict[str, dict[str, float]]:
    x, y, test, owner = data
    spec, (mean, scale) = bundle.manifest.backbone, bundle.feature_affine()
    plain = (x.astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
    features = ((plain - mean) * scale).astype(np.float32)
    head = Head(bundle)
    right: dict[str, list[float]] = {"fleet": [], "naive": [], **{name: [] for name in METHODS}}
    held: list[int] = []
    moved = dict.fromkeys(METHODS, 0)
    for writer in np.unique(owner):
        mine, theirs = (owner == writer) & ~test, (owner == writer) & test
        if int(theirs.sum()) < LEAST_HELD_OUT:
            continue
        held.append(int(theirs.sum()))

        def judged(tree: Tree, rows: Any = theirs) -> float:
            head.write(tree)
            return head.evaluate(plain[rows], y[rows]).accuracy

        right["fleet"].append(judged(fleet))
        right["naive"].append(judged(_naive(head, fleet, plain[mine], y[mine], seed)))
        for name, (kinds, caution) in METHODS.items():
            found = personalise(
                fleet, features[mine], y[mine], kinds=kinds, fleet_gram=gram, fleet_examples=examples, seed=seed,
                caution=caution,
            )  # fmt: skip
            moved[name] += found.candidate.kind != "fleet"
            right[name].append(judged(found.tree))
    base, made = np.array(right["fleet"]), {}
    for name, values in right.items():
        gains = np.array(values) - base
        made[name] = {
            "accuracy, mean of writers": float(np.mean(values)),
            "accuracy, all examples": float(np.average(values, weights=held)),
            "points over fleet": 100 * float(gains.mean()),
            "share of writers who gain": float((gains > 0).mean()),
            "share of writers who lose": float((gains < 0).mean()),
            "share of writers with a head of their own": moved.get(name, 0 if name == "fleet" else len(held))
            / len(held),
        }
    return made


def _naive(head: Head, fleet: Tree, x: Any, y: Any, seed: int) -> Tree:
    """The compiled head's own steps, as a device would take them."""
    from edge_runtime.round.training import train

    head.write(fleet)
    steps = NAIVE_PASSES * -(-len(y) // head.batch_size)
    train(head, x, y, lambda one: one, steps=steps, inputs={"rate": NAIVE_RATE}, seed=seed, purpose=("naive",),
          allowed=lambda: None)  # fmt: skip
    return head.read()
