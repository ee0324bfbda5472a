"""Pooling, interpolation and mirrored padding: what moves with the pixels stays where it is."""

from __future__ import annotations

from ..context import Call, Rule, Trace
from ..labels import Label, pin_axes

__all__ = ["RULES"]


def _spatial(dimensions: int) -> Rule:
    """The last axes cannot move; the others are kept."""

    def rule(trace: Trace, call: Call) -> list[Label]:
        x = call.args[0]
        label = pin_axes(trace.units, trace.label(x), range(x.ndim - dimensions, x.ndim))
        return [Label(label.arrays)] * len(call.outputs)

    return rule


_KINDS = {
    1: ["avg_pool1d", "adaptive_avg_pool1d", "max_pool1d", "reflection_pad1d", "replication_pad1d",
        "upsample_linear1d", "upsample_nearest1d", "_upsample_nearest_exact1d"],
    2: ["avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices",
        "max_pool2d", "adaptive_max_pool2d", "fractional_max_pool2d", "reflection_pad2d",
        "replication_pad2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest2d",
        "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"],
    3: ["avg_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "max_pool3d_with_indices",
        "adaptive_max_pool3d", "replication_pad3d", "reflection_pad3d", "upsample_trilinear3d",
        "upsample_nearest3d", "_upsample_nearest_exact3d"],
}  # fmt: skip
RULES: dict[str, Rule] = {
    name: rule
    for dimensions, names in _KINDS.items()
    for name, rule in zip(names, [_spatial(dimensions)] * len(names), strict=True)
}
