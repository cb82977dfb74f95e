"""One frozen function for one example, rewritten so that every operator of it has an int8 kernel.

The graph is run through once with symbols in place of values. What is known (constants, shapes, counters of loops) is
computed on the way; what is not becomes an operation of the new graph. So:

- the batch is 1 and every shape is known;
- real numbers are float32, whatever they were (a SavedModel of a policy such as mixed_float16 works in halves, and
  int8 kernels are made of float32 ones alone);
- what quantisation-aware training put in to round activations (FakeQuant) only limits them: integers round by
  themselves. Weights are those that it rounded;
- a loop over time (LSTM, GRU, SimpleRNN) is written out step by step, and its lists of tensors vanish: TFLite has no
  int8 kernel for a loop;
- what masks a text's padding (``ids != 0``) becomes a table of ones and zeros that the ids are looked up in, and what
  chooses by it, ``b + mask * (a - b)``: TFLite makes numbers of truth values in float only;
- a negation becomes a multiplication by -1, a square one by itself, and an ELU is made of a SELU, since TFLite does
  these in float only; not a negation before ``Erfc``, where the converter looks for it to see a GELU;
- what is done to the input first, and is affine in each of its channels (Normalization, Rescaling, BatchNormalization),
  is lifted out of the graph. Channels of unlike units then get one scale each: one int8 scale for 101,325 Pa and 0.02 g
  leaves nothing of the latter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from firmware_tools.convert.frozen_graph import frozen_function
from firmware_tools.convert.static_tokens import FLOATS, Mask, of_ids, of_mask
from protos.errors import ModelError

_COPIES = ("Identity", "StopGradient", "PreventGradient", "EnsureShape", "CheckNumerics", "Snapshot")
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf")
_FAKE = ("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
_AFFINE = ("Mul", "AddV2", "Add", "Sub", "RealDiv", "BiasAdd")
_NORMALISATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
# A written-out loop of more steps makes a graph that takes the converter minutes, and a board a long time.
_MAX_STEPS = 1024
_FOLDED_BYTES = 1 << 24
_MOST_DIMENSIONS = 4
# Klambauer et al. 2017, arXiv:1706.02515, eq. 14: lambda times alpha.
_SELU_BELOW = 1.0507009873554805 * 1.6732632423543772


@dataclasses.dataclass(frozen=True, slots=True)
class Affine:
    """Each channel (last dimension) of the input times ``multiply`` plus ``add``; float64, [C] or []."""

    multiply: npt.NDArray[np.float64]
    add: npt.NDArray[np.float64]

    @property
    def is_identity(self) -> bool:
        return bool((self.multiply == 1).all() and (self.add == 0).all())

    @property
    def is_usable(self) -> bool:
        """Whether every channel stays a channel: no factor of 0, no NaN."""
        return bool(np.isfinite(self.multiply).all() and np.isfinite(self.add).all() and (self.multiply != 0).all())

    def same(self, other: Affine) -> bool:
        return np.array_equal(self.multiply, other.multiply) and np.array_equal(self.add, other.add)


IDENTITY = Affine(np.array(1.0), np.array(0.0))


@dataclasses.dataclass(frozen=True, slots=True)
class StaticFunction:
    """``function`` takes what ``lifted`` makes of one example, float32 [1, *shape], and gives what the source gave."""

    function: Any
    lifted: Affine


@dataclasses.dataclass(slots=True)
class _TensorList:
    items: list[Any]
    shape: Any
    dtype: Any


def static_function(
    concrete: Any, shape: Sequence[int], *, where: str, lift: bool = True, vocabulary: int | None = None
) -> StaticFunction:
    """Rewrite a concrete function of one input and one output.

    Args:
        concrete: TensorFlow's; its input is [batch, *shape] with a batch of None or 1, of any numeric type.
        shape: of one example.
        where: name of the model, for errors.
        lift: take what is affine in the channels out of the front.
        vocabulary: the input is so many token ids, int32 from 0 on, and the function's, too; nothing is lifted.

    Raises:
        ModelError: a loop whose length depends on the values, or one that is too long.
    """
    frozen = frozen_function(concrete)
    (source,) = [tensor for tensor in frozen.inputs if tensor.dtype != tf.resource]
    uses: list[Affine] = []
    if lift and vocabulary is None:
        _Run(frozen, shape, IDENTITY, where, uses).outputs(source)
    distinct = [use for at, use in enumerate(uses) if not any(use.same(other) for other in uses[:at])]
    lifted = distinct[0] if len(distinct) == 1 and distinct[0].is_usable else IDENTITY
    run = _Run(frozen, shape, lifted, where, [], vocabulary)
    (output,) = run.outputs(source)
    definition = run.graph.as_graph_def()
    ends = run.placeholder.name, output.name
    wrapped = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(definition, name=""), [])
    one, other = (wrapped.graph.get_tensor_by_name(name) for name in ends)
    return StaticFunction(wrapped.prune([one], [other]), lifted)


class _Run:
    """One walk through the graph. A value is a numpy array, a tensor of the new graph, an `Affine` of the input, a
    `Mask`, or a `_TensorList`."""

    def __init__(
        self,
        frozen: Any,
        shape: Sequence[int],
        lifted: Affine,
        where: str,
        uses: list[Affine],
        vocabulary: int | None = None,
    ) -> None:
        self.frozen, self.lifted, self.where, self.uses, self.vocabulary = frozen, lifted, where, uses, vocabulary
        tokens = vocabulary is not None
        self.graph, self._scratch = tf.Graph(), tf.Graph()
        with self.graph.as_default():
            self.placeholder = tf.compat.v1.placeholder(tf.int32 if tokens else tf.float32, [1, *shape], name="x")
        self._bodies: dict[str, Any] = {}
        self._constants: dict[int, tuple[Any, Any]] = {}
        self._known: dict[Any, npt.NDArray[Any]] = {}
        self._made: list[tuple[Affine, Any]] = []
        self._library = {one.signature.name: one for one in frozen.graph.as_graph_def().library.function}

    def outputs(self, source: Any) -> list[Any]:
        """The outputs of the frozen function, as tensors of the new graph."""
        values = self._walk(self.frozen.outputs, {source.ref(): self.placeholder if self.vocabulary else IDENTITY})
        tensors = [self._tensor(value) for value in values]
        with self.graph.as_default():
            return [tf.identity(tensor, name="embedding") for tensor in tensors]

    def _walk(self, wanted: Sequence[Any], known: dict[Any, Any]) -> list[Any]:
        """Values of tensors of one graph, given those of its inputs."""
        waiting = [one.op for one in wanted]
        while waiting:
            op = waiting[-1]
            if all(tensor.ref() in known for tensor in op.outputs):
                waiting.pop()
                continue
            missing = [tensor.op for tensor in op.inputs if tensor.ref() not in known]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            results = self._value(op, [known[tensor.ref()] for tensor in op.inputs])
            known.update({tensor.ref(): value for tensor, value in zip(op.outputs, results, strict=True)})
        return [known[one.ref()] for one in wanted]

    def _value(self, op: Any, inputs: list[Any]) -> list[Any]:
        kind = op.type
        if kind == "Const":
            if op not in self._known:
                self._known[op] = np.asarray(tf.make_ndarray(op.get_attr("value")))
            return [self._known[op]]
        if kind in _COPIES:
            return inputs[:1]
        if kind in _CALLS:
            return self._call(op.get_attr("f").name, inputs)
        if kind in _LOOPS:
            return self._loop(op, inputs)
        if kind in _BRANCHES and isinstance(inputs[0], np.ndarray):
            return self._call(op.get_attr("then_branch" if inputs[0].item() else "else_branch").name, inputs[1:])
        if kind.startswith("TensorList"):
            return [self._list(op, kind, inputs)]
        if kind in _SHAPES and (static := self._shape(op, inputs)) is not None:
            return static
        if any(isinstance(tensor, Affine) for tensor in inputs):
            if (moved := _moved(op, inputs)) is not None:
                return moved
            for tensor, value in zip(op.inputs, inputs, strict=True):
                if isinstance(value, Affine) and tensor.dtype not in FLOATS:
                    raise ModelError(
                        f"{kind} {op.name} works on its {tensor.dtype.name} input before it becomes real numbers",
                        where=self.where,
                        fix="move Rescaling or a cast to float in front of it, or export the model without it",
                    )
        if (simpler := self._simplified(op, inputs)) is not None:
            return simpler
        if self.vocabulary is not None:
            simpler = of_ids(op, inputs, self.graph, self.placeholder, self.vocabulary)
            if simpler is None:
                simpler = of_mask(op, inputs, self.graph, self._tensor, self._real_copy)
            if simpler is not None:
                return simpler
        if op.inputs and all(isinstance(tensor, np.ndarray) for tensor in inputs):
            folded = self._folded(op, inputs)
            if folded is not None:
                return folded
        tensors = [self._tensor(tensor) for tensor in inputs]
        if kind == "Cast" and op.outputs[0].dtype in FLOATS and tensors[0].dtype in FLOATS:
            return tensors
        if kind in _FAKE:
            bounds = inputs[1:3] if len(inputs) == 3 else [np.float32(op.get_attr(one)) for one in ("min", "max")]
            if all(isinstance(bound, (np.ndarray, np.floating)) for bound in bounds):
                low, high = _nudged(bounds[0], bounds[1], op.get_attr("num_bits"), op.get_attr("narrow_range"))
                with self.graph.as_default():
                    return [tf.minimum(tf.maximum(tensors[0], low), high)]
        if kind == "Split" and isinstance(inputs[0], np.ndarray) and tensors[1].shape.is_fully_defined():
            return self._slices(tensors[1], int(inputs[0]), len(op.outputs))
        if kind == "Neg" and op.outputs[0].dtype in FLOATS and not _before_erfc(op.outputs[0]):
            with self.graph.as_default():
                return [tf.multiply(tensors[0], tf.constant(-1.0, tensors[0].dtype))]
        if kind == "Elu":  # what SELU is below 0, less its factor of 1.0507 * 1.6733; above, x itself
            with self.graph.as_default():
                below = tf.minimum(tf.nn.selu(tensors[0]), 0.0) * (1.0 / _SELU_BELOW)
                return [tf.nn.relu(tensors[0]) + below]
        if kind == "Square" and op.outputs[0].dtype in FLOATS:
            with self.graph.as_default():
                return [tf.multiply(tensors[0], tensors[0])]
        if kind == "SquaredDifference" and (op.outputs[0].shape.rank or 0) > _MOST_DIMENSIONS:
            # Of more dimensions (GroupNormalization has five) the converter makes a SQUARE, which stays float.
            with self.graph.as_default():
                less = tf.subtract(*tensors)
                return [tf.multiply(less, less)]
        return list(self._copy(self.graph, op, tensors).outputs)

    def _slices(self, value: Any, axis: int, parts: int) -> list[Any]:
        """The equal parts of a tensor; a SPLIT of which one part is unused stays float in the converter."""
        sizes = value.shape.as_list()
        size, begin = sizes[axis] // parts, [0] * len(sizes)
        sizes[axis] = size
        slices = []
        with self.graph.as_default():
            for part in range(parts):
                begin[axis % len(sizes)] = part * size
                slices.append(tf.slice(value, list(begin), sizes))
        return slices

    def _simplified(self, op: Any, inputs: list[Any]) -> list[Any] | None:
        """A product with zeros is zeros, a sum with zeros the other: a recurrent layer begins with a state of zeros."""
        if op.type == "ZerosLike" and isinstance(inputs[0], tf.Tensor) and inputs[0].shape.is_fully_defined():
            return [np.zeros(inputs[0].shape, np.float32 if op.outputs[0].dtype in FLOATS else
                             op.outputs[0].dtype.as_numpy_dtype)]  # fmt: skip
        if op.type not in ("Mul", "AddV2") or op.outputs[0].dtype not in FLOATS:
            return None
        for one, other in (inputs, inputs[::-1]):
            if isinstance(one, np.ndarray) and not isinstance(other, (np.ndarray, Affine)) and not one.any():
                static = other.shape.is_fully_defined() and np.broadcast_shapes(one.shape, other.shape) == other.shape
                if static:
                    return [other] if op.type == "AddV2" else [np.zeros(other.shape, one.dtype)]
        return None

    def _call(self, name: str, inputs: list[Any]) -> list[Any]:
        body = self._body(name)
        return self._walk(
            body.outputs, {tensor.ref(): value for tensor, value in zip(body.inputs, inputs, strict=True)}
        )

    def _body(self, name: str) -> Any:
        if name not in self._bodies:
            with self.frozen.graph.as_default():
                self._bodies[name] = function_def_to_graph(self._library[name])
        return self._bodies[name]

    def _loop(self, op: Any, values: list[Any]) -> list[Any]:
        condition, body = op.get_attr("cond").name, op.get_attr("body").name
        for _ in range(_MAX_STEPS + 1):
            (more,) = self._call(condition, values)
            if not isinstance(more, np.ndarray):
                raise ModelError(
                    f"the length of its loop {op.name} depends on the data (masking?)", where=self.where,
                    fix="give the recurrent layer no mask and a fixed number of steps, or --cut before it",
                )  # fmt: skip
            if not more.item():
                return values
            values = self._call(body, values)
        raise ModelError(
            f"its loop {op.name} takes more than {_MAX_STEPS} steps", where=self.where,
            fix="shorten the sequence (strides, pooling), or --cut before it",
        )  # fmt: skip

    def _list(self, op: Any, kind: str, inputs: list[Any]) -> Any:
        def number(value: Any) -> int:
            if not isinstance(value, np.ndarray):
                raise ModelError(f"a list of tensors ({op.name}) is indexed by the data", where=self.where,
                                 fix="--cut before it")  # fmt: skip
            return int(value)

        if kind in ("TensorListReserve", "EmptyTensorList"):
            count = number(inputs[1]) if kind == "TensorListReserve" else 0
            return _TensorList([None] * count, inputs[0], op.get_attr("element_dtype"))
        if kind == "TensorListFromTensor":
            value = inputs[0]
            if isinstance(value, Mask):
                with self.graph.as_default():
                    parts = [Mask(part) for part in tf.unstack(value.ones)]
                return _TensorList(parts, inputs[1], op.get_attr("element_dtype"))
            if isinstance(value, np.ndarray):
                return _TensorList(list(value), inputs[1], op.get_attr("element_dtype"))
            with self.graph.as_default():
                return _TensorList(tf.unstack(self._tensor(value)), inputs[1], op.get_attr("element_dtype"))
        held: _TensorList = inputs[0]
        if kind == "TensorListGetItem":
            return self._item(held, number(inputs[1]))
        if kind == "TensorListSetItem":
            items = list(held.items)
            items[number(inputs[1])] = inputs[2]
            return dataclasses.replace(held, items=items)
        if kind == "TensorListPushBack":
            return dataclasses.replace(held, items=[*held.items, inputs[1]])
        if kind == "TensorListLength":
            return np.array(len(held.items), np.int32)
        if kind == "TensorListStack":
            with self.graph.as_default():
                return tf.stack([self._tensor(self._item(held, index)) for index in range(len(held.items))])
        raise ModelError(f"operation {kind} {op.name} is not known here", where=self.where, fix="--cut before it")

    def _item(self, held: _TensorList, index: int) -> Any:
        if held.items[index] is None:
            return np.zeros(np.asarray(held.shape).tolist(), held.dtype.as_numpy_dtype)
        return held.items[index]

    def _shape(self, op: Any, inputs: list[Any]) -> list[Any] | None:
        shapes = []
        for tensor in inputs:
            found = tensor.shape if isinstance(tensor, np.ndarray) else self._symbol(tensor).shape
            if isinstance(found, tf.TensorShape):
                if not found.is_fully_defined():
                    return None
                found = tuple(found.as_list())
            shapes.append(found)
        dtype = op.outputs[0].dtype.as_numpy_dtype
        if op.type == "Rank":
            return [np.array(len(shapes[0]), dtype)]
        if op.type == "Size":
            return [np.array(np.prod(shapes[0], dtype=np.int64), dtype)]
        return [np.array(shape, dtype) for shape in shapes]

    def _folded(self, op: Any, inputs: list[Any]) -> list[Any] | None:
        """The outputs as constants; None where TensorFlow does not compute them ahead, or they are large."""
        if sum(tensor.nbytes for tensor in inputs) > _FOLDED_BYTES:
            return None
        with self._scratch.as_default():
            made = self._copy(self._scratch, op, [tf.constant(tensor) for tensor in inputs])
            values = []
            for tensor in made.outputs:
                if (
                    not tensor.shape.is_fully_defined()
                    or (tensor.shape.num_elements() or 0) * tensor.dtype.size > _FOLDED_BYTES
                ):
                    return None
                # What TensorFlow itself uses to know shapes: computes a tensor that depends on constants only.
                value = pywrap_tf_session.TF_TryEvaluateConstant_wrapper(self._scratch._c_graph, tensor._as_tf_output())
                if value is None:
                    return None
                values.append(np.asarray(value))
        return values

    def _copy(self, graph: Any, op: Any, tensors: list[Any], *, real: bool = False) -> Any:
        """The operation again; ``real``: of what were truth values, in real numbers."""
        attributes = {name: value for name, value in op.node_def.attr.items() if not name.startswith("_")}
        types = [tensor.dtype for tensor in op.outputs]
        if graph is self.graph:
            attributes = {name: _single(value, real=real) for name, value in attributes.items()}
            types = [tf.float32 if kind in FLOATS or (real and kind == tf.bool) else kind for kind in types]
        with graph.as_default():
            # Names come from layers, so that messages of the converter can be read.
            return graph.create_op(op.type, tensors, types, name=op.name.replace("^", "_"), attrs=attributes)

    def _real_copy(self, op: Any, tensors: list[Any]) -> Any:
        return self._copy(self.graph, op, tensors, real=True)

    def _symbol(self, value: Any) -> Any:
        if isinstance(value, Mask):
            return value.ones
        return self.placeholder if isinstance(value, Affine) else value

    def _tensor(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if id(value) not in self._constants:
                real = tf.as_dtype(value.dtype) in FLOATS
                with self.graph.as_default():
                    self._constants[id(value)] = (tf.constant(value.astype(np.float32) if real else value), value)
            return self._constants[id(value)][0]
        if isinstance(value, Mask):  # a truth value after all, for what is not known above
            with self.graph.as_default():
                return tf.greater(value.ones, 0.5)
        if not isinstance(value, Affine):
            return value
        self.uses.append(value)
        if value.same(self.lifted):
            return self.placeholder
        for known, tensor in self._made:
            if known.same(value):
                return tensor
        with self.graph.as_default():
            tensor = self.placeholder * value.multiply.astype(np.float32) + value.add.astype(np.float32)
        self._made.append((value, tensor))
        return tensor


def _moved(op: Any, inputs: list[Any]) -> list[Any] | None:
    """The input after one more step that is affine in its channels; None where this is no such step."""
    if op.type == "Cast" and op.outputs[0].dtype in FLOATS:
        return inputs[:1]
    rank = op.outputs[0].shape.rank
    if op.type in _NORMALISATIONS and isinstance(inputs[0], Affine):
        if op.get_attr("is_training") or op.get_attr("data_format") != b"NHWC":
            return None
        if not all(isinstance(tensor, np.ndarray) for tensor in inputs[1:5]):
            return None
        gamma, beta, mean, variance = (tensor.astype(np.float64) for tensor in inputs[1:5])
        factor = gamma / np.sqrt(variance + op.get_attr("epsilon"))
        moved = _then(_then(inputs[0], "Mul", factor), "AddV2", beta - mean * factor)
        return [moved, *inputs[1:5], *([inputs[4]] if len(op.outputs) == 6 else [])]
    if op.type not in _AFFINE or op.outputs[0].dtype not in FLOATS or rank is None:
        return None
    first = isinstance(inputs[0], Affine)
    value, constant = (inputs[0], inputs[1]) if first else (inputs[1], inputs[0])
    if not isinstance(constant, np.ndarray) or constant.ndim > rank:
        return None
    sizes = constant.shape
    if any(size != 1 for size in sizes[:-1]):
        return None
    by_channel = constant.astype(np.float64).reshape(sizes[-1:] if sizes and sizes[-1] != 1 else ())
    if rank < 2 and by_channel.ndim:
        return None
    if first:
        return [_then(value, op.type, by_channel)]
    if op.type == "Sub":  # constant - value
        return [_then(_then(value, "Mul", np.array(-1.0)), "AddV2", by_channel)]
    return None if op.type == "RealDiv" else [_then(value, op.type, by_channel)]


def _nudged(low: Any, high: Any, bits: int, narrow: bool) -> tuple[Any, Any]:
    """The ends between which FakeQuant keeps values: moved so that zero is one of its steps, float32.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1, as TensorFlow's kernels do it.
    """
    first, last = (1 if narrow else 0), 2**bits - 1
    bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
    scale = (top - bottom) / (last - first)
    # A range of nothing, as of an activation that was never above zero, keeps nothing but zero.
    scale = np.where(scale > 0, scale, np.finfo(np.float64).tiny)
    zero = np.clip(np.rint(first - bottom / scale), first, last)
    return ((first - zero) * scale).astype(np.float32), ((last - zero) * scale).astype(np.float32)


def _single(attribute: Any, *, real: bool = False) -> Any:
    """An attribute of an operation, with float32 where it names another type of real numbers."""
    reals = {each_float.as_datatype_enum for each_float in (*FLOATS, *((tf.bool,) if real else ()))}
    if attribute.type in reals or any(one in reals for one in attribute.list.type):
        changed = type(attribute)()
        changed.CopyFrom(attribute)
        if attribute.type in reals:
            changed.type = tf.float32.as_datatype_enum
        for at, one in enumerate(attribute.list.type):
            changed.list.type[at] = tf.float32.as_datatype_enum if one in reals else one
        return changed
    return attribute


def _then(value: Affine, kind: str, constant: npt.NDArray[np.float64]) -> Affine:
    if kind in ("Mul", "RealDiv"):
        factor = constant if kind == "Mul" else 1.0 / np.where(constant == 0, np.nan, constant)
        return Affine(value.multiply * factor, value.add * factor)
    return Affine(value.multiply, value.add + (-constant if kind == "Sub" else constant))


def _before_erfc(tensor: Any, depth: int = 4) -> bool:
    """Whether a negated value goes, by multiplications alone, into an ``Erfc``."""
    return any(
        consumer.type == "Erfc"
        or (depth > 0 and consumer.type in ("Mul", "RealDiv") and _before_erfc(consumer.outputs[0], depth - 1))
        for consumer in tensor.consumers()
    )
