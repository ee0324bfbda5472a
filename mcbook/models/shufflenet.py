"""ShuffleNet (Zhang et al. 2018) and ShuffleNet V2 (Ma et al. 2018), for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapting import expect_depth, expect_image, expect_width, head, not_in_place, parts
from .library import library
from .registry import register

__all__ = ["ShuffleBlock", "shufflenetv1", "shufflenetv2"]

# table 1 of Zhang et al.: feature maps of the second stage, by the number of groups
_MAPS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}


class ShuffleBlock(nn.Module):
    """Grouped 1 × 1, depthwise 3 × 3 and grouped 1 × 1 convolution around which the input goes.

    Where the feature maps become more, the input is put beside the result, with stride 2 its
    averages over 3 × 3 pixels, so that the convolutions make only `maps_out - maps_in`; otherwise
    the input is added.  After the first convolution, feature maps of the groups are interleaved.

    Args:
        maps_in: feature maps of the input.
        maps_out: feature maps of the output, a multiple of `4 * groups`; more than `maps_in`, or
            as many, then with stride 1.
        stride: 1 or 2.
        groups: of the 1 × 1 convolutions.
        groups_in: of the first of them.
    """

    def __init__(self, maps_in: int, maps_out: int, stride: int, groups: int, groups_in: int):
        super().__init__()
        self.stride, self.groups, self.beside = stride, groups, maps_out > maps_in
        maps = maps_out // 4
        made = maps_out - maps_in if self.beside else maps_out
        self.conv1 = nn.Conv2d(maps_in, maps, 1, groups=groups_in, bias=False)
        self.norm1 = nn.BatchNorm2d(maps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(maps, maps, 3, stride, padding=1, groups=maps, bias=False)
        self.norm2 = nn.BatchNorm2d(maps)
        self.conv3 = nn.Conv2d(maps, made, 1, groups=groups, bias=False)
        self.norm3 = nn.BatchNorm2d(made)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, maps_in, h, w]` to `[n, maps_out, ceil(h / stride), ceil(w / stride)]`."""
        y = self.relu1(self.norm1(self.conv1(x)))
        if self.groups > 1:
            y = y.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        y = self.norm3(self.conv3(self.norm2(self.conv2(y))))
        if self.stride == 2:
            x = F.avg_pool2d(x, 3, 2, padding=1)
        return self.relu2(torch.cat([y, x], 1) if self.beside else y + x)


@register("shufflenetv1")
def shufflenetv1(
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: Sequence[int] = (4, 8, 4),
    groups: int = 1,
) -> dict[str, nn.Module]:
    """ShuffleNet for small images: sixteen blocks with a shuffle of their feature maps.

    PyTorch's initial weights.  The stem and the first stage have stride 1, and there is no max
    pooling, so that images of 32 × 32 pixels stay so in the first stage and become 16 × 16 and
    8 × 8 in the other two.

    Args:
        shape: `(c, h, w)` of an image of at least 4 × 4 pixels.
        classes: the number of outputs.
        width: multiplies the feature maps (24 in the stem; 144, 288 and 576 in the stages for one
            group), which are rounded to multiples of `groups` and `4 * groups`.
        depth: blocks in each of the three stages.
        groups: of the 1 × 1 convolutions: 1, 2, 3, 4 or 8.  With 1 group nothing is shuffled.

    Raises:
        ValueError: for an image that is too small, a width that is not above 0, or a depth or
            number of groups it cannot have.
    """
    c = shape[0]
    expect_image("shufflenetv1", shape, 4)
    expect_width("shufflenetv1", width)
    depth = expect_depth("shufflenetv1", depth, 3)
    if groups not in _MAPS:
        raise ValueError(f"expected groups of shufflenetv1 out of {list(_MAPS)}, found {groups}")
    maps = groups * max(1, round(24 * width / groups))
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c, maps, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(maps),
        "relu": nn.ReLU(),
    }
    for stage, count in enumerate(depth, 2):
        unit = 4 * groups
        # more than the input's, which is put beside what the first block makes
        maps_out = unit * max(
            maps // unit + 1, round(_MAPS[groups] * 2 ** (stage - 2) * width / unit)
        )
        # the stem's feature maps are few, and not grouped
        stride, groups_in = (1, 1) if stage == 2 else (2, groups)
        first = ShuffleBlock(maps, maps_out, stride, groups, groups_in)
        rest = (ShuffleBlock(maps_out, maps_out, 1, groups, groups) for _ in range(count - 1))
        layers[f"stage{stage}"] = nn.Sequential(first, *rest)
        maps = maps_out
    return {**layers, **head(maps, classes)}


@register("shufflenetv2")
def shufflenetv2(
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: Sequence[int] = (4, 8, 4),
) -> dict[str, nn.Module]:
    """ShuffleNet V2 for small images: sixteen blocks that split, convolve and shuffle.

    torchvision's blocks; PyTorch's initial weights, as there.  The stem has stride 1 and no max
    pooling, so that images of 32 × 32 pixels become 16 × 16, 8 × 8 and 4 × 4 in the three stages.

    Args:
        shape: `(c, h, w)` of an image of at least 8 × 8 pixels.
        classes: the number of outputs.
        width: multiplies the feature maps of the paper's 1× network: 24 in the stem, 116, 232 and
            464 in the stages (rounded to even numbers), 1024 in the last convolution.
        depth: blocks in each of the three stages.

    Raises:
        ValueError: for an image that is too small, a width that is not above 0, or a depth it
            cannot have.
    """
    c = shape[0]
    expect_image("shufflenetv2", shape, 8)
    expect_width("shufflenetv2", width)
    depth = expect_depth("shufflenetv2", depth, 3)
    maps = [2 * max(1, round(k * width / 2)) for k in (24, 116, 232, 464, 1024)]
    net = library("torchvision").models.ShuffleNetV2(list(depth), maps, classes)
    net.conv1[0] = nn.Conv2d(c, maps[0], 3, padding=1, bias=False)
    layers: dict[str, nn.Module] = {
        **parts(net.conv1),
        **{f"stage{i}": net.get_submodule(f"stage{i}") for i in (2, 3, 4)},
        **parts(net.conv5, "last_"),
        "average": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "output": net.fc,
    }
    for layer in layers.values():
        not_in_place(layer)
    return layers
