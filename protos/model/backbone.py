"""The frozen integer backbone: raw examples in, quantised embeddings out.

One example at a time: a fixed batch of one keeps the arena as small as it gets, needs no re-planning, and is what
the Edge TPU takes. Raw uint8 values go through a table of 256 entries, so quantising them is one look-up.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.datafiles.rows import are_token_ids
from protos.errors import DataError, ModelError, NonFiniteError, ShapeError
from protos.model.bundle import Bundle
from protos.model.edge_tpu import ACCELERATOR, EdgeTpu, EdgeTpuError
from protos.model.engine import EngineIdentity, delegate_of, engine_identity, open_interpreter
from protos.model.manifest import TOKENS, BackboneSpec, Preprocessing
from protos.progress import progressed

_TABLE_CHANNELS = 16
QuantisedArray = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
InputArray = QuantisedArray | npt.NDArray[np.int32]


def quantise(values: npt.ArrayLike, spec: BackboneSpec, preprocessing: Preprocessing) -> InputArray:
    """Raw values [..., C] as the integers that the backbone takes: preprocess, scale, round half away from zero, clip.

    Rounding is that of TFLite's QUANTIZE operator. Computed in float64, so that every machine gets the same integers.
    Token ids stay what they are.

    Raises:
        DataError: a value where a token id is needed that is none of the vocabulary's.
    """
    if spec.vocabulary is not None:
        return _ids(np.asarray(values), spec.vocabulary)
    real = np.asarray(values, np.float64) * preprocessing.multiply + preprocessing.add
    if preprocessing.per_channel is not None:
        real = real * preprocessing.per_channel.multiply + preprocessing.per_channel.add
    steps = real / spec.input_scale
    rounded = np.trunc(steps + np.copysign(0.5, steps)) + spec.input_zero_point
    limits = np.iinfo(spec.input_dtype)
    result: QuantisedArray = np.clip(rounded, limits.min, limits.max).astype(spec.input_dtype)
    return result


def _ids(values: npt.NDArray[Any], vocabulary: int) -> npt.NDArray[np.int32]:
    good = are_token_ids(values, vocabulary)
    if not good.all():
        raise DataError(
            f"{float(values[~good].flat[0]):g} is no token id from 0 to {vocabulary - 1}",
            fix="number the words as the model's tokeniser does; its unknown words have an id, too",
        )
    return np.asarray(values, np.int32)


def _table(spec: BackboneSpec, preprocessing: Preprocessing) -> QuantisedArray | None:
    """What each raw uint8 value becomes: [256], or [256, C] where channels differ and are few; None of token ids."""
    if spec.vocabulary is not None:
        return None
    values, channels = np.arange(256), spec.input_shape[-1]
    if preprocessing.per_channel is not None:
        if channels > _TABLE_CHANNELS:
            return None
        values = np.broadcast_to(values[:, None], (256, channels))
    table: QuantisedArray = quantise(values, spec, preprocessing).astype(spec.input_dtype)
    return table


class Backbone:
    """Runs the backbone of a bundle.

    Args:
        bundle: an opened bundle.
        threads: CPU threads of the kernels.
        edge_tpu: run the bundle's twin there; None for the CPU model.

    Raises:
        ModelError: the model does not load, or its ends are not those of the manifest.
        EdgeTpuError: the same of the twin, or the bundle has none here.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 1, edge_tpu: EdgeTpu | None = None) -> None:
        path = bundle.backbone_path if edge_tpu is None else bundle.twin_path
        if path is None:
            raise EdgeTpuError("has no Edge TPU twin here", where=str(bundle.path))
        self._open(path, bundle.manifest.backbone, bundle.manifest.preprocessing, threads, edge_tpu)

    @classmethod
    def from_file(cls, path: Path, spec: BackboneSpec, preprocessing: Preprocessing) -> Backbone:
        """The same of a .tflite file that is in no bundle yet."""
        backbone = cls.__new__(cls)
        backbone._open(path, spec, preprocessing, threads=1)
        return backbone

    def _open(
        self,
        path: Path,
        spec: BackboneSpec,
        preprocessing: Preprocessing,
        threads: int,
        edge_tpu: EdgeTpu | None = None,
    ) -> None:
        self.spec, self._edge_tpu = spec, edge_tpu
        self._where = str(path)
        self.preprocessing = preprocessing
        self._interpreter = open_interpreter(path, threads=threads, edge_tpu=edge_tpu)
        self._input, self._output = self._check_ends()
        self._table = _table(spec, preprocessing)

    @property
    def engine(self) -> EngineIdentity:
        """The engine, with the delegate that this very model runs on."""
        identity = engine_identity()
        if self._edge_tpu is not None:
            return dataclasses.replace(identity, accelerator=ACCELERATOR)
        return EngineIdentity(identity.name, identity.version, delegate_of(self._interpreter))

    def _check_ends(self) -> tuple[int, int]:
        kind = ModelError if self._edge_tpu is None else EdgeTpuError
        ends: list[int] = []
        spec = self.spec
        for details, count, end, dtype, scale, zero in (
            (self._interpreter.get_input_details(), int(np.prod(spec.input_shape)), "input",
             spec.input_dtype, spec.input_scale, spec.input_zero_point),
            (self._interpreter.get_output_details(), spec.embedding_width, "output",
             spec.output_dtype, spec.output_scale, spec.output_zero_point),
        ):  # fmt: skip
            if len(details) != 1:
                raise kind(f"has {len(details)} {end}s, a backbone has one", where=self._where)
            one: dict[str, Any] = details[0]
            found = (np.dtype(one["dtype"]).name, int(np.prod(one["shape"])), one["quantization"])
            # Integers that stand for themselves have no scale in the file.
            wanted = (0.0, 0) if dtype == TOKENS else (np.float32(scale), zero)
            if found[:2] != (dtype, count) or found[2] != wanted:
                raise kind(
                    f"its {end} is {found[0]} x {found[1]}, scale and zero point {found[2]}; the manifest says "
                    f"{dtype} x {count}, ({scale}, {zero})",
                    where=self._where,
                )
            ends.append(int(one["index"]))
        self._batch_shape = tuple(int(n) for n in self._interpreter.get_input_details()[0]["shape"])
        return ends[0], ends[1]

    def embed(self, x: npt.NDArray[Any]) -> QuantisedArray:
        """Embeddings of raw examples, in the integers of the backbone's output.

        Args:
            x: uint8 or floating [N, *input_shape], before preprocessing; a trailing dimension of 1 may be absent. Token
                ids: any whole numbers.

        Returns:
            int8 or uint8 [N, D], as the manifest says.

        Raises:
            ShapeError: another shape or dtype.
            NonFiniteError: NaN or infinity in the examples.
            DataError: a token id outside the vocabulary.
            EdgeTpuError: the Edge TPU fails in the middle of its work.
        """
        x = np.asarray(x)
        shape = self.spec.input_shape
        if x.shape[1:] != shape and (*x.shape[1:], 1) != shape:
            raise ShapeError(f"examples have shape {list(x.shape[1:])}, the model takes {list(shape)}")
        if x.dtype != np.uint8 and x.dtype.kind != "f" and (self.spec.vocabulary is None or x.dtype.kind not in "iu"):
            raise ShapeError(f"examples are {x.dtype}; the model takes uint8 or float32")
        embeddings: QuantisedArray = np.empty((len(x), self.spec.embedding_width), self.spec.output_dtype)
        interpreter, source, target = self._interpreter, self._input, self._output
        for index, example in enumerate(x):
            progressed()
            interpreter.set_tensor(source, self._quantise_one(example, index))
            self._invoke()
            embeddings[index] = interpreter.get_tensor(target).reshape(-1)
        return embeddings

    def _invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            if self._edge_tpu is None:
                raise
            words = " ".join(str(error).split())[:200]
            raise EdgeTpuError(f"fails at its work: {words}", where=self._edge_tpu.library) from error

    def _quantise_one(self, example: npt.NDArray[Any], index: int) -> InputArray:
        if example.dtype == np.uint8 and self._table is not None:
            place = example if self._table.ndim == 1 else (example, np.arange(self._table.shape[1]))
            looked_up: QuantisedArray = self._table[place].reshape(self._batch_shape)
            return looked_up
        if not np.isfinite(example).all():
            raise NonFiniteError(f"example {index} holds NaN or infinity")
        try:
            codes = quantise(example.reshape(self.spec.input_shape), self.spec, self.preprocessing)
        except DataError as error:
            raise DataError(f"example {index}: {error.what}", where=error.where, fix=error.fix) from error
        return codes.reshape(self._batch_shape)

    def dequantise(self, q: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Real values of embeddings: ``(q - zero_point) * scale``, float32 [N, D]. What the head takes."""
        values = q.astype(np.float32)
        values -= self.spec.output_zero_point
        values *= np.float32(self.spec.output_scale)
        return values
