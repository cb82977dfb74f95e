"""What models are pruned to in `papers.py`: half of their multiply-adds, or widths at which kernels are full.

Kernels take channels by eight or sixteen, so that of a layer with twelve little time is gained, and calling a layer
takes time, however small it is. The second are widths, found with `latency.py` on models with no training and before
any was judged, at which an int8 inference takes 0.61 to 0.62 of its time on a processor with AVX-512 VNNI.
"""

from __future__ import annotations

from collections.abc import Mapping

# Shares of the filters of a layer that go, by its first layer where a residual add joins several.
RESNET8: Mapping[str, float] = {
    "conv2d_1": 0.5,
    "conv2d_3": 0.5,
    "conv2d_4": 0.5,
    "conv2d_6": 0.5,
    "conv2d_7": 0.25,
}
MOBILENET: Mapping[str, float] = {
    **{f"conv_pw_{number}": 0.5 for number in range(2, 8)},
    **{f"conv_pw_{number}": 0.75 for number in range(8, 14)},
}
TARGETS = {"macs": "macs=0.5", "kernels": "full kernels"}


def options(target: str, ratios: Mapping[str, float]) -> list[str]:
    """Of `firmware-tools prune`."""
    if target == "macs":
        return ["--target", TARGETS["macs"]]
    return [word for layer, share in ratios.items() for word in ("--ratio", f"{layer}={share}")]
