"""Heads for single writers whom the fleet never met: what fine-tuning costs, and what caution saves.

A CNN is pre-trained on 60 writers of FEMNIST, who are then the fleet: a device each, FedAvg from the bundle's head. The
45 others get that head and make it their own with four fifths of what they wrote; judged on the last fifth, five times,
so that each example is held out once, and nothing is chosen by it.

naive       four passes at rate 0.1 on all examples, no more questions asked
both        proximal steps, or one Newton step with the fleet's statistics, whichever the writer's own folds prefer
            (`protos/model/head_kinds/personal.py`); slow, so only with --method
fleet's means  the discriminant of the fleet's own means beside its head, as means has it without an example
means       own class means beside the fleet's, in closed form; judged on classes left out as well
            (`protos/model/head_kinds/personal_means.py`): the mean of all candidates by their losses, the default
... as before: the mean of other candidates, the default until these were chosen
... the best one: whatever is best on the folds, by however little, or by two standard errors

Of a writer count the examples that a head alone has right, and those that the fleet's head alone has right. Who loses
has more of the second, by chance too: "would lose, were all alike" is the share of writers who would, if each such
example of everybody were the head's with the share that it is over all writers. "lose by the sign test": so many more
that of two equally good heads one writer of twenty would see them.

Each seed is a division of the writers, a CNN and a fleet of its own. Settings of "means" were fixed on 35 writers who
are judged nowhere here, with seeds from 100 on.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import reference_data
from benchmarks.one_pass.fleet import Fleet, Task
from benchmarks.one_pass.methods import averaged, plan_of
from benchmarks.paper_methods.rows import Asked, Row, kept, row
from firmware_tools.convert.many import Converter
from protos.datafiles import dataset
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle
from protos.model.head import Head
from protos.model.head_kinds.personal import personalise
from protos.model.head_kinds.personal_means import MIXES, FleetSums, fleet_means, own_means
from protos.statistics.moments import moments_of
from protos.update.trees import Tree

# Kinds of candidates, and standard errors by which one must be better.
METHODS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "both, two standard errors": (("steps", "statistics"), 2.0),
    "means": (("means",), None),
    "means, as before": (("means",), None),
    "means, the best one": (("means",), 0.0),
    "means, the best one by two standard errors": (("means",), 2.0),
}
# Candidates of the default before.
_BEFORE: dict[str, tuple[float, ...]] = {"weights": (1.0, 4.0, 16.0), "mixes": (0.1, 0.2, 0.3)}
# The others are slow: asked for by name.
_SHOWN = tuple(name for name, (kinds, _) in METHODS.items() if kinds == ("means",))
_QUICK = ("means",)
_TUNED_ON = 35
# Seeds of divisions; 0 and 1 were looked at when the other methods were settled.
_FIRST_DIVISION = 2
NAIVE_PASSES, NAIVE_RATE = 4, 0.1
# Each example of a writer is held out once.
FOLDS = 5


def rows(asked: Asked) -> list[Row]:
    """Accuracy over writers, how many gained and how many lost."""
    rounds = asked.rounds or (1 if asked.quick else 5)
    epochs = 4 if asked.quick else 8
    figures: dict[str, dict[str, list[float]]] = {}
    judged = []
    with Converter() as converter:
        for seed in range(asked.first, asked.first + asked.seeds):
            name = "-".join(["personal", str(seed), f"{epochs}-epochs", f"{rounds}-rounds", *asked.methods])
            found = kept(asked, name, partial(_seed, asked, converter, seed, rounds, epochs))
            judged.append(found["judged"])
            for name, mapping in found["methods"].items():
                for key, value in mapping.items():
                    figures.setdefault(name, {}).setdefault(key, []).append(value)
                print(f"seed {seed}: {name}: { ({key: round(v, 4) for key, v in mapping.items()}) }", file=sys.stderr,
                      flush=True)  # fmt: skip
    some = f"{min(judged)}" if len(set(judged)) == 1 else f"{min(judged)} to {max(judged)}"
    setting = f"{some} unseen writers, fleet of {found['fleet']}, {rounds} rounds"
    return [row(setting, name, key, values) for name, of in figures.items() for key, values in of.items()]


def _seed(asked: Asked, converter: Converter, seed: int, rounds: int, epochs: int) -> dict[str, Any]:
    bundle, seen, unseen = _source(asked, converter, seed, epochs)
    fleet_data, ours = _embedded(bundle, seen), _embedded(bundle, unseen)
    head, sums = _fleet(bundle, fleet_data, seed, rounds)
    print(f"seed {seed}: the fleet has trained", file=sys.stderr, flush=True)
    wanted = asked.methods or (_QUICK if asked.quick else _SHOWN)
    found, judged = _writers(bundle, head, sums, ours, seed, wanted)
    return {"methods": found, "judged": judged, "fleet": len(np.unique(fleet_data[3]))}


def _source(asked: Asked, converter: Converter, seed: int, epochs: int) -> tuple[Bundle, Path, Path]:
    """A bundle by writers of its own division, their data, and those of the others."""
    try:
        reference_data.root()
    except DataError as error:
        raise DataError("personal heads are shown on FEMNIST's writers", where=error.where, fix=error.fix) from error
    from benchmarks.inputs.pretrain import pretrain

    # Each step leaves its last file when it is done: what is there already is not made again.
    home = (asked.keep or asked.folder) / f"femnist-{seed}-{epochs}-epochs"
    seen, unseen = home / "pretrained_writers.npz", home / "fleet_writers.npz"
    if not unseen.exists():
        pretrain(home, epochs=epochs, seed=_FIRST_DIVISION + seed)
    if not (home / "writers").exists():
        done = converter.call("convert", home / "femnist_cnn.keras", "-o", home / "writers", "--calibrate", seen)
        if done.code:
            raise UsageError(f"convert: {done.stderr.strip().splitlines()[-1:]}", where="personal")
    return open_bundle(home / "writers"), seen, unseen


def _tuned_on() -> Any:
    """Writers by whom settings were chosen: not to be judged by."""
    everyone = np.unique(reference_data.femnist().owner)
    return np.random.default_rng(123).permutation(everyone)[:_TUNED_ON]


Embedded = tuple[Any, Any, Any, Any]


def _embedded(bundle: Bundle, path: Path) -> Embedded:
    """Integer embeddings, labels, what is held out, and whose."""
    read = dataset.fitted(dataset.load(path), bundle.manifest.backbone.input_shape)
    return Backbone(bundle, threads=2).embed(read.x), read.y.astype(np.int32), read.is_test, np.asarray(read.owner)


def _fleet(bundle: Bundle, data: Embedded, seed: int, rounds: int) -> tuple[Tree, FleetSums]:
    """The head of a run by the writers of the fleet, and what a round of statistics tells of them."""
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
    return fleet.head, FleetSums.of_plain(
        moments.square() * spec.output_scale**2, moments.sums * spec.output_scale, moments.counts, mean, scale
    )


def _writers(
    bundle: Bundle, fleet: Tree, sums: FleetSums, data: Embedded, seed: int, wanted: Sequence[str]
) -> tuple[dict[str, dict[str, float]], int]:
    x, y, _, owner = data
    spec, (mean, scale) = bundle.manifest.backbone, bundle.feature_affine()
    plain = (x.astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
    features = ((plain - mean) * scale).astype(np.float32)
    head = Head(bundle)
    without = fleet_means(fleet, sums, MIXES[1])
    methods = {name: method for name, method in METHODS.items() if name in wanted}
    right: dict[str, list[float]] = {"fleet": [], "fleet's means": [], "naive": [], **{name: [] for name in methods}}
    only: dict[str, list[tuple[int, int]]] = {name: [] for name in right}
    held: list[int] = []
    new: list[float] = []
    moved = dict.fromkeys(methods, 0.0)
    for writer in np.setdiff1d(np.unique(owner), _tuned_on()):
        own = np.flatnonzero(owner == writer)
        own = np.random.default_rng([seed, len(own)]).permutation(own)
        found = {name: np.zeros(0, np.bool_) for name in right}

        def judge(name: str, tree: Tree, rows: Any, found: dict[str, Any] = found) -> None:
            head.write(tree)
            found[name] = np.append(found[name], head.infer(plain[rows]).argmax(axis=1) == y[rows])

        for theirs in np.array_split(own, FOLDS):
            mine = np.setdiff1d(own, theirs)
            new += list(~np.isin(y[theirs], y[mine]))
            judge("fleet", fleet, theirs)
            judge("fleet's means", without, theirs)
            judge("naive", _naive(head, fleet, plain[mine], y[mine], seed), theirs)
            for name, (kinds, caution) in methods.items():
                if kinds == ("means",):
                    grid = _BEFORE if name == "means, as before" else {}
                    one = own_means(fleet, features[mine], y[mine], sums, seed=seed, caution=caution, **grid)
                else:
                    one = personalise(
                        fleet, features[mine], y[mine], kinds=kinds, fleet_gram=sums.gram,
                        fleet_examples=int(sums.examples), seed=seed, caution=caution or 0.0,
                    )  # fmt: skip
                moved[name] += (one.candidate.kind != "fleet") / FOLDS
                judge(name, one.tree, theirs)
        held.append(len(own))
        for name, values in found.items():
            right[name].append(float(values.mean()))
            only[name].append((int((values & ~found["fleet"]).sum()), int((~values & found["fleet"]).sum())))
    base, made = np.array(right["fleet"]), {}
    for name, values in right.items():
        gains = np.array(values) - base
        made[name] = {
            "accuracy, mean of writers": float(np.mean(values)),
            "accuracy, all examples": float(np.average(values, weights=held)),
            "points over fleet": 100 * float(gains.mean()),
            "its standard error over writers": 100 * float(gains.std(ddof=1)) / math.sqrt(len(gains)),
            "share of writers who gain": float((gains > 0).mean()),
            "share of writers who lose": float((gains < 0).mean()),
            **_chance(only[name]),
            "share of writers with a head of their own": moved.get(name, len(held) if name == "naive" else 0)
            / len(held),
        }
    made["fleet"]["share of held-out examples of classes that the writer lacks"] = float(np.mean(new))
    return made, len(held)


def _chance(only: Sequence[tuple[int, int]]) -> dict[str, float]:
    """How many writers would lose by chance, and how many lose more than that; of each, examples that one head alone
    has right: the new one, the fleet's."""
    won, lost = sum(one for one, _ in only), sum(one for _, one in only)
    if won + lost == 0:
        return {}
    share = won / (won + lost)
    alike = [sum(_binomial(n, k, share) for k in range((n + 1) // 2)) for n in (sum(one) for one in only)]
    beyond = [sum(_binomial(w + b, k, 0.5) for k in range(w + 1)) < 0.05 for w, b in only]
    return {
        "share of writers who would lose, were all alike": float(np.mean(alike)),
        "share of writers who lose by the sign test": float(np.mean(beyond)),
    }


def _binomial(n: int, k: int, share: float) -> float:
    return math.comb(n, k) * share**k * (1 - share) ** (n - k)


def _naive(head: Head, fleet: Tree, x: Any, y: Any, seed: int) -> Tree:
    """The compiled head's own steps, as a device would take them."""
    from edge_runtime.round.training import train

    head.write(fleet)
    steps = NAIVE_PASSES * -(-len(y) // head.batch_size)
    train(head, x, y, lambda array: array, steps=steps, inputs={"rate": NAIVE_RATE}, seed=seed, purpose=("naive",),
          allowed=lambda: None)  # fmt: skip
    return head.read()
