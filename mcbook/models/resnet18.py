"""ResNet-18 of He et al. (2016), table 1, with a stem for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .adapting import expect_at_least, expect_depth, expect_image, head
from .layers import norm2d
from .registry import register
from .resnet import BasicBlock

__all__ = ["resnet18"]


@register("resnet18")
def resnet18(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 64,
    depth: Sequence[int] = (2, 2, 2, 2),
    norm: str | None = "batch",
) -> dict[str, nn.Module]:
    """ResNet-18 for small images: one convolution, eight residual blocks, one linear layer.

    The blocks and their initial weights are torchvision's: a 1 × 1 convolution with norm where the
    shape changes, He's normal distribution over the outputs of a convolution.  The stem is the
    one usual for images of 32 × 32 pixels: a 3 × 3 convolution of stride 1 instead of 7 × 7 of
    stride 2, and no max pooling.

    Args:
        shape: `(c, h, w)` of an image of at least 8 × 8 pixels.
        classes: the number of outputs.
        width: feature maps of the first stage (64 in the paper); the stages have 1, 2, 4, 8 times
            it.
        depth: residual blocks in each of the four stages.
        norm: `batch`, `group`, `layer`, `instance` or None.

    Raises:
        ValueError: for an image that is too small, a width or depth below 1, or an unknown norm.
    """
    c = shape[0]
    expect_image("resnet18", shape, 8)
    expect_at_least("resnet18", "width", width, 1)
    depth = expect_depth("resnet18", depth, 4)
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c, width, 3, padding=1, bias=norm is None),
        "norm": norm2d(norm, width),
        "relu": nn.ReLU(),
    }
    maps = width
    for stage, count in enumerate(depth, 1):
        blocks = []
        for i in range(count):
            maps_out = width * 2 ** (stage - 1)
            stride = 2 if stage > 1 and i == 0 else 1
            blocks.append(BasicBlock(maps, maps_out, stride, norm, "projection"))
            maps = maps_out
        layers[f"layer{stage}"] = nn.Sequential(*blocks)
    for layer in layers.values():
        for m in layer.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return {**layers, **head(maps, classes)}
