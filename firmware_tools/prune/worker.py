"""One pruning, from the model to the smaller one. Runs in a child process: here TensorFlow is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.child import Progress
from firmware_tools.convert.job import PREPROCESSING
from firmware_tools.convert.ranges import real_values
from firmware_tools.prune.channels import Channels, counted
from firmware_tools.prune.choosing import by_ratios, by_sensitivity, to_target
from firmware_tools.prune.integer_cost import Timed, integer_model, timed_in_turn
from firmware_tools.prune.job import PruneJob
from protos.datafiles import dataset
from protos.energy.boards import board
from protos.errors import DataError, ModelError, UsageError
from protos.extras import advice
from protos.model.manifest import Preprocessing

_TIMED = ("latency", "joules")


def run(fields: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Prune as the job says and write the model; the result is a report.

    Raises:
        EdgejouleError: anything that is wrong with the model, the data or the options.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError("pruning needs TensorFlow", fix=advice("workshop"))
    return _Pruning(PruneJob.from_fields(fields), progress).run()


class _Pruning:
    def __init__(self, job: PruneJob, progress: Progress) -> None:
        from firmware_tools.convert.sources.keras_loading import load_keras

        self.job, self.progress, self.tried = job, progress, False
        self.where = Path(job.model).name
        self.model = load_keras(Path(job.model))
        if len(self.model.inputs) != 1 or len(self.model.outputs) != 1:
            raise ModelError("has several inputs or outputs", where=self.where, fix="save the branch that is used")
        if None in (open_shape := tuple(self.model.inputs[0].shape[1:])):
            raise ModelError(f"leaves the size of its input open, {open_shape}", where=self.where,
                             fix="save it with an Input of the size that it will run at")  # fmt: skip
        last = self.model.layers[-1]
        activation = getattr(getattr(last, "activation", None), "__name__", "")
        self.probabilities = activation == "softmax" or type(last).__name__ == "Softmax"
        self.channels = Channels(self.model, where=self.where)
        self.families = self.channels.families()
        self.integer: list[bytes] = []  # the whole model and the pruned one
        if not self.families:
            kept = f"; layers that are not understood: {', '.join(self.channels.kept_whole)}"
            raise ModelError("has no filter that could be removed" + (kept if self.channels.kept_whole else ""),
                             where=self.where)  # fmt: skip
        self.train_x, self.train_y, self.test_x, self.test_y = self._examples()

    def run(self) -> dict[str, Any]:
        from firmware_tools.prune.fine_tuning import fine_tune
        from firmware_tools.prune.surgery import without

        job = self.job
        before = self._cost(self.model, set())
        if job.refit:
            from firmware_tools.prune.last_layer import refit

            refit(self.model, self.train_x, self.train_y, where=self.where, seed=job.seed)
            before["accuracy_refitted"] = self._accuracy(self.model)
            self.progress("fitted the last layer to the training examples")
        self.progress(f"scoring {sum(len(family.channels) for family in self.families)} channels by {job.criterion}")
        scores = self._scores()
        gone, shares = self._chosen(scores)
        small = without(self.model, self.channels, gone)
        cut = self._accuracy(small)
        if self.train_x is not None:
            from firmware_tools.prune.reconstruction import reconstruct

            fitted = reconstruct(self.model, small, self.channels, gone, self.train_x, seed=job.seed)
            self.progress(f"fitted {fitted} layers to what they gave before")
        if job.refit:
            refit(small, self.train_x, self.train_y, where=self.where, seed=job.seed)
        after = self._cost(small, gone)
        pruned = self._accuracy(small)
        if job.epochs:
            fine_tune(
                small, self._teacher() if job.teacher else None, self.train_x, self.train_y,
                probabilities=self.probabilities, epochs=job.epochs, rate=job.rate, seed=job.seed,
                mirror=job.mirror, shift=job.shift, progress=self.progress,
            )  # fmt: skip
            if not all(np.isfinite(np.asarray(weight)).all() for weight in small.get_weights()):
                raise ModelError("fine-tuning ended in weights that are not finite", where=self.where,
                                 fix=f"give a lower --rate than {job.rate:g}")  # fmt: skip
        after["accuracy"] = self._accuracy(small) if job.epochs else pruned
        self._add_times(before, after)
        small.save(job.output)
        stays = counted(gone, self.families)
        return {
            "model": self.where,
            "criterion": job.criterion,
            "before": before,
            "after": after | {"accuracy_cut": cut, "accuracy_before_fine_tuning": pruned},
            "layers": [{"layers": list(layers), "kept": kept, "of": count} for layers, (kept, count) in stays.items()],
            "sensitivity": shares,
            "kept_whole": list(dict.fromkeys(self.channels.kept_whole)),
            "examples": {
                "train": 0 if self.train_y is None else len(self.train_y),
                "held_out": 0 if self.test_y is None else len(self.test_y),
            },
            "joules_method": "estimated",
            "board": job.board,
            "epochs": job.epochs,
            "seed": job.seed,
        }

    def _teacher(self) -> Any:
        from firmware_tools.convert.sources.keras_loading import load_keras

        if self.job.taught_by is None:
            return self.model
        teacher, name = load_keras(Path(self.job.taught_by)), Path(self.job.taught_by).name
        for what in ("inputs", "outputs"):
            ours, theirs = ([tuple(one.shape[1:]) for one in getattr(model, what)] for model in (self.model, teacher))
            if ours != theirs:
                raise ModelError(f"has {what} of shape {theirs}, {self.where} of {ours}", where=name)
        last = teacher.layers[-1]
        ends = (
            getattr(getattr(last, "activation", None), "__name__", "") == "softmax" or type(last).__name__ == "Softmax"
        )
        if ends != self.probabilities:
            raise ModelError(f"one of it and {self.where} ends in softmax, the other does not", where=name)
        return teacher

    def _examples(self) -> tuple[Any, Any, Any, Any]:
        if self.job.data is None:
            return None, None, None, None
        shape = tuple(int(size) for size in self.model.inputs[0].shape[1:])
        data = dataset.fitted(dataset.load(self.job.data), shape)
        if len(data) == 0:
            raise DataError("has no examples", where=self.job.data)
        classes = int(self.model.outputs[0].shape[-1])
        if int(data.y.max()) >= classes:
            raise DataError(f"has class {int(data.y.max())}, the model {classes} classes", where=self.job.data)
        # One example that is not finite would make the fitted weights so, too.
        dataset.check(data, shape, classes)
        rule = Preprocessing(*PREPROCESSING[self.job.preprocess])

        def values(part: Any) -> tuple[Any, Any]:
            return real_values(part.x.reshape(len(part), *shape), rule), part.y.astype(np.int32)

        train = data.train()
        if len(train) == 0:
            raise DataError("has no training examples", where=self.job.data)
        lacking = np.setdiff1d(np.arange(classes), train.y)
        if self.job.refit and len(lacking) >= classes - 1:
            raise DataError("has training examples of one class alone: a last layer fitted to them says nothing",
                            where=self.job.data, fix="give examples of each class, or leave --refit out")  # fmt: skip
        if self.job.refit and len(lacking):
            self.progress(f"{len(lacking)} of {classes} classes have no training example, such as {lacking[0]}: the "
                          "last layer is fitted anew, and will hardly say them")  # fmt: skip
        test = data.test() if data.is_test.any() else None
        return *values(train), *((None, None) if test is None else values(test))

    def _scores(self) -> dict[int, float]:
        from firmware_tools.prune import criteria
        from firmware_tools.prune.fine_tuning import cross_entropy

        if self.job.criterion == "l1":
            return criteria.l1(self.model, self.channels)
        if self.job.criterion == "least_squares":
            from firmware_tools.prune.least_squares import least_squares

            return least_squares(self.model, self.channels, self.train_x, seed=self.job.seed)
        rows = np.random.default_rng([self.job.seed, 0x7A]).permutation(len(self.train_x))[: self.job.score_examples]
        loss = cross_entropy(probabilities=self.probabilities)
        return criteria.taylor(self.model, self.channels, self.train_x[rows], self.train_y[rows], loss)

    def _chosen(self, scores: dict[int, float]) -> tuple[set[int], dict[str, float]]:
        job = self.job
        if job.ratios is not None:
            known = {layer for family in self.families for layer in family.layers}
            if strange := sorted(set(job.ratios) - known - {"*"}):
                raise UsageError(f"no layer {strange[0]!r} can be pruned", where="--ratio",
                                 fix=f"one of {', '.join(sorted(known))}")  # fmt: skip
            gone = by_ratios(self.families, scores, job.ratios, job.multiple)
            if not gone and any(job.ratios.values()):
                sizes = sorted({len(one.channels) for one in self.families})
                raise UsageError(
                    f"no channel can go: layers of {', '.join(map(str, sizes))} filters keep a multiple of "
                    f"{job.multiple}, and a tenth at least",
                    where="--ratio", fix="give a larger share, or a smaller --multiple",
                )  # fmt: skip
            return gone, {}
        if job.max_drop is not None:
            return by_sensitivity(self.families, scores, self._trained_accuracy, job.max_drop, job.multiple)
        measure = self._measure()
        target = job.target_share * measure(set())
        gone = to_target(
            self.channels, self.families, scores, measure, target, job.multiple, across=job.criterion != "l1",
            steps=12 if job.target in ("macs", "parameters") else 6,
        )  # fmt: skip
        if (reached := measure(gone)) > target * (1.1 if job.target in _TIMED else 1.0):
            raise UsageError(
                f"{job.target} of {reached / measure(set()):.0%} is the least that keeps a tenth of each layer",
                where="--target", fix="ask for less, or for a smaller --multiple",
            )  # fmt: skip
        return gone, {}

    def _measure(self) -> Callable[[set[int]], float]:
        from firmware_tools.prune.surgery import without

        if self.job.target in ("macs", "parameters"):
            place = ("macs", "parameters").index(self.job.target)
            return lambda gone: float(self.channels.cost(gone)[place])

        known: dict[frozenset[int], float] = {}

        def measured(gone: set[int]) -> float:
            key = frozenset(gone)
            if key not in known:
                content = integer_model(without(self.model, self.channels, gone), self._some(), where=self.where)
                if self.job.target == "int8_bytes":
                    known[key] = float(len(content))
                else:
                    known[key] = self._share(content) if gone else 1.0
                self.progress(f"{self.job.target} with {len(gone)} channels less: {known[key]:.4g}")
            return known[key]

        return measured

    def _some(self) -> Any:
        """Examples for ranges; noise where there are none, which is enough for sizes and times."""
        if self.train_x is not None:
            return self.train_x
        shape = [int(size) for size in self.model.inputs[0].shape[1:]]
        return np.random.default_rng(0).uniform(0, 1, (100, *shape)).astype(np.float32)

    def _cost(self, model: Any, gone: set[int]) -> dict[str, Any]:
        content = integer_model(model, self._some(), where=self.where)
        self.integer.append(content)
        return {
            "parameters": int(model.count_params()),
            "macs": self.channels.cost(gone)[0],
            "int8_bytes": len(content),
            "accuracy": self._accuracy(model),
        }

    def _share(self, content: bytes) -> float:
        """Of what the whole model takes in the same turns. Joules are that times watts: their shares are the same."""
        found = self._timed(self.integer[0], content)
        if found is None:
            raise ModelError(f"its {self.job.target} cannot be measured: the engine that devices run refuses "
                             "it as an int8 model", where=self.where, fix="give another --target")  # fmt: skip
        return found[1].share

    def _add_times(self, *reports: dict[str, Any]) -> None:
        found: Sequence[Timed | None] | None = self._timed(*self.integer)
        if found is None:
            self.progress("the engine that devices run refuses it as an int8 model: no latency is measured")
            found = [None] * len(reports)
        for one, timed in zip(reports, found, strict=True):
            one["latency_ms"] = None if timed is None else timed.ms
            one["latency_share"] = None if timed is None else timed.share
            one["joules"] = None if timed is None else 1e-3 * timed.ms * board(self.job.board).cpu_w

    def _timed(self, *contents: bytes) -> list[Timed] | None:
        found = timed_in_turn(contents, tried=self.tried)
        self.tried = found is not None
        return found

    def _accuracy(self, model: Any) -> float | None:
        if self.test_x is None:
            return None
        found = model.predict(self.test_x, batch_size=256, verbose=0).argmax(axis=-1)
        return float((found == self.test_y).mean())

    def _trained_accuracy(self, gone: set[int]) -> float:
        from firmware_tools.prune.surgery import without

        rows = np.random.default_rng([self.job.seed, 0x5E]).permutation(len(self.train_x))[: self.job.score_examples]
        small = without(self.model, self.channels, gone)
        found = small.predict(self.train_x[rows], batch_size=256, verbose=0).argmax(axis=-1)
        return float((found == self.train_y[rows]).mean())
