"""What a model bundle contains: shapes, quantisation, classes, training inputs, and the hash of every file.

The manifest is the identity of a bundle: ``bundle_id`` is the SHA-256 of its canonical JSON (keys sorted, no
spaces), and the manifest holds the SHA-256 of every other file. Two ends that name the same ``bundle_id`` hold
the same bytes. There is no time stamp in it, so that the same conversion gives the same identity.

A bundle with a twin for the Edge TPU has a schema of its own, and so has one whose preprocessing differs by channel,
and one whose head is no classifier, one that trains layers in front of its head, one that takes token ids, and one with
the class sums of its makers' examples: software that knows nothing of these refuses them by the name of the schema, and
every other bundle keeps its identity.

Reading is strict: unknown keys, missing keys, wrong types and values that contradict each other are refused,
since a key that is dropped silently would change the identity.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from typing import Any

from protos.model.head_algebra import head_shapes
from protos.model.head_kinds.diffusion import denoiser_shapes
from protos.model.json_values import LEFT_OUT, decode, no_constant, refuse, require
from protos.model.task import ANOMALY, CLASSIFICATION, DIFFUSION, REGRESSION, task_of
from protos.statistics.quantities import DIGITS

SCHEMA = "edgejoule.bundle/1"
TWIN_SCHEMA = "edgejoule.bundle/2"
CHANNEL_SCHEMA = "edgejoule.bundle/3"
TASK_SCHEMA = "edgejoule.bundle/4"
DIFFUSION_SCHEMA = "edgejoule.bundle/5"
TAIL_SCHEMA = "edgejoule.bundle/6"
TOKEN_SCHEMA = "edgejoule.bundle/7"
SUMS_SCHEMA = "edgejoule.bundle/8"
_SCHEMAS = (
    SCHEMA, TWIN_SCHEMA, CHANNEL_SCHEMA, TASK_SCHEMA, DIFFUSION_SCHEMA, TAIL_SCHEMA, TOKEN_SCHEMA, SUMS_SCHEMA,
)  # fmt: skip
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]{0,99}")
_INTEGER_RANGE = {"int8": (-128, 127), "uint8": (0, 255)}
TOKENS = "int32"
"""Type of an input of token ids."""
# Ids up to here are whole numbers of float32, which data travel as.
MOST_TOKENS = 1 << 24


def brief(bundle_id: str) -> str:
    """The beginning of a bundle's id, enough to tell it by: for messages and logs.

    >>> brief("sha256:0123456789abcdef0123")
    'sha256:0123456789ab'
    """
    return bundle_id[: len("sha256:") + 12]


def _plain_file_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name != MANIFEST_FILE


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelAffine:
    """What differs by channel, the last dimension of an example, float [C] each: ``x * multiply[c] + add[c]``."""

    multiply: tuple[float, ...]
    add: tuple[float, ...]

    def __post_init__(self) -> None:
        require(1 <= len(self.multiply) <= 1 << 14, "preprocessing.per_channel needs 1 to 16384 channels")
        require(len(self.multiply) == len(self.add), "preprocessing.per_channel: multiply and add differ in length")
        require(all(map(math.isfinite, (*self.multiply, *self.add))), "preprocessing.per_channel must be finite")


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """How raw values become what the backbone takes: ``x_float = raw * multiply + add``, then ``per_channel``.

    ``per_channel`` is a normalisation that stood at the front of the model, so that channels of unlike units
    (101,325 Pa beside 0.02 g) share one int8 scale; None where there is none.
    """

    multiply: float
    add: float
    per_channel: ChannelAffine | None = dataclasses.field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        require(math.isfinite(self.multiply) and self.multiply != 0, "preprocessing.multiply must be finite, not 0")
        require(math.isfinite(self.add), "preprocessing.add must be finite")


@dataclasses.dataclass(frozen=True, slots=True)
class BackboneSpec:
    """The frozen integer network. ``real = (quantised - zero_point) * scale`` at both ends.

    ``input_shape`` leaves the batch out; ``macs`` is multiply-accumulates per example, if counted. An input of token
    ids is int32, of scale 1 and zero point 0, and ids are 0 to ``vocabulary`` - 1; None: it takes real numbers.
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
    vocabulary: int | None = dataclasses.field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        require(_plain_file_name(self.file), f"backbone.file {self.file!r} is not a plain file name")
        require(
            1 <= len(self.input_shape) <= 6 and all(n >= 1 for n in self.input_shape),
            f"backbone.input_shape {list(self.input_shape)} needs 1 to 6 positive sizes",
        )
        require(math.prod(self.input_shape) <= 1 << 26, "backbone.input_shape is larger than 64 Mi values")
        require(1 <= self.embedding_width <= 1 << 20, "backbone.embedding_width must be in 1..1048576")
        ends = [("output", self.output_dtype, self.output_scale, self.output_zero_point)]
        if self.vocabulary is None:
            ends.insert(0, ("input", self.input_dtype, self.input_scale, self.input_zero_point))
        else:
            found = (self.input_dtype, self.input_scale, self.input_zero_point)
            require(found == (TOKENS, 1.0, 0), f"backbone: token ids are {TOKENS} of scale 1 and zero point 0")
            require(1 <= self.vocabulary <= MOST_TOKENS, f"backbone.vocabulary must be in 1..{MOST_TOKENS}")
        for end, dtype, scale, zero in ends:
            require(dtype in _INTEGER_RANGE, f"backbone.{end}_dtype {dtype!r} must be int8 or uint8")
            require(math.isfinite(scale) and scale > 0, f"backbone.{end}_scale must be finite and positive")
            low, high = _INTEGER_RANGE[dtype]
            require(low <= zero <= high, f"backbone.{end}_zero_point {zero} is outside {dtype}")
        require(self.macs is None or self.macs >= 0, "backbone.macs must not be negative")


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name and shape of one float32 tensor of the head."""

    name: str
    shape: tuple[int, ...]


# The input of a train step that takes corrections. Bundles that were converted before there was one lack it.
CORRECTION = "correction"


@dataclasses.dataclass(frozen=True, slots=True)
class TrainInput:
    """One hyper-parameter of the compiled training step; it travels as a float32 tensor of shape [1]."""

    name: str
    default: float
    minimum: float
    maximum: float
    meaning: str

    def __post_init__(self) -> None:
        require(self.name.isidentifier(), f"training input {self.name!r} is not an identifier")
        numbers = (self.minimum, self.default, self.maximum)
        require(
            all(map(math.isfinite, numbers)) and self.minimum <= self.default <= self.maximum,
            f"training input {self.name}: needs minimum <= default <= maximum, all finite",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class TailTensor:
    """What trains of one layer in front of the head.

    Attributes:
        name: in the tree, ending in ``_bias`` or ``_kernel``.
        shape: of what travels; a kernel is [k, k, in, out], of a dense layer [in, out].
        layer: number of the tensor that the layer gives, in the tail's file.
        gain: what travels, times this, is added to what the file has.
    """

    name: str
    shape: tuple[int, ...]
    layer: int
    gain: float

    def __post_init__(self) -> None:
        require(bool(re.fullmatch(r"tail\d{2,3}_(bias|kernel)", self.name)), f"tail tensor {self.name[:80]!r}")
        require(1 <= len(self.shape) <= 4 and all(n >= 1 for n in self.shape), f"{self.name} needs 1 to 4 sizes")
        require(math.isfinite(self.gain) and self.gain > 0, f"{self.name}: gain must be finite and positive")


@dataclasses.dataclass(frozen=True, slots=True)
class TailSpec:
    """Layers between the frozen backbone and the head, in real numbers, of which some tensors train with it.

    Attributes:
        file: a float .tflite, from what the backbone gives to the features of the head; not needed to train.
        features: width of these.
        shape: of what the backbone gives for one example.
        trained: what of it trains.
    """

    file: str
    features: int
    shape: tuple[int, ...]
    trained: tuple[TailTensor, ...]

    def __post_init__(self) -> None:
        require(_plain_file_name(self.file), f"head.tail.file {self.file!r} is not a plain file name")
        require(1 <= self.features <= 1 << 20, "head.tail.features must be in 1..1048576")
        require(1 <= len(self.shape) <= 5 and all(n >= 1 for n in self.shape), "head.tail.shape needs 1 to 5 sizes")
        require(1 <= len(self.trained) <= 1000, "head.tail.trained needs 1 to 1000 tensors")
        names = [tensor.name for tensor in self.trained]
        require(len(set(names)) == len(names), "head.tail.trained names a tensor twice")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name."""
        return {tensor.name: tensor.shape for tensor in self.trained}


@dataclasses.dataclass(frozen=True, slots=True)
class HeadSpec:
    """The trainable head: compiled signatures, starting values, and what its training step may be told.

    ``sums_file`` has the class sums of the examples that the bundle was made with: `protos.model.class_sums`.
    """

    file: str
    initial_file: str
    batch_size: int
    hidden_units: int | None
    objective: str
    optimiser: str
    tensors: tuple[TensorSpec, ...]
    inputs: tuple[TrainInput, ...]
    tail: TailSpec | None = dataclasses.field(default=None, metadata=LEFT_OUT)
    sums_file: str | None = dataclasses.field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        for field in (self.file, self.initial_file, *([] if self.sums_file is None else [self.sums_file])):
            require(_plain_file_name(field), f"head file {field!r} is not a plain file name")
        require(1 <= self.batch_size <= 4096, "head.batch_size must be in 1..4096")
        require(self.hidden_units is None or 1 <= self.hidden_units <= 1 << 16, "head.hidden_units out of range")
        names = [tensor.name for tensor in self.inputs]
        require(len(set(names)) == len(names), "head.inputs names an input twice")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name, sorted."""
        return {tensor.name: tensor.shape for tensor in sorted(self.tensors, key=lambda tensor: tensor.name)}


@dataclasses.dataclass(frozen=True, slots=True)
class EdgeTpuTwin:
    """The backbone again, compiled for the Edge TPU; both ends are those of the CPU model.

    Attributes:
        file: the .tflite file; its hash and size are in the manifest's `files`.
        made_from_sha256: of the CPU model that was compiled.
        compiler_version: such as "16.0.384591198", or None when it is not known.
    """

    file: str
    made_from_sha256: str
    compiler_version: str | None

    def __post_init__(self) -> None:
        require(_plain_file_name(self.file), f"edge_tpu.file {self.file!r} is not a plain file name")
        require(
            self.compiler_version is None or bool(_NAME.fullmatch(self.compiler_version)),
            "edge_tpu.compiler_version is no version",
        )


def schema_of(
    preprocessing: Preprocessing,
    edge_tpu: EdgeTpuTwin | None,
    objective: str,
    *,
    tail: bool = False,
    tokens: bool = False,
    sums: bool = False,
) -> str:
    """The schema that a bundle must name, so that software which cannot use it says so."""
    if sums:
        return SUMS_SCHEMA
    if tokens:
        return TOKEN_SCHEMA
    if tail:
        return TAIL_SCHEMA
    if task_of(objective) == DIFFUSION:
        return DIFFUSION_SCHEMA
    if task_of(objective) != CLASSIFICATION:
        return TASK_SCHEMA
    if preprocessing.per_channel is not None:
        return CHANNEL_SCHEMA
    return SCHEMA if edge_tpu is None else TWIN_SCHEMA


@dataclasses.dataclass(frozen=True, slots=True)
class FileRecord:
    """SHA-256 (64 hexadecimal digits) and size of one file of the bundle."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        require(bool(re.fullmatch(r"[0-9a-f]{64}", self.sha256)), "a file's sha256 is not 64 hexadecimal digits")
        require(self.size_bytes >= 1, "a file's size_bytes must be positive")


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that both ends must know about a bundle without opening a model.

    Attributes:
        classes: names of the classes; of a regression, of its quantities.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    backbone: BackboneSpec
    head: HeadSpec
    files: dict[str, FileRecord]
    provenance: dict[str, Any]
    schema: str = SCHEMA
    edge_tpu: EdgeTpuTwin | None = dataclasses.field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        channels = self.preprocessing.per_channel
        tail, tokens = self.head.tail, self.backbone.vocabulary is not None
        expected_schema = schema_of(
            self.preprocessing, self.edge_tpu, self.head.objective, tail=tail is not None, tokens=tokens,
            sums=self.head.sums_file is not None,
        )  # fmt: skip
        described = "per channel" if channels else f"{'with' if self.edge_tpu else 'without'} edge_tpu"
        described = described if self.task == CLASSIFICATION else f"for {self.task}"
        described = described if tail is None else "with a tail"
        described = "of token ids" if tokens else described
        described = described if self.head.sums_file is None else "with class sums"
        require(
            self.schema == expected_schema,
            f"schema is {self.schema!r}; {described} it must be {expected_schema!r}",
        )
        require(not tokens or self.preprocessing == Preprocessing(1.0, 0.0), "token ids are not preprocessed")
        require(not tokens or self.edge_tpu is None, "an Edge TPU takes no token ids")
        require(
            channels is None or len(channels.multiply) == self.backbone.input_shape[-1],
            "preprocessing.per_channel has another number of channels than backbone.input_shape",
        )
        require(bool(_NAME.fullmatch(self.name)), f"name {self.name[:120]!r} needs 1 to 100 of [A-Za-z0-9._ +-]")
        least = 1 if self.task == REGRESSION else 2
        require(least <= len(self.classes) <= 1 << 16, f"{len(self.classes)} classes: at least {least} are needed")
        require(self.task != ANOMALY or len(self.classes) == 2, "an anomaly head knows two classes, the first normal")
        require(all(self.classes), "a class name is empty")
        require(len(set(self.classes)) == len(self.classes), "a class name occurs twice")
        hidden = self.head.hidden_units
        require(self.task != DIFFUSION or hidden is not None, "a head that denoises has hidden units")
        require(tail is None or self.task == CLASSIFICATION, f"a head for {self.task} has no tail")
        require(
            tail is None or math.prod(tail.shape) == self.backbone.embedding_width,
            "head.tail.shape is not what the backbone gives",
        )
        expected = head_shapes(self.features, self.outputs, hidden) | ({} if tail is None else tail.shapes())
        if self.task == DIFFUSION and hidden is not None:
            expected = denoiser_shapes(self.backbone.embedding_width, len(self.classes), hidden)
        require(
            self.head.shapes() == expected and len(self.head.tensors) == len(expected),
            f"head.tensors are {self.head.shapes()}, but width, classes and hidden units give {expected}",
        )
        needed = {self.backbone.file, self.head.file, self.head.initial_file}
        require(len(needed) == 3, "backbone, head and initial values must be three files")
        if tail is not None:
            require(tail.file not in needed, "head.tail.file must be a file of its own")
            needed.add(tail.file)
        if self.head.sums_file is not None:
            linear = self.task == CLASSIFICATION and hidden is None and tail is None
            require(linear, "head.sums_file: only linear heads of classifiers, without a tail, have use for class sums")
            require(self.head.sums_file not in needed, "head.sums_file must be a file of its own")
            needed.add(self.head.sums_file)
        if self.edge_tpu is not None:
            require(self.edge_tpu.file not in needed, "edge_tpu.file must be a file of its own")
            needed.add(self.edge_tpu.file)
        require(needed == set(self.files), f"files must record exactly {', '.join(sorted(needed))}")
        require(
            self.edge_tpu is None or self.edge_tpu.made_from_sha256 == self.files[self.backbone.file].sha256,
            "edge_tpu was compiled from another model than the backbone",
        )

    def with_twin(self, file: str, record: FileRecord, compiler_version: str | None) -> Manifest:
        """The same with this Edge TPU twin of the backbone, in place of any that it has."""
        files = {name: path for name, path in self.files.items() if self.edge_tpu is None or name != self.edge_tpu.file}
        require(file not in files, f"edge_tpu.file {file!r} must be a file of its own")
        twin = EdgeTpuTwin(file, files[self.backbone.file].sha256, compiler_version)
        schema = schema_of(
            self.preprocessing, twin, self.head.objective, tail=self.head.tail is not None,
            tokens=self.backbone.vocabulary is not None, sums=self.head.sums_file is not None,
        )  # fmt: skip
        return dataclasses.replace(self, files={**files, file: record}, schema=schema, edge_tpu=twin)

    @property
    def task(self) -> str:
        """What the head is for: see :mod:`protos.model.task`."""
        return task_of(self.head.objective)

    @property
    def features(self) -> int:
        """Width of what the head's first layer reads: the embedding, or what a tail makes of it."""
        return self.backbone.embedding_width if self.head.tail is None else self.head.tail.features

    @property
    def outputs(self) -> int:
        """K, how many numbers the head gives for an embedding."""
        return self.backbone.embedding_width if self.task in (ANOMALY, DIFFUSION) else len(self.classes)

    @property
    def quantities(self) -> int | None:
        """How many real numbers an example's label has; None where it is the number of a class."""
        return len(self.classes) if self.task == REGRESSION else None

    @property
    def summed_classes(self) -> int:
        """Classes whose examples devices sum up: of anomalies, what is normal alone; of quantities, all as one."""
        return 1 if self.task in (ANOMALY, REGRESSION) else len(self.classes)

    def summed_width(self, numbers: int) -> int:
        """How many numbers of an example devices sum up: its own, and the digits of its quantities.

        Args:
            numbers: of the embedding, or of what it is projected to.
        """
        return numbers + DIGITS * (self.quantities or 0)

    @property
    def bundle_id(self) -> str:
        """``sha256:`` and the hexadecimal SHA-256 of the canonical JSON."""
        return "sha256:" + hashlib.sha256(self._json(indent=None).encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as it is written to disk: indented, keys sorted, ending with a newline."""
        return self._json(indent=2) + "\n"

    def _json(self, *, indent: int | None) -> str:
        separators = (",", ":") if indent is None else (",", ": ")
        values = dataclasses.asdict(self)
        if self.edge_tpu is None:
            del values["edge_tpu"]
        if self.preprocessing.per_channel is None:
            del values["preprocessing"]["per_channel"]
        if self.head.tail is None:
            del values["head"]["tail"]
        if self.head.sums_file is None:
            del values["head"]["sums_file"]
        if self.backbone.vocabulary is None:
            del values["backbone"]["vocabulary"]
        return json.dumps(
            values,
            sort_keys=True, indent=indent, separators=separators, ensure_ascii=True, allow_nan=False,
        )  # fmt: skip

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ModelError: not JSON, too large, an unknown or missing key, a wrong type, or a contradiction.
        """
        if len(text) > MAX_MANIFEST_BYTES:
            raise refuse(f"larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            value = json.loads(text, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            raise refuse(f"not readable as JSON ({error})") from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if isinstance(schema, str) and schema not in _SCHEMAS:
            known = ", ".join(repr(each_schema) for each_schema in _SCHEMAS)
            raise refuse(f"schema is {schema[:80]!r}, this version reads {known}")
        manifest: Manifest = decode(Manifest, value, "manifest")
        return manifest
