"""What one pruning is asked to do. Travels to the child process as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

TARGETS = ("macs", "parameters", "int8_bytes", "latency", "joules")


@dataclasses.dataclass(frozen=True, slots=True)
class PruneJob:
    """Every choice; just one of ``ratios``, ``max_drop`` and ``target`` is set.

    Attributes:
        model, output: absolute paths of the model, and of the .keras file to write.
        data: examples: the training part scores and fine-tunes, the held-out part judges.
        ratios: share of the filters that goes, by layer, "*" for all others.
        max_drop: accuracy that each layer's pruning alone may cost, on the training part.
        target: what is to fall to ``target_share`` of what it was.
        refit: the last layer is fitted to the training examples first, and once more before fine-tuning.
        mirror: fine-tune on images left for right as well.
        shift: pixels by which they are moved.
        taught_by: absolute path of the model that teaches, such as a larger one; None: ``model`` itself.
        board: name or file of the board whose watts joules are estimated by.
        multiple: channels that stay are a multiple of it, layer by layer.
    """

    model: str
    output: str
    data: str | None
    preprocess: str = "none"
    criterion: str = "taylor"
    ratios: dict[str, float] | None = None
    max_drop: float | None = None
    target: str | None = None
    target_share: float = 0.5
    multiple: int = 4
    epochs: int = 0
    rate: float = 1e-3
    teacher: bool = True
    refit: bool = False
    mirror: bool = False
    shift: int = 0
    taught_by: str | None = None
    score_examples: int = 1000
    board: str = "pi4"
    seed: int = 0

    def to_fields(self) -> dict[str, Any]:
        """The job as a JSON-able dict."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> PruneJob:
        """The inverse of `to_fields`."""
        return PruneJob(**fields)
