"""A float model in two: the trunk that is quantised and frozen, and the tail that stays in real numbers and trains."""

from __future__ import annotations

import dataclasses

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from firmware_tools.child import Progress
from firmware_tools.convert.job import ConvertJob
from firmware_tools.convert.ranges import float_file, static_backbone, with_lifted
from firmware_tools.convert.sources.source import FloatModel
from firmware_tools.convert.trainable.choice import DEFAULT_BYTES, Choice, choices, fitting
from firmware_tools.convert.trainable.design import TailDesign, scales_of, trained_of
from firmware_tools.convert.trainable.graph import part, require_tail, tails
from firmware_tools.convert.trainable.memory import working_memory
from protos.energy.boards import board
from protos.errors import UsageError
from protos.model.backbone import Backbone
from protos.model.head_algebra import Array
from protos.model.manifest import Preprocessing


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Parted:
    """A model that was parted.

    Attributes:
        trunk: the float trunk, as a model to quantise.
        rule: raw values to what the trunk takes.
        tail: the float tail, a .tflite.
        choice: what trains of it; offered: what else could have.
        measured_bytes: working memory of a step, by the compiled file.
    """

    trunk: FloatModel
    rule: Preprocessing
    tail: bytes
    choice: Choice
    offered: tuple[Choice, ...]
    measured_bytes: int

    def features(self, real: Array) -> Array:
        """float32 [N, features] of what the trunk gives, real numbers [N, D], by the tail as the model had it."""
        run = _Runner(self.tail)
        found = np.empty((len(real), self.choice.tail.width), np.float32)
        for index, one in enumerate(real):
            found[index] = run(one.reshape(1, *self.choice.tail.shape)).reshape(-1)
        return found

    def design(self, backbone: Backbone, real: Array) -> TailDesign:
        """What is compiled.

        Args:
            backbone: the quantised trunk.
            real: what it gives on calibration examples, float32 [N, D].
        """
        tail, spec = self.choice.tail, backbone.spec
        scales = scales_of(tail, real.reshape(len(real), *tail.shape))
        trained = trained_of(tail, self.choice.kernels, scales)
        return TailDesign(tail, trained, spec.output_dtype, spec.output_scale, spec.output_zero_point)


def parted(
    job: ConvertJob, source: FloatModel, rule: Preprocessing, classes: int, *, where: str, progress: Progress
) -> Parted:
    """Part a model as the job says.

    Args:
        rule: raw values to what the model takes.

    Raises:
        ModelError: it cannot be parted, or its graph cannot be made static.
        UsageError: nothing fits into the budget.
    """
    flat = source.flat
    if flat is None:
        static = static_backbone(source, where=where)
        rule = with_lifted(rule, static.lifted.multiply, static.lifted.add, source.input_shape[-1])
        flat = float_file(static)
    found, reason = tails(flat, where=where)
    require_tail(found, reason, where=where)
    offered = choices(found, job.trainable, job.pointwise, job.batch_size, classes, board(job.board), where=where)
    most = job.train_memory or DEFAULT_BYTES
    least: tuple[int, Choice] | None = None
    for choice in fitting(offered, most, job.train_joules, job.batch_size, where=where):
        progress(f"measuring a step of {len(choice.tail.biased)} biases and {len(choice.kernels)} kernels")
        measured = _measured(job, choice, classes)
        if measured <= most:
            trunk, tail = part(flat, choice.tail, where=where)
            return Parted(_model(source, trunk, choice), rule, tail, choice, offered, measured)
        least = (measured, choice)
    assert least is not None
    raise UsageError(
        f"the least that trains takes {least[0] / 1e3:.0f} kB a step of {job.batch_size} examples, more than the "
        f"{most / 1e3:.0f} kB of the budget", where=where,
        fix=f"allow more with --train-memory, or try --batch-size {max(1, job.batch_size * most // least[0])}",
    )  # fmt: skip


def _measured(job: ConvertJob, choice: Choice, classes: int) -> int:
    from firmware_tools.convert.head_model import HeadDesign, compile_head

    tail = TailDesign(choice.tail, trained_of(choice.tail, choice.kernels, {}), "int8", 1.0, 0)
    width = choice.tail.width
    design = HeadDesign(
        np.zeros(width, np.float32), np.ones(width, np.float32), classes, job.hidden_units, job.batch_size,
        job.objective, job.optimiser, tail=tail,
    )  # fmt: skip
    return working_memory(compile_head(design), "train")


def _model(source: FloatModel, trunk: bytes, choice: Choice) -> FloatModel:
    run, width = _Runner(trunk), int(np.prod(choice.tail.shape))

    def embed(x: Array) -> Array:
        return run(x).reshape(1, width)

    return dataclasses.replace(
        source, flat=trunk, embed=embed, width=width, fixed_batch=1, cut=choice.tail.cut, keep=run,
        takes="float32" if source.vocabulary is None else source.takes,
    )  # fmt: skip


class _Runner:
    """One example at a time through a float .tflite."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        taken = self._interpreter.get_input_details()[0]
        self._source, self._takes = taken["index"], taken["dtype"]
        self._target = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, x: Array) -> Array:
        self._interpreter.set_tensor(self._source, np.ascontiguousarray(x, self._takes))
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._target), np.float32)
