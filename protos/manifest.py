"""What a model bundle contains: shapes, quantisation, classes, training inputs, and the hash of every file.

The manifest is the identity of a bundle: ``bundle_id`` is the SHA-256 of its canonical JSON (keys sorted, no
spaces), and the manifest holds the SHA-256 of every other file. Two ends that name the same ``bundle_id`` hold
the same bytes. There is no time stamp in it, so that the same conversion gives the same identity.

Reading is strict: unknown keys, missing keys, wrong types and values that contradict each other are refused,
since a key that is dropped silently would change the identity.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import types
import typing
from typing import Any

from protos.errors import ModelError
from protos.model.head_algebra import head_shapes

SCHEMA = "edgejoule.bundle/1"
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]{0,99}")
_INTEGER_RANGE = {"int8": (-128, 127), "uint8": (0, 255)}


def _refuse(what: str) -> ModelError:
    return ModelError(what, where="manifest")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _refuse(what)


def _plain_file_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name != MANIFEST_FILE


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """How raw values become what the float model was trained on: ``x_float = raw * multiply + add``."""

    multiply: float
    add: float

    def __post_init__(self) -> None:
        _require(math.isfinite(self.multiply) and self.multiply != 0, "preprocessing.multiply must be finite, not 0")
        _require(math.isfinite(self.add), "preprocessing.add must be finite")


@dataclasses.dataclass(frozen=True, slots=True)
class BackboneSpec:
    """The frozen integer network. ``real = (quantised - zero_point) * scale`` at both ends.

    ``input_shape`` leaves the batch out; ``macs`` is multiply-accumulates per example, if counted.
    """

    file: str
    input_shape: tuple[int, ...]
    input_dtype: str
    input_scale: float
    input_zero_point: int
    embedding_width: int
    output_dtype: str
    output_scale: float
    output_zero_point: int
    macs: int | None = None

    def __post_init__(self) -> None:
        _require(_plain_file_name(self.file), f"backbone.file {self.file!r} is not a plain file name")
        _require(
            1 <= len(self.input_shape) <= 6 and all(n >= 1 for n in self.input_shape),
            f"backbone.input_shape {list(self.input_shape)} needs 1 to 6 positive sizes",
        )
        _require(math.prod(self.input_shape) <= 1 << 26, "backbone.input_shape is larger than 64 Mi values")
        _require(1 <= self.embedding_width <= 1 << 20, "backbone.embedding_width must be in 1..1048576")
        for end, dtype, scale, zero in (
            ("input", self.input_dtype, self.input_scale, self.input_zero_point),
            ("output", self.output_dtype, self.output_scale, self.output_zero_point),
        ):
            _require(dtype in _INTEGER_RANGE, f"backbone.{end}_dtype {dtype!r} must be int8 or uint8")
            _require(math.isfinite(scale) and scale > 0, f"backbone.{end}_scale must be finite and positive")
            low, high = _INTEGER_RANGE[dtype]
            _require(low <= zero <= high, f"backbone.{end}_zero_point {zero} is outside {dtype}")
        _require(self.macs is None or self.macs >= 0, "backbone.macs must not be negative")


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name and shape of one float32 tensor of the head."""

    name: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TrainInput:
    """One hyper-parameter of the compiled training step; it travels as a float32 tensor of shape [1]."""

    name: str
    default: float
    minimum: float
    maximum: float
    meaning: str

    def __post_init__(self) -> None:
        _require(self.name.isidentifier(), f"training input {self.name!r} is not an identifier")
        numbers = (self.minimum, self.default, self.maximum)
        _require(
            all(map(math.isfinite, numbers)) and self.minimum <= self.default <= self.maximum,
            f"training input {self.name}: needs minimum <= default <= maximum, all finite",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class HeadSpec:
    """The trainable head: compiled signatures, starting values, and what its training step may be told."""

    file: str
    initial_file: str
    batch_size: int
    hidden_units: int | None
    objective: str
    optimiser: str
    tensors: tuple[TensorSpec, ...]
    inputs: tuple[TrainInput, ...]

    def __post_init__(self) -> None:
        for field in (self.file, self.initial_file):
            _require(_plain_file_name(field), f"head file {field!r} is not a plain file name")
        _require(1 <= self.batch_size <= 4096, "head.batch_size must be in 1..4096")
        _require(self.hidden_units is None or 1 <= self.hidden_units <= 1 << 16, "head.hidden_units out of range")
        names = [one.name for one in self.inputs]
        _require(len(set(names)) == len(names), "head.inputs names an input twice")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name, sorted."""
        return {tensor.name: tensor.shape for tensor in sorted(self.tensors, key=lambda one: one.name)}


@dataclasses.dataclass(frozen=True, slots=True)
class FileRecord:
    """SHA-256 (64 hexadecimal digits) and size of one file of the bundle."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        _require(bool(re.fullmatch(r"[0-9a-f]{64}", self.sha256)), "a file's sha256 is not 64 hexadecimal digits")
        _require(self.size_bytes >= 1, "a file's size_bytes must be positive")


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that both ends must know about a bundle without opening a model."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    backbone: BackboneSpec
    head: HeadSpec
    files: dict[str, FileRecord]
    provenance: dict[str, Any]
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        _require(self.schema == SCHEMA, f"schema is {self.schema!r}, this version reads {SCHEMA!r}")
        _require(bool(_NAME.fullmatch(self.name)), f"name {self.name[:120]!r} needs 1 to 100 of [A-Za-z0-9._ +-]")
        _require(2 <= len(self.classes) <= 1 << 16, f"{len(self.classes)} classes: at least 2 are needed")
        _require(all(self.classes), "a class name is empty")
        _require(len(set(self.classes)) == len(self.classes), "a class name occurs twice")
        expected = head_shapes(self.backbone.embedding_width, len(self.classes), self.head.hidden_units)
        _require(
            self.head.shapes() == expected and len(self.head.tensors) == len(expected),
            f"head.tensors are {self.head.shapes()}, but width, classes and hidden units give {expected}",
        )
        needed = {self.backbone.file, self.head.file, self.head.initial_file}
        _require(len(needed) == 3, "backbone, head and initial values must be three files")
        _require(needed == set(self.files), f"files must record exactly {', '.join(sorted(needed))}")

    @property
    def bundle_id(self) -> str:
        """``sha256:`` and the hexadecimal SHA-256 of the canonical JSON."""
        return "sha256:" + hashlib.sha256(self._json(indent=None).encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as it is written to disk: indented, keys sorted, ending with a newline."""
        return self._json(indent=2) + "\n"

    def _json(self, *, indent: int | None) -> str:
        separators = (",", ":") if indent is None else (",", ": ")
        return json.dumps(
            dataclasses.asdict(self),
            sort_keys=True, indent=indent, separators=separators, ensure_ascii=True, allow_nan=False,
        )  # fmt: skip

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ModelError: not JSON, too large, an unknown or missing key, a wrong type, or a contradiction.
        """
        if len(text) > MAX_MANIFEST_BYTES:
            raise _refuse(f"larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _refuse(f"not readable as JSON ({error})") from error
        if isinstance(value, dict) and isinstance(value.get("schema"), str) and value["schema"] != SCHEMA:
            raise _refuse(f"schema is {value['schema'][:80]!r}, this version reads {SCHEMA!r}")
        manifest: Manifest = _decode(Manifest, value, "manifest")
        return manifest


def _no_constant(token: str) -> float:
    raise ValueError(f"{token} is no JSON number")


def _decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``, which is a dataclass, tuple, dict, optional, or plain JSON type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        inner = next(one for one in arguments if one is not type(None))
        return None if value is None else _decode(inner, value, where)
    if origin is tuple:
        _require(isinstance(value, list), f"{where} must be a list")
        return tuple(_decode(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), f"{where} must be an object")
        return {key: _decode(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    if kind is float and type(value) is int:
        _require(abs(value) < 1 << 53, f"{where} is too large a number")
        return float(value)
    _require(type(value) is kind, f"{where} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _decode_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    _require(isinstance(value, dict), f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise _refuse(f"unknown key {key[:80]!r} in {where}{hint}")
    for field in dataclasses.fields(kind):
        _require(field.name in value, f"{where} lacks {field.name!r}")
    return kind(**{key: _decode(hints[key], one, f"{where}.{key}") for key, one in value.items()})
