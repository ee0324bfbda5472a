"""MobileNetV2 (Sandler et al. 2018) and MobileNetV3 (Howard et al. 2019), for small images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from .adapting import (
    expect_at_least,
    expect_depth,
    expect_fraction,
    expect_image,
    expect_width,
    not_in_place,
    parts,
    rounded,
    with_stride,
)
from .library import library
from .registry import register

__all__ = ["mobilenetv2", "mobilenetv3"]

# table 2 of Sandler et al.: expansion, feature maps, stride.  Where their stride is 2 at 24 and 32
# feature maps (and in the stem), it is 1 here.
_V2 = ((1, 16, 1), (6, 24, 1), (6, 32, 1), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
# tables 1 and 2 of Howard et al.: blocks whose feature maps have the same size, from one stride of
# 2 to the next.  The first strides of the large and of the small one are 1 here.
_V3 = {"small": (1, 2, 5, 3), "large": (1, 2, 3, 6, 3)}


@register("mobilenetv2")
def mobilenetv2(
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: Sequence[int] = (1, 2, 3, 4, 3, 3, 1),
    multiple: int = 8,
    last: int | None = None,
    expand_first: bool = True,
    dropout: float = 0.0,
) -> dict[str, nn.Module]:
    """MobileNetV2 for small images: seventeen inverted residual blocks in seven stages.

    torchvision's blocks and initial weights.  For images of 32 × 32 pixels, stride 2 is left only
    where the feature maps become 64 and 160; the stem and the other stages have stride 1.

    Args:
        shape: `(c, h, w)` of an image of at least 4 × 4 pixels.
        classes: the number of outputs.
        width: multiplies the feature maps.
        depth: blocks in each of the seven stages.
        multiple: what feature maps are rounded to multiples of; smaller for widths below 0.25.
        last: feature maps of the last convolution.  None is 1280 for widths up to 1, as in the
            paper, and `width` times as many above; a small network may have fewer.
        expand_first: whether the first block, which expands by a factor of 1, has a 1 × 1
            convolution for it, as the other blocks do.  torchvision leaves it out.
        dropout: before the last layer; torchvision's default is 0.2.

    Raises:
        ValueError: for an image that is too small, a width that is not above 0, a depth, multiple
            or last it cannot have, or a dropout outside [0, 1).
    """
    expect_image("mobilenetv2", shape, 4)
    expect_width("mobilenetv2", width)
    expect_at_least("mobilenetv2", "multiple", multiple, 1)
    depth = expect_depth("mobilenetv2", depth, 7)
    if last is not None:
        expect_at_least("mobilenetv2", "last", last, 1)
    expect_fraction("mobilenetv2", "dropout", dropout)
    models = library("torchvision").models.mobilenetv2

    def block(
        maps: int, maps_out: int, stride: int, expand_ratio: int, **options: Any
    ) -> nn.Module:
        made = models.InvertedResidual(maps, maps_out, stride, expand_ratio, **options)
        if expand_ratio == 1 and expand_first:
            # made like the depthwise convolution it precedes
            layer = models.Conv2dNormActivation(
                maps, maps, kernel_size=1, activation_layer=nn.ReLU6, **options
            )
            made.conv = nn.Sequential(layer, *made.conv)
        return made

    stages = [[t, maps, count, s] for (t, maps, s), count in zip(_V2, depth, strict=True)]
    net = models.MobileNetV2(classes, width, stages, multiple, block=block, dropout=dropout)
    if last is not None:
        conv, norm, relu6 = net.features[-1]
        conv = nn.Conv2d(conv.in_channels, last, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        net.features[-1] = nn.Sequential(conv, type(norm)(last), relu6)
        net.classifier[-1] = nn.Linear(last, classes)
        nn.init.normal_(net.classifier[-1].weight, 0, 0.01)
        nn.init.zeros_(net.classifier[-1].bias)
    return _layers(shape[0], net, depth)


@register("mobilenetv3")
def mobilenetv3(
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    multiple: int = 8,
    size: str = "small",
    dropout: float = 0.0,
) -> dict[str, nn.Module]:
    """MobileNetV3 for small images: inverted residual blocks with squeeze and excitation.

    torchvision's blocks and initial weights.  As in `mobilenetv2`, the last two strides of 2 are
    left, and the stem and the other stages have stride 1 (so that the first block of the small
    network adds its input, as all do that keep its shape).  Batch norm averages its statistics with
    PyTorch's momentum of 0.1, not with torchvision's 0.01 for training of many thousand steps.

    Args:
        shape: `(c, h, w)` of an image of at least 4 × 4 pixels.
        classes: the number of outputs.
        width: multiplies the feature maps.
        multiple: what they are rounded to multiples of; smaller for widths below 0.25.
        size: `small` (eleven blocks) or `large` (fifteen).
        dropout: before the last layer; torchvision's default is 0.2.

    Raises:
        ValueError: for an image that is too small, an unknown size, a width that is not above 0, a
            multiple below 1, or a dropout outside [0, 1).
    """
    expect_image("mobilenetv3", shape, 4)
    expect_width("mobilenetv3", width)
    expect_at_least("mobilenetv3", "multiple", multiple, 1)
    expect_fraction("mobilenetv3", "dropout", dropout)
    if size not in _V3:
        raise ValueError(f"expected size of mobilenetv3 to be 'small' or 'large', found {size!r}")
    models = library("torchvision").models.mobilenetv3
    settings, last = models._mobilenet_v3_conf(f"mobilenet_v3_{size}")
    for setting in settings:
        for key in ("input_channels", "expanded_channels", "out_channels"):
            setattr(setting, key, rounded(width * getattr(setting, key), multiple))
    last = rounded(width * last, multiple)
    strided = [i for i, setting in enumerate(settings) if setting.stride == 2]
    for i in strided[:-2]:
        settings[i].stride = 1
    net = models.MobileNetV3(
        settings, last, classes, norm_layer=partial(nn.BatchNorm2d, eps=0.001), dropout=dropout
    )
    return _layers(shape[0], net, _V3[size])


def _layers(c: int, net: Any, depth: Sequence[int]) -> dict[str, nn.Module]:
    """The network's parts by name: stem, stages, last convolution, classifier."""
    stem, *blocks, last = net.features
    if c != 3:
        stem[0] = nn.Conv2d(c, stem[0].out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem[0].weight, mode="fan_out")
    with_stride(stem[0], 1)
    layers = parts(stem)
    start = 0
    for stage, count in enumerate(depth, 1):
        layers[f"stage{stage}"] = nn.Sequential(*blocks[start : start + count])
        start += count
    layers |= parts(last, "last_")
    layers |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    *hidden, output = net.classifier
    for m in hidden:
        name = type(m).__name__.lower()
        if not isinstance(m, nn.Dropout) or m.p:
            layers[name if isinstance(m, nn.Dropout) else f"hidden_{name}"] = m
    layers["output"] = output
    for layer in layers.values():
        not_in_place(layer)
    return layers
