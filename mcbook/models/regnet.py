"""RegNetX-200MF (Radosavovic et al. 2020), for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .adapting import (
    expect_at_least,
    expect_depth,
    expect_image,
    expect_width,
    not_in_place,
    parts,
    with_stride,
)
from .library import library
from .registry import register

__all__ = ["regnetx200mf"]

_WIDTHS = (24, 56, 152, 368)


@register("regnetx200mf")
def regnetx200mf(
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: Sequence[int] = (1, 1, 4, 7),
    group: int = 8,
) -> dict[str, nn.Module]:
    """RegNetX-200MF for small images: thirteen residual blocks with grouped convolutions.

    torchvision's blocks and initial weights.  The stem has 64 feature maps and stride 1; the
    strides of the stages are 1, 1, 2 and 2, so that images of 32 × 32 pixels become 8 × 8.

    Args:
        shape: `(c, h, w)` of an image of at least 4 × 4 pixels.
        classes: the number of outputs.
        width: multiplies the feature maps: 64 in the stem, 24, 56, 152 and 368 in the stages, which
            are rounded to multiples of the group width.
        depth: blocks in each of the four stages.
        group: feature maps in a group of the 3 × 3 convolutions; smaller for widths below 0.25.

    Raises:
        ValueError: for an image that is too small, a width that is not above 0, or a depth or group
            width it cannot have.
    """
    expect_image("regnetx200mf", shape, 4)
    expect_width("regnetx200mf", width)
    depth = expect_depth("regnetx200mf", depth, 4)
    expect_at_least("regnetx200mf", "group", group, 1)
    models = library("torchvision").models.regnet
    widths = [group * max(1, round(k * width / group)) for k in _WIDTHS]
    stem_width = max(1, round(64 * width))
    net = models.RegNet(
        models.BlockParams(list(depth), widths, [group] * 4, [1.0] * 4, [1, 1, 2, 2]),
        num_classes=classes,
        stem_width=stem_width,
    )
    if shape[0] != 3:
        net.stem[0] = nn.Conv2d(shape[0], stem_width, 3, padding=1, bias=False)
        nn.init.normal_(net.stem[0].weight, std=(2 / (9 * stem_width)) ** 0.5)
    with_stride(net.stem[0], 1)
    layers: dict[str, nn.Module] = {
        **parts(net.stem),
        **{f"layer{i}": stage for i, stage in enumerate(net.trunk_output, 1)},
        "average": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "output": net.fc,
    }
    for layer in layers.values():
        not_in_place(layer)
    return layers
