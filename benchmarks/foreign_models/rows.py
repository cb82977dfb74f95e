"""What a case of a model is, and the further cases that `make_models.py` makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A model, the data that go with it, and the limits of a right outcome.

    Attributes:
        model: path in the folder of cases.
        data: path of its examples.
        options: of `convert`, beside --eval.
        cosine: least mean cosine of float and int8 embeddings.
        points: most that int8 accuracy may lie under the float one, in points; None where there is no accuracy.
        refused: exit codes of a right refusal; empty when it must convert.
        says: words that the message must have.
        warns: words that the warnings must have.
        either: a conversion and a refusal are both right.
    """

    model: str
    kind: str
    data: str
    options: tuple[str, ...] = ()
    cosine: float = 0.95
    points: float | None = None
    refused: tuple[int, ...] = ()
    says: tuple[str, ...] = ()
    either: bool = False
    warns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.model, *self.options])

    @property
    def expected(self) -> str:
        refusal = f"refused with exit code {' or '.join(map(str, self.refused))} and a way on" if self.refused else ""
        if self.says:
            refusal += f"; names {', '.join(self.says)}"
        if self.refused and not self.either:
            return refusal
        text = f"converts, cosine >= {self.cosine:g}"
        text += f", int8 within {self.points:g} points" if self.points is not None else ""
        text += f"; warns of {', '.join(self.warns)}" if self.warns else ""
        return f"{text}, or is {refusal}" if self.refused else text


def further_cases() -> Iterator[Case]:
    """Further cases of the kinds of the handed ones."""
    unit = ("--preprocess", "unit")

    def case(name: str, kind: str, data: str = "image", options: tuple[str, ...] = unit, **limits: Any) -> Case:
        limits.setdefault("points", None if limits.get("refused") else 1.5)
        return Case(f"E01-more/{name}", kind, f"E01-more/{data}.npz", options, **limits)

    for name in ("groupnorm", "separable", "grouped", "prelu", "upsample", "ln_embedding", "unit_norm", "two_linear",
                 "resize_crop", "permute", "clip_root", "global_max", "float64", "good"):  # fmt: skip
        yield case(f"{name}.keras", "further layers", cosine=0.99)
    for name in ("nested_pm1", "random_front", "bn_front", "random_colours", "two_scales", "caffe_front"):
        yield case(f"{name}.keras", "preprocessing inside", options=(), cosine=0.99)
    for name in ("recurrent_both", "recurrent_sum", "cells", "convlstm", "rnn_dropout", "encoder_decoder"):
        yield case(f"{name}.keras", "recurrent", "wave", (), cosine=0.98)
    yield case("stateful.keras", "recurrent", "wave", (), cosine=0.98, warns=("stateful",))
    yield case("masked.keras", "recurrent", "wave", (), refused=(6,), says=("NOT_EQUAL",))
    yield case("open_length.keras", "convolution over time", "wave", ("--input-shape", "8,2"), cosine=0.99)
    yield case("constant_column.keras", "unlike units", "table", (), cosine=0.99)
    yield case("sigmoid_one.keras", "classifier", "binary", cosine=0.99)
    yield case("logit_one.keras", "no classifier", "binary", refused=(6,), says=("--objective regression",))
    yield case("logit_one.keras", "classifier", "binary", (*unit, "--classes", "2"), cosine=0.99)
    yield case("five_outputs.keras", "class count", options=(*unit, "--classes", "4"), points=None)
    yield case("good.keras", "class count", "three")
    yield case("conv3d.keras", "further layers", refused=(6,), says=("CONV_3D",))
    yield case("odd_variance.keras", "wrong culprit", refused=(10,), says=("odd_one",))
    yield case("root.keras", "wrong culprit", refused=(10,), says=("NaN",))
    yield case("died.keras", "wrong culprit", refused=(6,), says=("same embedding",))
    yield case("goes_on.keras", "preprocessing inside", warns=("training=True",), cosine=0.99)
    yield case("gated.keras", "no classifier", refused=(6,), says=("--cut",))
    for name, says in (
        ("good.weights.h5", "weights alone"), ("zipped.zip", "unzip"), ("zipped.keras", "unzip"),
        ("above", "above/model"), ("page.keras", "web page"), ("pointer.keras", "git lfs pull"),
        ("good.onnx", "onnx2tf"),
        ("short.keras", "truncated"), ("unpacked.keras", "unpacked"), ("own_link.keras", "leads nowhere"),
    ):  # fmt: skip
        yield case(name, "no model", refused=(6,), says=(says,))
    for name in ("float32", "float16", "dynamic_range", "int8", "uint8", "per_tensor"):
        yield case(f"{name}.tflite", "tflite", options=() if "int8" in name or name == "per_tensor" else unit,
                   points=1.5 if name in ("float32", "float16", "dynamic_range") else None, cosine=0.99)  # fmt: skip
    yield case("int16x8.tflite", "tflite", refused=(6,), says=("16-bit",))
    yield case("cut_short.tflite", "tflite", refused=(6,), says=("damaged",))
    yield case("served_wide", "signature", cosine=0.99)
    yield case("served_channels_first", "signature", "first", cosine=0.99)
    yield case("served_channels_first", "signature", refused=(8,), says=("numpy.transpose(x, (0, 3, 1, 2))",))
    yield case("served_flagged", "signature", refused=(6,), says=("2 inputs",))
    yield case("served_encoded", "signature", refused=(6,), says=("decoded image",))
    yield case("served_two", "signature", refused=(6,), says=("--cut",))
