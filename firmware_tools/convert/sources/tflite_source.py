"""Takes a .tflite. An integer one: an embedding extractor as it is, a classifier cut in its flatbuffer. A float one is
cut, and quantised by ranges that are measured in it.

An extractor stays the file that it is, since an Edge TPU twin was compiled from it. Its last operators tell a
classifier, which is cut before its last dense layer.
"""

from __future__ import annotations

import dataclasses
import lzma
import zipfile
import zlib
from pathlib import Path

from firmware_tools.convert.sources.source import FloatModel
from firmware_tools.convert.sources.tflite_cut import CutFile, cut_file, ends_in_classes, one_signature
from firmware_tools.convert.sources.tflite_float import open_float
from firmware_tools.convert.sources.tflite_tokens import ids_as_integers, vocabulary_of
from firmware_tools.inspect.model import ModelFacts, Tensor, read_bytes
from protos.errors import ModelError
from protos.model.head_algebra import Tree

_INTEGERS = ("int8", "uint8")
_MOST_LABELS_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True, slots=True)
class Extractor:
    """A checked integer model: its bytes and facts; one input, one output that is a vector.

    Attributes:
        cut: where the file was cut; None where it is as it came.
        vocabulary: how many token ids there are; None of a model of real numbers.
        tail: plain head that followed, or None; see :class:`firmware_tools.convert.sources.tflite_cut.CutFile`.
    """

    content: bytes
    facts: ModelFacts
    cut: str | None = None
    tail: Tree | None = None
    tail_note: str = "an extractor has no head"
    linear: bool = False
    one_number: bool = False
    vocabulary: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.facts.inputs[0].shape[1:]


def open_tflite(path: Path, *, cut: str | None, signature: str | None = None) -> Extractor | FloatModel:
    """Read and check a model; cut it where it is a classifier, or where ``cut`` names a tensor.

    Args:
        signature: which of several; None for the only one.

    Returns:
        What an integer model is, or a float one to quantise.

    Raises:
        ModelError: it is damaged, of 16-bit integers, compiled for an Edge TPU, cannot be cut, or does not give one
            vector of one input.
    """
    where = path.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=where) from error
    read_bytes(content, where=where)
    content = one_signature(content, signature, where=where)
    facts = read_bytes(content, where=where)
    if any("edgetpu" in name for name in facts.operator_counts()):
        raise ModelError("is compiled for an Edge TPU and cannot run on a CPU", where=where, fix="give its CPU twin")
    if custom := [name for name in facts.operator_counts() if name.startswith("CUSTOM")]:
        raise ModelError(
            f"needs operators that are no TFLite builtins: {', '.join(custom)}", where=where,
            fix="give its .keras, .h5 or SavedModel with --cut before them, or a .tflite of "
            "builtin operators alone (no Flex, none of your own)",
        )  # fmt: skip
    last = facts.operators[-1].name if facts.operators else None
    if last is None:
        raise ModelError("holds no operator", where=where, fix="make it again from its model")
    made_of = {tensor.dtype for operator in facts.operators for tensor in operator.outputs}
    content = ids_as_integers(content, where=where)
    facts = read_bytes(content, where=where)
    if not made_of & {*_INTEGERS, "int16"}:
        return open_float(content, cut, where=where)
    if "int16" in made_of and not made_of & set(_INTEGERS):
        raise ModelError(
            "works on 16-bit integers (16x8), and backbones here on 8 bits", where=where,
            fix="give its int8 .tflite, its float .tflite, or its .keras, .h5 or SavedModel",
        )  # fmt: skip
    made: CutFile | None = None
    if len(facts.outputs) == 1 and (cut is not None or last == "DEQUANTIZE" or ends_in_classes(content, where=where)):
        made = cut_file(content, cut, where=where)
        content, facts = made.content, read_bytes(made.content, where=where)
    vocabulary = vocabulary_of(content, where=where)
    for end, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        if len(tensors) != 1:
            raise ModelError(f"has {len(tensors)} {end}s; a backbone has one", where=where)
        if end == "output" or vocabulary is None:
            _check_end(tensors[0], end, where)
        else:
            _check_shape(tensors[0], end, where)
    if inside := facts.float_operator_counts():
        raise ModelError(f"holds float operators: {describe(inside)}", where=where, fix="give a fully integer model")
    if made is None:
        return Extractor(content, facts, vocabulary=vocabulary)
    return Extractor(content, facts, made.cut, made.tail, made.note, made.linear, made.one_number, vocabulary)


def labels_in(path: Path, count: int) -> tuple[str, ...] | None:
    """Names of ``count`` classes that a .tflite carries along, in the order of its outputs; None where it has none.

    Files with metadata are followed by a zip archive of further files, of which one may hold a name a line (TFLite
    Model Metadata, TENSOR_AXIS_LABELS). An archive that cannot be read names nothing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.lower().endswith(".txt") and entry.file_size <= _MOST_LABELS_BYTES:
                    lines = [line.strip() for line in archive.read(entry).decode("utf-8-sig").splitlines()]
                    names = tuple(line for line in lines if line)
                    if len(names) == count == len(set(names)):
                        return names
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError):
        return None
    return None


def describe(counts: dict[str, int]) -> str:
    """``2 x ADD, 1 x CONV_2D`` of operator counts."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def _check_end(tensor: Tensor, end: str, where: str) -> None:
    if tensor.dtype not in _INTEGERS:
        fix = "give its .keras, .h5 or SavedModel, which convert quantises" if "float" in tensor.dtype else None
        raise ModelError(f"its {end} is {tensor.dtype}, not int8 or uint8", where=where, fix=fix)
    if len(tensor.scales) != 1 or len(tensor.zero_points) != 1 or not tensor.scales[0] > 0:
        raise ModelError(f"its {end} has no scale and zero point", where=where)
    _check_shape(tensor, end, where)


def _check_shape(tensor: Tensor, end: str, where: str) -> None:
    if len(tensor.shape) < 2 or tensor.shape[0] != 1 or any(size < 1 for size in tensor.shape):
        raise ModelError(f"its {end} has shape {list(tensor.shape)}; a batch of 1 is needed", where=where)
    if end == "output" and sum(size != 1 for size in tensor.shape) != 1:
        raise ModelError(f"its output has shape {list(tensor.shape)}, not one vector", where=where,
                         fix="an extractor ends after pooling")  # fmt: skip
