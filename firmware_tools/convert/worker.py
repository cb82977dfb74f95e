"""One conversion, from the model to a complete bundle folder. Runs in a child process: here TensorFlow is imported.

The steps: open and cut the model; read real examples; quantise the backbone; embed with the very engine that devices
run; measure agreement with the float model; compile the head; write everything; open the result and try it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.child import Progress
from firmware_tools.convert import agreement as agree
from firmware_tools.convert.class_sums import SUMS_FILE, write_class_sums
from firmware_tools.convert.examples import (
    Examples,
    choose,
    chosen_rows,
    class_names,
    load_examples,
)
from firmware_tools.convert.job import HEAD, PREPROCESSING, STRAIGHT, ConvertJob
from firmware_tools.convert.provenance import provenance_of, trainable_of
from firmware_tools.convert.quality.improve import QualityChoices
from firmware_tools.convert.quality.tuning_examples import tuning_of
from firmware_tools.convert.ranges import Tuning, backbone_spec, real_values
from firmware_tools.convert.sources.source import FloatModel, listed_layers
from firmware_tools.convert.sources.tflite_source import Extractor, labels_in, open_tflite
from firmware_tools.convert.tasks import (
    ANOMALY_CLASSES,
    Start,
    judged,
    only_normal,
    output_names,
    plain_outputs,
    start_of,
    warning_of,
)
from firmware_tools.convert.tasks import figures as score
from firmware_tools.convert.trainable.design import TailDesign
from firmware_tools.convert.trainable.parting import Parted, parted
from firmware_tools.inspect.bundle import report
from firmware_tools.inspect.model import ModelFacts
from protos.datafiles import dataset
from protos.datafiles.dataset import Dataset
from protos.errors import ModelError, UsageError
from protos.extras import advice
from protos.model.backbone import Backbone
from protos.model.bundle import MEAN, SCALE, TARGET_MEAN, TARGET_SCALE, open_bundle, record_of
from protos.model.head import Head
from protos.model.head_algebra import (
    MEAN_SQUARE_LENGTH,
    Array,
    Tree,
    apply_standardisation,
    standardisation_of,
    untrained_head,
)
from protos.model.head_kinds import diffusion
from protos.model.manifest import MANIFEST_FILE, HeadSpec, Manifest, Preprocessing, TensorSpec, schema_of
from protos.model.resemblance import RECORD, record_of_inputs, sample
from protos.model.task import ANOMALY, CLASSIFICATION, DIFFUSION, REGRESSION, task_of

BACKBONE_FILE, HEAD_FILE, INITIAL_FILE, TAIL_FILE = "backbone.tflite", "head.tflite", "initial.npz", "tail.tflite"
# Enough for a mean and a deviation of each feature to 2 or 3 per cent.
_STATISTICS_EXAMPLES = 2000
# Enough for the spread of each layer of a tail.
_SCALE_EXAMPLES = 128
# More than this share of right answers lost to integers is told, with what helps.
_MUCH_LOST = 0.01
# The TFLite quantiser takes no range narrower than about 2e-6: below it, every value becomes the same integer.
_VANISHED = 1e-6


def run(fields: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Convert as the job says, into the empty folder that it names; the result is a report of the bundle.

    Raises:
        EdgejouleError: anything that is wrong with the model, the data or the options.
    """
    job = ConvertJob.from_fields(fields)
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError("converting needs TensorFlow", fix=advice("workshop"))
    return _Conversion(job, progress).run()


class _Conversion:
    def __init__(self, job: ConvertJob, progress: Progress) -> None:
        self.job, self.progress = job, progress
        self.path = Path(job.model)
        self.where = self.path.name
        self.folder = Path(job.output)
        self.warnings: list[str] = []
        self.range_examples = 0
        self.quality: dict[str, Any] = {}
        self.parted: Parted | None = None
        self.tail: TailDesign | None = None
        self.untuned: bytes | None = None
        self.qat: dict[str, Any] = {}
        self.task = task_of(job.objective)
        # A regression's data name no classes, and need no names.
        self.known_names = job.class_names if self.task != REGRESSION else None

    def run(self) -> dict[str, Any]:
        self.progress(f"opening {self.where}")
        source = self._open()
        self._require_classifier(source)
        self.warnings += source.notes if isinstance(source, FloatModel) else ()
        tail = source.tail
        own = None if tail is None else len(tail["out_bias"])
        known_names = self._known_names(own)
        data = load_examples(
            self.job.calibrate,
            self.job.evaluate,
            source.input_shape,
            ANOMALY_CLASSES if self.task == ANOMALY and not self.job.class_names else known_names,
            renames=self.job.renames,
            front_end=self.job.front_end,
            quantities=0 if self.task == REGRESSION else None,
            vocabulary=source.vocabulary,
        )
        for line in data.accounts:
            self.progress(line)
        self.warnings += data.remarked
        from_model = source.classes if isinstance(source, FloatModel) else own
        numbers = isinstance(source, FloatModel) and source.one_number and self.task == CLASSIFICATION
        if numbers and isinstance(source, FloatModel) and source.constant and not self.job.fresh_head:
            raise ModelError(
                "ends in a softmax over one number, which is 1 whatever the model is given", where=self.where,
                fix="for classes of your own on the same backbone, --classes N --fresh-head",
            )  # fmt: skip
        if numbers and not (self.job.classes or self.job.class_names):
            raise ModelError(
                "gives one number that no sigmoid ends, as a regression does, and the head asked for is a classifier",
                where=self.where,
                fix="say --objective regression for a head that gives quantities; --classes 2 if it is the logit of "
                "two classes; for classes of your own on the same backbone, --classes N --fresh-head",
            )
        if self.task == CLASSIFICATION:
            names = class_names(known_names, self.job.classes, from_model, data, where=self.where)
        elif self.task == DIFFUSION:
            # What an encoder ends in are no classes.
            names = class_names(self.job.class_names, self.job.classes, None, data, where=self.where)
        else:
            names = output_names(self.job, data, self.where)
        if data.evaluation is not None:
            dataset.check(data.evaluation, source.input_shape, len(names), source.vocabulary)
        self._part(source, len(names))
        backbone, facts = self._backbone(source, data)
        whole = isinstance(source, Extractor) and source.cut is None and facts.operators[-1].name == "FULLY_CONNECTED"
        if whole and backbone.spec.embedding_width == len(names):
            self.warnings.append(
                f"the file gives {len(names)} numbers, as many as there are classes: if they are scores and no "
                "embedding, say --cut TENSOR, the input of its last layer"
            )
        affine = self._standardisation(backbone, data)
        if self.task == CLASSIFICATION:
            tail, note = self._usable_tail(source, tail, len(names))
            start = self._classifier(tail, note, affine, len(names))
        else:
            start = self._start(source, backbone, data, affine, len(names))
        figures = self._measure(source, backbone, tail, data, start, affine)
        if self.job.class_sums:
            self.progress("summing up the examples")
            write_class_sums(self.folder / SUMS_FILE, backbone, data, affine, len(names), where=self.where)
        self.progress("compiling the head")
        outputs = backbone.spec.embedding_width if self.task in (ANOMALY, DIFFUSION) else len(names)
        head_spec = self._write_head(affine, start, outputs, len(names))
        manifest = Manifest(
            name=self.job.name,
            classes=names,
            preprocessing=backbone.preprocessing,
            backbone=backbone.spec,
            head=head_spec,
            files={path: record_of(self.folder / path) for path in self._files()},
            provenance=self._provenance(source, facts, data, start.note) | figures | self._input_record(backbone, data),
            schema=schema_of(
                backbone.preprocessing,
                None,
                self.job.objective,
                tail=self.tail is not None,
                tokens=backbone.spec.vocabulary is not None,
                sums=self.job.class_sums,
            ),
        )
        (self.folder / MANIFEST_FILE).write_text(manifest.to_json())
        self._try(backbone, data)
        return report({"bundle": str(self.folder)}, self.progress) | {
            "warnings": self.warnings,
            "data": list(data.accounts),
        }

    def _known_names(self, own: int | None) -> tuple[str, ...] | None:
        """Names of the classes that are known before the data are read: those asked for, or those in the file."""
        job = self.job
        kept = self.task == CLASSIFICATION and own is not None and not job.fresh_head and job.classes in (None, own)
        if self.known_names is not None or job.kind != "tflite" or not kept or own is None:
            return self.known_names
        found = labels_in(self.path, own)
        if found is not None:
            self.progress(f"its classes are those that the file names: {', '.join(found[:6])}{', ...' * (own > 6)}")
        return found

    def _files(self) -> tuple[str, ...]:
        found = (BACKBONE_FILE, HEAD_FILE, INITIAL_FILE, *((SUMS_FILE,) if self.job.class_sums else ()))
        return found if self.parted is None else (*found, TAIL_FILE)

    def _part(self, source: FloatModel | Extractor, classes: int) -> None:
        """Part the model, where layers in front of its head are to train."""
        if self.job.trainable == HEAD:
            return
        if not isinstance(source, FloatModel):
            raise UsageError(
                f"--trainable {self.job.trainable}: its layers are integers already, and integers take no small steps",
                where=self.where, fix="give the float model that it was made from, or leave --trainable out",
            )  # fmt: skip
        rule = self._preprocessing(source)
        self.parted = parted(self.job, source, rule, classes, where=self.where, progress=self.progress)
        (self.folder / TAIL_FILE).write_bytes(self.parted.tail)

    def _features(self, backbone: Backbone, x: Any) -> Array:
        """What the head reads of raw examples: embeddings, or what the tail makes of them."""
        embeddings = backbone.dequantise(backbone.embed(x))
        return embeddings if self.parted is None else self.parted.features(embeddings)

    def _require_classifier(self, source: FloatModel | Extractor) -> None:
        """The classes of a new head must be told where the model is no classifier."""
        told = self.job.classes is not None or self.job.class_names is not None or self.task != CLASSIFICATION
        if isinstance(source, Extractor) or source.no_classifier is None or told:
            return
        raise ModelError(
            source.no_classifier, where=self.where,
            fix=f"name the embedding for a new head with --cut LAYER{listed_layers(source.layers)}, "
            "and its classes with --classes N; or say what the head is for: --objective regression (quantities) or "
            "--objective anomaly",
        )  # fmt: skip

    def _open(self) -> FloatModel | Extractor:
        job, residual = self.job, self.task == ANOMALY
        if job.kind == "tflite":
            if job.input_shape is not None:
                raise UsageError("--input-shape: a .tflite has a fixed one", where=self.where)
            return open_tflite(self.path, cut=job.cut, signature=job.signature)
        if job.kind == "saved_model":
            from firmware_tools.convert.sources.saved_model_source import open_saved_model

            return open_saved_model(
                self.path, cut=job.cut, input_shape=job.input_shape, signature=job.signature, residual=residual
            )
        from firmware_tools.convert.sources.keras_source import open_keras

        return open_keras(self.path, cut=job.cut, input_shape=job.input_shape, residual=residual)

    def _preprocessing(self, source: FloatModel | Extractor) -> Preprocessing:
        plain = isinstance(source, FloatModel) or source.vocabulary is not None
        choice = self.job.preprocess or ("none" if plain else STRAIGHT)
        if choice != "none" and isinstance(source, FloatModel) and source.takes != "float32":
            does = f"takes {source.takes} and scales it itself"
            does = does if source.vocabulary is None else "looks token ids up, and nothing scales them"
            raise UsageError(f"--preprocess {choice}: the model {does}", where=self.where, fix="leave --preprocess out")
        if choice != STRAIGHT:
            return Preprocessing(*PREPROCESSING[choice])
        if not isinstance(source, Extractor):
            raise UsageError(f"--preprocess {STRAIGHT} is for quantised .tflite models", where=self.where)
        end = source.facts.inputs[0]
        # int8 models take a raw value r as r - 128; the offset cancels the zero point, so that r arrives unchanged.
        offset = 0 if end.dtype == "uint8" else -128
        return Preprocessing(end.scales[0], (offset - end.zero_points[0]) * end.scales[0])

    def _float_values(self, source: FloatModel | Extractor) -> Callable[[Any], Array]:
        rule = self._preprocessing(source)
        return lambda raw: real_values(raw, rule)

    def _backbone(self, source: FloatModel | Extractor, data: Examples) -> tuple[Backbone, ModelFacts]:
        path = self.folder / BACKBONE_FILE
        rule = self._preprocessing(source)
        if isinstance(source, Extractor):
            option = "--qat" if self.job.qat is not None else "--activations int16"
            if self.job.qat is not None or self.job.activations != "int8":
                raise UsageError(
                    f"{option}: its integers stay as they are, and there is no float model to learn from",
                    where=self.where, fix="give its float .tflite, .keras, .h5 or SavedModel",
                )  # fmt: skip
            path.write_bytes(source.content)
            spec = backbone_spec(source.facts, source.input_shape, BACKBONE_FILE, source.vocabulary)
            try:
                return Backbone.from_file(path, spec, rule), source.facts
            except ModelError as error:
                # The copy bears our name; the user knows it by another.
                raise ModelError(error.what, where=self.where, fix=error.fix) from error
        if data.calibration is None:
            raise UsageError(
                "int8 ranges must come from real examples, and none are given", where=self.where,
                fix="give --calibrate DATA, or --eval DATA that has a training part",
            )  # fmt: skip
        from firmware_tools.convert.ranges import best_backbone

        if self.parted is not None:
            source, rule = self.parted.trunk, self.parted.rule
        chosen = choose(data.calibration, self.job.calibration_examples, self.job.seed)
        if len(chosen) < 50:
            self.warnings.append(f"only {len(chosen)} calibration examples: int8 ranges may be too narrow")
        tuning: Tuning | None = None
        if self.job.qat is not None:
            own = self.task == CLASSIFICATION and source.no_classifier is None and not self.job.fresh_head
            tuning, remarked, self.qat = tuning_of(self.job, source, data, self._float_values(source), own_tail=own)
            self.warnings += remarked
        choices = QualityChoices(
            self.job.equalise, self.job.bias_correction, self.job.layers, tuning is not None,
            self.job.activations == "int16",
        )  # fmt: skip
        backbone, facts, self.range_examples, self.quality = best_backbone(
            source, chosen, rule, path, where=self.where, progress=self.progress, choices=choices, tuning=tuning
        )
        if tuning is not None and tuning.untuned is not None:
            self.untuned = tuning.untuned
            self.warnings += [] if tuning.unlike is None else [f"--qat: {tuning.unlike}"]
        return backbone, facts

    def _usable_tail(self, source: FloatModel | Extractor, tail: Tree | None, classes: int) -> tuple[Tree | None, str]:
        """The pre-trained head, if it has the form asked for, and a sentence on how the head starts."""
        hidden = self.job.hidden_units
        if tail is None:
            return None, f"starts untrained: {source.tail_note}"
        if isinstance(source, FloatModel) and source.no_classifier is not None:
            return None, f"starts untrained: the model {source.no_classifier}"
        if self.job.fresh_head:
            return None, "starts untrained, as asked"
        if len(tail["out_bias"]) != classes:
            return None, f"starts untrained: the model has {len(tail['out_bias'])} classes, the bundle {classes}"
        found = tail["hidden_kernel"].shape[1] if "hidden_kernel" in tail else None
        if found != hidden:
            shape = f"a hidden layer of {found}" if found else "no hidden layer"
            return None, f"starts untrained: the model's own head has {shape}, asked for is {hidden or 'none'}"
        return tail, source.tail_note

    def _standardisation(self, backbone: Backbone, data: Examples) -> tuple[Array, Array]:
        basis = data.calibration if data.calibration is not None else data.evaluation
        if basis is None:
            self.warnings.append(
                "no examples given: features are not standardised, so the learning rate depends on this backbone; "
                "give --calibrate DATA"
            )
            width = backbone.spec.embedding_width
            return np.zeros(width, np.float32), np.full(width, math.sqrt(MEAN_SQUARE_LENGTH / width), np.float32)
        self.progress("measuring the features")
        if self.task == ANOMALY:
            basis = only_normal(basis)
        chosen = choose(basis, _STATISTICS_EXAMPLES, self.job.seed)
        if self.parted is not None:
            few = chosen[:_SCALE_EXAMPLES]
            self.tail = self.parted.design(backbone, backbone.dequantise(backbone.embed(few)))
        embeddings = self._features(backbone, chosen)
        alive = int((embeddings.std(axis=0) > 0).sum())
        if alive < embeddings.shape[1] / 2:
            self.warnings.append(f"only {alive} of {embeddings.shape[1]} features vary over the calibration examples")
        return standardisation_of(embeddings)

    def _measure(
        self,
        source: FloatModel | Extractor,
        backbone: Backbone,
        tail: Tree | None,
        data: Examples,
        start: Start,
        affine: tuple[Array, Array],
    ) -> dict[str, Any]:
        """Agreement of float and int8 on the evaluation examples, or on calibration ones when there are no others."""
        judged_on: Dataset | None = data.evaluation if data.evaluation is not None else data.calibration
        if judged_on is None or isinstance(source, Extractor):
            if tail is not None and data.evaluation is not None and self.task == CLASSIFICATION:
                # Its backbone is the file's own, bit for bit: there is no float one to compare with.
                embeddings = backbone.dequantise(backbone.embed(data.evaluation.x))
                right = agree.plain_accuracy(tail, embeddings, data.evaluation.y)
                self._warn_of_chance({"float": right}, data.evaluation, tail, embeddings)
            return {"agreement": None, "accuracy": None}
        x = judged_on.x if data.evaluation is not None else choose(judged_on, _STATISTICS_EXAMPLES, self.job.seed)
        self.progress(f"comparing float and int8 on {len(x)} examples")
        original = source.embed_all(x, self._float_values(source))
        integer = self._features(backbone, x)
        agreement = agree.cosine_agreement(original, integer)
        if not np.abs(original).max() > _VANISHED:
            raise ModelError(
                f"the float embeddings vanish (largest value {np.abs(original).max():.2g})", where=self.where,
                fix="is the model trained, and --preprocess the one that it was trained with?",
            )  # fmt: skip
        agree.require(agreement, self.job.min_agreement, where=self.where)
        figures = dataclasses.asdict(agreement) | {"on": "evaluation" if data.evaluation is not None else "calibration"}
        if self.task not in (CLASSIFICATION, DIFFUSION) and data.evaluation is not None:
            outputs = plain_outputs(start, self.task, affine)
            before, after = (judged(self.task, outputs(array), judged_on.y) for array in (original, integer))
            if (warning := warning_of(self.task, start, before)) is not None:
                self.warnings.append(warning)
            return {"agreement": figures, "accuracy": None, "score": score(self.task, before, after, len(judged_on))}
        if tail is None or data.evaluation is None:
            return {"agreement": figures, "accuracy": None}
        accuracy = {
            "float": agree.plain_accuracy(tail, original, judged_on.y),
            "int8": agree.plain_accuracy(tail, integer, judged_on.y),
            "examples": len(judged_on),
        }
        if self.untuned is not None:
            plain = backbone.dequantise(self._untuned(backbone).embed(x))
            tuned = self.quality["quantisation"]["fine_tuning"]
            tuned["accuracy"] = agree.plain_accuracy(tail, plain, judged_on.y)
        lost = accuracy["float"] - accuracy["int8"]
        if lost > _MUCH_LOST and self.job.activations == "int8":
            ways = "--activations int16" + ("" if self.job.qat else ", or --qat DATA")
            self.warnings.append(
                f"8-bit activations lose {100 * lost:.1f} points on {len(judged_on)} examples: try {ways}"
            )
        self._warn_of_chance(accuracy, judged_on, tail, original)
        return {"agreement": figures, "accuracy": accuracy}

    def _untuned(self, backbone: Backbone) -> Backbone:
        """The backbone before its weights were trained on: of the same ends."""
        assert self.untuned is not None
        with tempfile.TemporaryDirectory(prefix="edgejoule-untuned-") as folder:
            path = Path(folder) / BACKBONE_FILE
            path.write_bytes(self.untuned)
            return Backbone.from_file(path, backbone.spec, backbone.preprocessing)

    def _warn_of_chance(self, accuracy: dict[str, Any], judged: Dataset, tail: Tree, embeddings: Array) -> None:
        """A carried-over head that guesses: the data are not what it was trained on, or its classes are others."""
        names = judged.class_names or tuple(map(str, range(tail["out_bias"].shape[0])))
        if (order := agree.other_order(tail, embeddings, judged.y, names)) is not None:
            way = f"say --class-names {','.join(order[1])}" if judged.class_names else "number the labels as it does"
            self.warnings.append(
                f"the model's own last layer is right on {accuracy['float']:.1%} of {len(judged)} examples, and would "
                f"be on {order[0]:.1%}, had it the classes in the order {', '.join(order[1])}: {way}, if that is so"
            )
            return
        chance = float(np.bincount(judged.y).max()) / len(judged)
        if accuracy["float"] <= agree.guessing(judged.y):
            self.warnings.append(
                f"the model's own last layer is right on {accuracy['float']:.1%} of {len(judged)} examples, and naming "
                f"the most frequent class alone on {chance:.1%}: it guesses. Is --preprocess the one that it was "
                "trained with, and are the classes in its order? Else say --fresh-head"
            )

    def _input_record(self, backbone: Backbone, data: Examples) -> dict[str, Any]:
        """How the backbone's first integers are distributed over the examples that it was calibrated on."""
        basis = data.calibration if data.calibration is not None else data.evaluation
        if basis is None:
            return {}
        found = record_of_inputs(sample(basis.x), backbone.spec, backbone.preprocessing)
        return {RECORD: dataclasses.asdict(found)}

    def _classifier(self, tail: Tree | None, note: str, affine: tuple[Array, Array], classes: int) -> Start:
        if tail is not None:
            return Start(apply_standardisation(tail, *affine), note, carried=True)
        from firmware_tools.convert.objectives import OBJECTIVES

        uniform, hidden = OBJECTIVES[self.job.objective].uniform_start, self.job.hidden_units
        return Start(untrained_head(len(affine[0]), classes, hidden, seed=self.job.seed, uniform=uniform), note)

    def _start(
        self,
        source: FloatModel | Extractor,
        backbone: Backbone,
        data: Examples,
        affine: tuple[Array, Array],
        classes: int,
    ) -> Start:
        """Where the head of a regression or of anomalies starts, by calibration examples."""
        basis = data.calibration if data.calibration is not None else data.evaluation
        if basis is None:
            raise UsageError(f"{self.task} learns what is usual from examples, and none are given", where=self.where,
                             fix="give --calibrate DATA or --eval DATA")  # fmt: skip
        basis = only_normal(basis) if self.task == ANOMALY else basis
        chosen = chosen_rows(len(basis), _STATISTICS_EXAMPLES, self.job.seed)
        embeddings = backbone.dequantise(backbone.embed(basis.x[chosen]))
        try:
            return start_of(self.job, source, embeddings, basis.y, affine, classes)
        except ModelError as error:
            raise ModelError(error.what, where=self.where, fix=error.fix) from error

    def _write_head(self, affine: tuple[Array, Array], start: Start, outputs: int, classes: int) -> HeadSpec:
        from firmware_tools.convert.head_model import HeadDesign, compile_head

        job, (mean, scale) = self.job, affine
        hidden = job.hidden_units or diffusion.HIDDEN if self.task == DIFFUSION else job.hidden_units
        design = HeadDesign(
            mean, scale, outputs, hidden, job.batch_size, job.objective, job.optimiser, start.target_mean,
            start.target_scale, classes, self.tail,
        )  # fmt: skip
        (self.folder / HEAD_FILE).write_bytes(compile_head(design))
        kept = {**start.tree, MEAN: mean, SCALE: scale}
        if self.tail is not None:
            kept |= {name: np.zeros(shape, np.float32) for name, shape in self.tail.shapes.items()}
        if start.target_mean is not None and start.target_scale is not None:
            kept |= {TARGET_MEAN: start.target_mean, TARGET_SCALE: start.target_scale}
        np.savez(self.folder / INITIAL_FILE, allow_pickle=False, **kept)
        return HeadSpec(
            file=HEAD_FILE,
            initial_file=INITIAL_FILE,
            batch_size=job.batch_size,
            hidden_units=hidden,
            objective=job.objective,
            optimiser=job.optimiser,
            tensors=tuple(TensorSpec(name, shape) for name, shape in design.shapes.items()),
            inputs=design.inputs,
            tail=None if self.tail is None else self.tail.spec(TAIL_FILE),
            sums_file=SUMS_FILE if job.class_sums else None,
        )

    def _try(self, backbone: Backbone, data: Examples) -> None:
        """Open what was written, and compare the compiled head with plain arithmetic."""
        bundle = open_bundle(self.folder)
        head = Head(bundle)
        start = Start(bundle.initial_head(), "", *(bundle.target_affine() if self.task == REGRESSION else ()))
        basis = data.evaluation if data.evaluation is not None else data.calibration
        features: Array | None = None
        if basis is not None:
            embeddings = backbone.dequantise(backbone.embed(basis.x[:64]))
            features = None if self.parted is None else self.parted.features(embeddings)
        else:
            embeddings = np.zeros((1, backbone.spec.embedding_width), np.float32)
        if self.task == DIFFUSION:
            moments = np.arange(len(embeddings), dtype=np.int32) * 3 % diffusion.STEPS
            classes = np.arange(len(embeddings), dtype=np.int32) % len(bundle.manifest.classes)
            latents = diffusion.latents_of(embeddings, *bundle.feature_affine())
            found = head.denoise(latents, classes, moments)
            expected = diffusion.guess(start.tree, latents, classes, moments)
        else:
            found = head.infer(embeddings)
            plain = plain_outputs(start, self.task, bundle.feature_affine())
            expected = plain(embeddings if features is None else features)
        error = float(np.abs(found - expected).max())
        if not error <= 1e-3 * max(1.0, float(np.abs(expected).max())):
            raise ModelError(f"the compiled head is off by {error:g} from plain arithmetic", where=HEAD_FILE)

    def _provenance(
        self, source: FloatModel | Extractor, facts: ModelFacts, data: Examples, start: str
    ) -> dict[str, Any]:
        said = provenance_of(self.job, source, facts, data, start, ranges_from=self.range_examples)
        return said | self.quality | self.qat | trainable_of(self.job, self.parted)
