"""What one conversion is asked to do. Travels to the child process as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

# x_float = raw * multiply + add. "straight" is for integer models: a raw 0..255 value is the quantised value.
PREPROCESSING: dict[str, tuple[float, float]] = {
    "none": (1.0, 0.0),
    "unit": (1.0 / 255.0, 0.0),
    "symmetric": (1.0 / 127.5, -1.0),
}
STRAIGHT = "straight"
# When layers in a row share their channels' ranges; see `firmware_tools.convert.quality`.
EQUALISE = ("auto", "always", "never")
# Of the layers between the ends of a backbone; see `firmware_tools.convert.quality.sixteen_bits`.
ACTIVATIONS = ("int8", "int16")
# What trains; see `firmware_tools.convert.trainable`.
TRAINABLE = HEAD, BIAS, LAST_BLOCK = "head", "bias", "last-block"
KINDS = ("keras", "h5", "saved_model", "tflite")


@dataclasses.dataclass(frozen=True, slots=True)
class ConvertJob:
    """Every choice of a conversion; paths are absolute, ``output`` is an empty folder to fill."""

    model: str
    kind: str
    output: str
    name: str
    cut: str | None = None
    signature: str | None = None
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    renames: dict[str, str] = dataclasses.field(default_factory=dict)
    hidden_units: int | None = None
    fresh_head: bool = False
    class_sums: bool = False
    calibrate: str | None = None
    calibration_examples: int = 500
    evaluate: str | None = None
    objective: str = "cross_entropy"
    optimiser: str = "sgd"
    batch_size: int = 32
    preprocess: str | None = None
    min_agreement: float = 0.95
    seed: int = 0
    front_end: str | None = None
    equalise: str = "auto"
    bias_correction: bool = False
    layers: bool = False
    trainable: str = "head"
    pointwise: int = 1
    train_memory: int | None = None
    train_joules: float | None = None
    board: str = "pi4"
    activations: str = "int8"
    qat: str | None = None
    qat_steps: int = 400
    qat_rate: float = 1e-4

    def to_fields(self) -> dict[str, Any]:
        """The job as a JSON-able dict."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> ConvertJob:
        """The inverse of `to_fields`, after JSON made lists of the tuples."""
        plain: dict[str, Any] = {
            key: tuple(field) if isinstance(field, list) else field for key, field in fields.items()
        }
        return ConvertJob(**plain)
