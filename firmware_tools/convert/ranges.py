"""How wide the int8 ranges should be: narrow ones clip rare large values, wide ones round all the others coarsely.

The converter takes the least and the greatest value that it saw, so more examples only ever widen the ranges, and the
rounding error grows with them. On ResNet8 the embedding error is 3.3 % with the ranges of 10 examples and 4.2 % with
those of 500. So ranges of a few nested subsets are tried, and the one whose embeddings are nearest to the float ones
over all the examples wins: clipping that hurts shows there. (The trade-off: Nagel et al. 2021, arXiv:2106.08295, 3.1.)

Float backbone to integer backbone: post-training quantisation on real examples.

Weights of convolutions get one scale per output channel; input, output and everything between are int8. Jacob et al.
2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.optimize import calibrator

from firmware_tools.child import Progress
from firmware_tools.convert.converter_words import converter_words
from firmware_tools.convert.quality.fine_tuning import Tuned, TuningData, fine_tuned
from firmware_tools.convert.quality.improve import QualityChoices, improved
from firmware_tools.convert.quality.sixteen_bits import sixteen_bits
from firmware_tools.convert.sources.source import FloatModel, listed_layers
from firmware_tools.convert.sources.tflite_source import describe
from firmware_tools.convert.static_graph import StaticFunction, static_function
from firmware_tools.inspect.model import ModelFacts, read_bytes
from protos.datafiles.stored import Rows
from protos.errors import EdgejouleError, ModelError, NonFiniteError
from protos.model.backbone import Backbone
from protos.model.head_algebra import Array, Tree
from protos.model.manifest import TOKENS, BackboneSpec, ChannelAffine, Preprocessing
from protos.model.resemblance import compared, record_of_inputs, sample

__all__ = []


# A message that the child process died while it did this blames the converter and not the file.
CONVERTING = "running the TFLite converter"


def static_backbone(model: FloatModel, *, where: str) -> StaticFunction:
    """The cut model for one example, rewritten for int8 kernels; see `firmware_tools.convert.static_graph`.

    Raises:
        ModelError: it has a loop that cannot be written out, or works on integers.
    """
    spec = tf.TensorSpec([1, *model.input_shape], model.takes, name="x")
    traced = tf.function(lambda x: model.embed(x), input_signature=[spec], autograph=False).get_concrete_function()
    try:
        return static_function(traced, model.input_shape, where=where, vocabulary=model.vocabulary)
    except EdgejouleError:
        raise
    except (ValueError, TypeError, KeyError, NotImplementedError, tf.errors.OpError) as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(f"its graph cannot be made static: {words}", where=where, fix=_way_on(model)) from error


def quantise_backbone(
    model: FloatModel,
    static: StaticFunction | None,
    examples: npt.NDArray[Any],
    preprocess: Callable[[Any], Array],
    *,
    where: str,
    progress: Progress,
) -> tuple[bytes, ModelFacts]:
    """The integer .tflite of a cut model, and what is in it.

    Args:
        model: the cut float model.
        static: the same, by `static_backbone`; None where the model came as a float .tflite, which is quantised.
        examples: raw calibration examples [N, *input_shape], N >= 1.
        preprocess: raw values to what ``static`` takes.
        where: name of the model for errors.
        progress: told now and then how far calibration is.

    Raises:
        ModelError: the converter cannot handle the model, or a float operator is left inside.
    """

    def representative() -> Iterator[list[Array]]:
        for index in range(len(examples)):
            if index % 100 == 0:
                progress(f"measuring ranges: example {index} of {len(examples)}")
            yield [model.given(preprocess(examples[index : index + 1]))]
        progress(CONVERTING)

    progress(CONVERTING)
    try:
        if static is not None:
            content = _converted(static, representative)
        else:
            assert model.flat is not None
            content = quantised_flat(model.flat, representative)
    except Exception as error:  # the converter raises what its passes, written in C++, report
        raise ModelError(
            f"the TFLite converter cannot handle it: {converter_words(str(error))}", where=where, fix=_way_on(model)
        ) from error
    facts = read_bytes(content, where="backbone.tflite")
    _require_integer(facts, model, where)
    ends = (*facts.inputs, *facts.outputs)
    wanted = ["int8" if model.vocabulary is None else TOKENS, "int8"]
    if [tensor.dtype for tensor in ends] != wanted or any(len(t.scales) != 1 for t in ends if t.dtype == "int8"):
        raise ModelError(
            f"the converted ends are {[tensor.dtype for tensor in ends]}, not {' and '.join(wanted)}", where=where,
            fix=_way_on(model),
        )  # fmt: skip
    ends = ends if model.vocabulary is None else ends[1:]
    # A scale that is denormal means a constant output: nothing was learned, or the data are all alike.
    if not all(np.isfinite(tensor.scales[0]) and tensor.scales[0] > 1e-30 for tensor in ends):
        raise ModelError("the calibration data give a constant input or embedding", where=where,
                         fix="calibrate with varied, real examples")  # fmt: skip
    return content, facts


def _require_integer(facts: ModelFacts, model: FloatModel, where: str) -> None:
    if inside := facts.float_operator_counts():
        raise ModelError(
            f"float operators are left inside the backbone: {describe(inside)}", where=where,
            fix=f"cut before them, or replace these layers by ones with an int8 kernel{listed_layers(model.layers)}",
        )  # fmt: skip


def _converted(static: StaticFunction, representative: Callable[[], Iterator[list[Array]]]) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([static.function], static.function)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    # Plain builtins are allowed so that the converter finishes and the float operators can be named afterwards.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def quantised_flat(content: bytes, representative: Callable[[], Iterator[list[Array]]]) -> bytes:
    """The int8 .tflite of a float one: the two steps by which the converter ends, ranges and then integers.

    Args:
        content: a float32 .tflite of one input and one output.
        representative: gives its inputs, [1, ...] each.
    """
    measuring = calibrator.Calibrator(calibrator.add_intermediate_tensors(content))
    measured = measuring.calibrate(representative)
    return bytes(mlir_quantize(measured, input_data_type=tf.int8, output_data_type=tf.int8))


def _way_on(model: FloatModel) -> str:
    return f"cut before what it cannot handle with --cut LAYER{listed_layers(model.layers)}"


_SUBSETS = (8, 24, 96)
_JUDGED_EXAMPLES = 256
_MANY_OPERATIONS = 1000


@dataclasses.dataclass(slots=True)
class Tuning:
    """What weights are trained on, and how: see `firmware_tools.convert.quality.fine_tuning`.

    Attributes:
        examples: raw [N, ...], in memory or in their file; labels of them, [N], are read where there is a tail.
        where: their file.
        tail: the model's own last layer, or None.
        untuned: filled in: the integer file before.
        unlike: filled in: a warning where the examples are unlike those of the calibration.
    """

    examples: Rows
    labels: npt.NDArray[np.int32]
    where: str
    tail: Tree | None
    steps: int
    rate: float
    seed: int
    untuned: bytes | None = None
    unlike: str | None = None


def backbone_spec(
    facts: ModelFacts, input_shape: tuple[int, ...], file: str, vocabulary: int | None = None
) -> BackboneSpec:
    """What the manifest says of an integer backbone with these facts; ``vocabulary``, where it takes token ids."""
    taken, given = facts.inputs[0], facts.outputs[0]
    return BackboneSpec(
        file=file,
        input_shape=input_shape,
        input_dtype=taken.dtype,
        input_scale=taken.scales[0] if vocabulary is None else 1.0,
        input_zero_point=taken.zero_points[0] if vocabulary is None else 0,
        embedding_width=int(np.prod(given.shape)),
        output_dtype=given.dtype,
        output_scale=given.scales[0],
        output_zero_point=given.zero_points[0],
        macs=facts.macs(),
        vocabulary=vocabulary,
    )


def real_values(raw: npt.NDArray[Any], rule: Preprocessing) -> Array:
    """Raw values as what ``rule`` makes of them, float32; computed in float64, since 101,325 Pa needs its last bits."""
    real = np.asarray(raw, np.float64) * rule.multiply + rule.add
    if rule.per_channel is not None:
        real = real * rule.per_channel.multiply + rule.per_channel.add
    return real.astype(np.float32)


def with_lifted(
    rule: Preprocessing, multiply: npt.NDArray[np.float64], add: npt.NDArray[np.float64], channels: int
) -> Preprocessing:
    """Preprocessing, followed by ``x * multiply + add`` with values [C] or []; one factor for all stays one factor.

    A channel whose factor is 0 (the layer in front leaves nothing of it) or no number cannot be lifted: refused by the
    manifest, and left in the model by the caller.
    """
    if multiply.ndim == add.ndim == 0 or (np.ptp(multiply) == 0 and np.ptp(add) == 0):
        factor, offset = float(multiply.flat[0]), float(add.flat[0])
        return Preprocessing(rule.multiply * factor, rule.add * factor + offset)
    spread = [
        tuple(float(each_value) for each_value in np.broadcast_to(value, (channels,))) for value in (multiply, add)
    ]
    return Preprocessing(rule.multiply, rule.add, ChannelAffine(spread[0], spread[1]))


def _spread(count: int, total: int) -> npt.NDArray[np.int64]:
    """``count`` indices, evenly spread over ``total``."""
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def best_backbone(
    model: FloatModel,
    examples: npt.NDArray[Any],
    preprocessing: Preprocessing,
    path: Path,
    *,
    where: str,
    progress: Progress,
    choices: QualityChoices | None = None,
    tuning: Tuning | None = None,
) -> tuple[Backbone, ModelFacts, int, dict[str, Any]]:
    """Quantise a cut model with the best of some ranges, and write it to ``path``.

    Args:
        model: the cut float model.
        examples: raw calibration examples [N, *input_shape], N >= 1.
        preprocessing: raw values to what the float model takes.
        path: file to write; left-overs of a failed attempt may stay there.
        where: name of the model for errors.
        progress: told how far it is.
        choices: what is done beside plain quantisation; see `firmware_tools.convert.quality.improve`.
        tuning: what weights are trained on, and how; None leaves them as they are.

    Returns:
        The runner of the integer backbone (its ``preprocessing`` includes what was lifted out of the model's front),
        its facts, how many examples gave its ranges, and for the provenance: the loss as a share of the energy of the
        embeddings, what was done about it, and the layers where they are asked for.

    Raises:
        ModelError: see `firmware_tools.convert.ranges`.
    """

    static = None if model.flat is not None else static_backbone(model, where=where)
    whole = preprocessing
    if static is not None:
        whole = with_lifted(preprocessing, static.lifted.multiply, static.lifted.add, model.input_shape[-1])
    judged = examples[_spread(min(len(examples), _JUDGED_EXAMPLES), len(examples))]
    original = model.embed_all(judged, lambda raw: real_values(raw, preprocessing))
    if bad := int((~np.isfinite(original).all(axis=1)).sum()):
        raise NonFiniteError(
            f"the float model itself gives NaN or infinity for {bad} of {len(original)} examples", where=where,
            fix="is --preprocess the one that it was trained with? Else look for a root, a logarithm or a division in "
            "it, or take an earlier checkpoint",
        )  # fmt: skip
    if (original == original[:1]).all() and not (judged == judged[:1]).all():
        raise ModelError(
            f"the float model itself gives the same embedding for all of {len(original)} examples, and no head can "
            "tell them apart", where=where,
            fix="is --preprocess the one that it was trained with? Else its units died in training (a ReLU that is "
            "never above 0): take an earlier checkpoint, or --cut before them",
        )  # fmt: skip

    def spec_of(facts: ModelFacts) -> BackboneSpec:
        return backbone_spec(facts, model.input_shape, path.name, model.vocabulary)

    def error_of(content: bytes) -> float:
        path.write_bytes(content)
        facts = read_bytes(content, where=path.name)
        runner = Backbone.from_file(path, spec_of(facts), whole)
        return float(np.square(runner.dequantise(runner.embed(judged)) - original).sum())

    best: tuple[float, bytes, int] | None = None
    tried: list[bytes] = []
    # A loop that was written out has thousands of operations, and the converter takes a minute for each attempt.
    large = static is not None and len(static.function.graph.get_operations()) >= _MANY_OPERATIONS
    subsets = _SUBSETS[1:2] if large else _SUBSETS
    for count in (*(subset for subset in subsets if subset < len(examples)), len(examples)):
        content, _ = quantise_backbone(
            model, static, examples[_spread(count, len(examples))], lambda raw: real_values(raw, whole),
            where=where, progress=progress,
        )  # fmt: skip
        tried.append(content)
        error = error_of(content)
        if best is None or error < best[0]:
            best = (error, content, count)
    assert best is not None
    error, content, count = best
    energy = float(np.square(original).sum())
    quality: dict[str, Any] = {}
    how = choices or QualityChoices()
    large = large and not how.wide
    if tuning is not None and large:
        raise ModelError(
            "cannot be fine-tuned as integers: its loop was written out into thousands of operators", where=where,
            fix="leave --qat out",
        )  # fmt: skip
    if energy > 0 and how.wants_float(error / energy) and not large:
        progress("looking at what integers lose")

        def requantise(changed: bytes) -> bytes:
            flat, rows = dataclasses.replace(model, flat=changed), examples[_spread(count, len(examples))]
            return quantise_backbone(
                flat, None, rows, lambda raw: real_values(raw, whole), where=where, progress=progress
            )[0]  # fmt: skip

        real = model.flat if model.flat is not None else float_file(static)
        inputs = model.given(real_values(judged, whole).reshape(len(judged), *model.input_shape))

        def embedded(other: bytes, raw: npt.NDArray[Any]) -> Array:
            path.write_bytes(other)
            spec = spec_of(read_bytes(other, where=path.name))
            runner = Backbone.from_file(path, spec, whole)
            return runner.dequantise(runner.embed(raw))

        def tuned(float_file: bytes, integer: bytes) -> Tuned:
            assert tuning is not None
            data = TuningData(
                tuning.examples,
                lambda raw: model.given(real_values(raw, whole).reshape(len(raw), *model.input_shape)),
                lambda raw: model.embed_all(raw, lambda values: real_values(values, preprocessing)),
                tuning.tail, tuning.labels, tuning.steps, tuning.rate, tuning.seed,
            )  # fmt: skip
            spec = spec_of(read_bytes(integer, where=path.name))
            known = record_of_inputs(sample(examples), spec, whole)
            tuning.unlike = compared(known, spec, whole, tuning.examples, where=tuning.where)
            tuning.untuned = integer
            return fine_tuned(float_file, integer, data, embedded, progress, where=where)

        def widened(float_file: bytes, integer: bytes) -> bytes:
            def rows() -> Iterator[list[Array]]:
                for index in range(len(examples)):
                    one = real_values(examples[index : index + 1], whole).reshape(1, *model.input_shape)
                    yield [model.given(one)]

            progress(CONVERTING)
            try:
                found = sixteen_bits(float_file, [integer, *tried], rows, where=where)
            except Exception as error:  # the quantiser raises what its passes, written in C++, report
                raise ModelError(
                    f"cannot be given 16-bit activations: {converter_words(str(error))}", where=where,
                    fix="leave --activations int16 out; --equalise and --qat keep to 8 bits",
                ) from error  # fmt: skip
            _require_integer(read_bytes(found[0], where="backbone.tflite"), model, where)
            # Which ranges of the ends are the best, 8 bits between them may have hidden.
            return min(found, key=error_of)

        found = improved(
            real, content, error / energy, lambda other: error_of(other) / energy, requantise, inputs, how,
            None if tuning is None else tuned, widened, where=where,
        )  # fmt: skip
        content = found.content
        quality = {
            "quantisation": {"loss": found.loss, **found.done, "layers": [asdict(layer) for layer in found.layers]}
        }
    path.write_bytes(content)
    facts = read_bytes(content, where=path.name)
    return Backbone.from_file(path, spec_of(facts), whole), facts, count, quality


def float_file(static: StaticFunction | None) -> bytes:
    """The float .tflite of a static model."""
    assert static is not None
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([static.function], static.function).convert())
