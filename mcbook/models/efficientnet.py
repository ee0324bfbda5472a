"""EfficientNet-B0 (Tan and Le 2019), for small images."""

from __future__ import annotations

from torch import nn

from .adapting import (
    expect_at_least,
    expect_fraction,
    expect_image,
    expect_width,
    head,
    not_in_place,
    parts,
    rounded,
    with_stride,
)
from .library import library
from .registry import register

__all__ = ["efficientnetb0"]

# table 1 of Tan and Le: expansion, kernel, stride, feature maps in and out, blocks
_B0 = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


@register("efficientnetb0")
def efficientnetb0(
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: float = 1.0,
    multiple: int = 8,
    dropout: float = 0.2,
    drop_connect: float = 0.2,
    last: bool = False,
) -> dict[str, nn.Module]:
    """EfficientNet-B0 for small images: sixteen inverted residual blocks in seven stages.

    torchvision's blocks and initial weights.  The stem has stride 1, so that images of 32 × 32
    pixels become 2 × 2.  As usual at this size, the linear layer follows the last block at once.

    Args:
        shape: `(c, h, w)` of an image of at least 16 × 16 pixels.
        classes: the number of outputs.
        width: multiplies the feature maps.
        depth: multiplies the blocks of each stage, rounded up.
        multiple: what the feature maps between blocks are rounded to multiples of; smaller for
            widths below 0.25.  Those inside a block are rounded to multiples of 8.
        dropout: before the last layer, in training.
        drop_connect: how often a residual block is skipped in training: grows with the depth, from
            0 in the first block to this in the last (stochastic depth).
        last: whether a 1 × 1 convolution to four times the feature maps comes before the average,
            as in the paper.

    Raises:
        ValueError: for an image that is too small, a width or depth that is not above 0, a multiple
            below 1, or a probability outside [0, 1).
    """
    expect_image("efficientnetb0", shape, 16)
    expect_width("efficientnetb0", width)
    expect_at_least("efficientnetb0", "multiple", multiple, 1)
    if not depth > 0:
        raise ValueError(f"expected depth of efficientnetb0 to be above 0, found {depth}")
    expect_fraction("efficientnetb0", "dropout", dropout)
    expect_fraction("efficientnetb0", "drop_connect", drop_connect)
    models = library("torchvision").models.efficientnet
    settings = [models.MBConvConfig(*stage, depth_mult=depth) for stage in _B0]
    for setting in settings:
        setting.input_channels = rounded(width * setting.input_channels, multiple)
        setting.out_channels = rounded(width * setting.out_channels, multiple)
    net = models.EfficientNet(settings, dropout, drop_connect, num_classes=classes)
    stem, *stages, final = net.features
    if shape[0] != 3:
        stem[0] = nn.Conv2d(shape[0], stem[0].out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem[0].weight, mode="fan_out")
    with_stride(stem[0], 1)
    layers = parts(stem)
    layers |= {f"stage{i}": stage for i, stage in enumerate(stages, 1)}
    if last:
        layers |= parts(final, "last_")
    layers |= head((final[0].out_channels if last else final[0].in_channels), classes, dropout)
    # torchvision's initial weights of the linear layer
    output = layers["output"]
    assert isinstance(output, nn.Linear)
    nn.init.uniform_(output.weight, -(classes**-0.5), classes**-0.5)
    nn.init.zeros_(output.bias)
    for layer in layers.values():
        not_in_place(layer)
    return layers
