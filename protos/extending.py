"""Names that a package with a codec may rely on: what a codec is, the kinds of tensor that it may make, wrappers.

A codec turns a change of the head into tensors that describe themselves; :class:`CodecEntry` is what the entry point in
``edgejoule.codecs`` names. The names here stay; the rooms that they come from may move. See docs/extending.md.
"""

from protos.errors import EdgejouleError, UpdateError, UsageError
from protos.update.contract import Codec, CodecEntry, Encoder, Parameter, State, each, stateless
from protos.update.packing import pack, packed_bytes, unpack
from protos.update.tensors import Codebook, EncodedTensor, Float16, Float32, UniformGrid, Values
from protos.update.trees import FloatArray, Shapes, Tree
from protos.update.wrappers import error_feedback, keep_largest

__all__ = [
    "Codebook",
    "Codec",
    "CodecEntry",
    "EdgejouleError",
    "EncodedTensor",
    "Encoder",
    "Float16",
    "Float32",
    "FloatArray",
    "Parameter",
    "Shapes",
    "State",
    "Tree",
    "UniformGrid",
    "UpdateError",
    "UsageError",
    "Values",
    "each",
    "error_feedback",
    "keep_largest",
    "pack",
    "packed_bytes",
    "stateless",
    "unpack",
]
