"""After quantisation: equalised layers where much was lost, weights trained on and biases corrected where that is asked
for, and the account of layers.

Whatever is tried is kept only where the embeddings of the calibration examples come nearer to the float ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firmware_tools.convert.quality.equalise import equalised
from firmware_tools.convert.quality.layers import LayerQuality, bias_corrected, layer_quality
from protos.model.head_algebra import Array

if TYPE_CHECKING:
    from firmware_tools.convert.quality.fine_tuning import Tuned

# Of the energy of the embeddings: 25 dB. A well-behaved network loses less.
_MUCH = 3e-3
_BIAS_EXAMPLES, _LAYER_EXAMPLES = 32, 16


@dataclass(frozen=True, slots=True)
class QualityChoices:
    """What a conversion does beside plain quantisation.

    Attributes:
        equalise: when pairs of layers share their channels' ranges: auto, always or never.
        bias_correction: give each channel the mean that it has in float.
        layers: tell the loss of each layer.
        tune: weights are trained on.
        wide: activations of 16 bits between the ends.
    """

    equalise: str = "auto"
    bias_correction: bool = False
    layers: bool = False
    tune: bool = False
    wide: bool = False

    def wants_float(self, loss: float) -> bool:
        """Whether any of it is to be done, at this loss (a share of the energy of the embeddings)."""
        return any((self.layers, self.bias_correction, self.tune, self.wide)) or self.equalises(loss)

    def equalises(self, loss: float) -> bool:
        return self.equalise == "always" or (self.equalise == "auto" and loss > _MUCH)


@dataclass(slots=True)
class Improved:
    """The integer file that is kept, its loss, and what was done."""

    content: bytes
    loss: float
    done: dict[str, Any] = field(default_factory=dict)
    layers: list[LayerQuality] = field(default_factory=list)


def improved(
    real: bytes,
    content: bytes,
    loss: float,
    loss_of: Callable[[bytes], float],
    requantise: Callable[[bytes], bytes],
    inputs: Array,
    choices: QualityChoices,
    tune: Callable[[bytes, bytes], Tuned] | None = None,
    widen: Callable[[bytes, bytes], bytes] | None = None,
    *,
    where: str,
) -> Improved:
    """Do what the choices say.

    Args:
        real: float32 .tflite.
        content: the plain int8 .tflite made of it.
        loss: of it, a share of the energy of the float embeddings.
        loss_of: measures the same of another file.
        requantise: int8 of a changed float file, by the same examples.
        inputs: float32 [N, ...], what the files take.
        tune: trains the weights of an integer file (the second) that was made of a float one (the first).
        widen: gives such a file activations of 16 bits; they stay, as asked, whatever they bring.
    """
    kept = Improved(content, loss)
    if choices.equalises(loss):
        changed, pairs = equalised(real, where=where)
        if pairs:
            other = requantise(changed)
            found = loss_of(other)
            kept.done["equalisation"] = {"pairs": pairs, "loss": found, "plain": loss, "kept": found < loss}
            if found < loss:
                real, kept.content, kept.loss = changed, other, found
    if choices.tune and tune is not None:
        made = tune(real, kept.content)
        better = made.after < made.before
        kept.done["fine_tuning"] = {
            "examples": made.trained_on, "judged_on": made.judged_on, "plain": made.before, "loss": made.after,
            "kept": better,
        }  # fmt: skip
        if better:
            kept.content, kept.loss = made.content, loss_of(made.content)
    if choices.wide and widen is not None:
        other = widen(real, kept.content)
        found = loss_of(other)
        kept.done["sixteen_bits"] = {"plain": kept.loss, "loss": found}
        kept.content, kept.loss = other, found
    if choices.bias_correction:
        other, layers = bias_corrected(real, kept.content, inputs[:_BIAS_EXAMPLES], where=where)
        found = loss_of(other)
        kept.done["bias_correction"] = {"layers": layers, "loss": found, "plain": kept.loss, "kept": found < kept.loss}
        if found < kept.loss:
            kept.content, kept.loss = other, found
    if choices.layers:
        kept.layers = layer_quality(real, kept.content, inputs[:_LAYER_EXAMPLES], where=where)
    return kept
