"""Densely connected networks (Huang et al. 2017), for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .adapting import expect_at_least, expect_depth, expect_image, not_in_place
from .library import library
from .registry import register

__all__ = ["densenet"]


@register("densenet")
def densenet(
    shape: tuple[int, int, int],
    classes: int,
    depth: Sequence[int] = (6, 12, 24, 16),
    growth: int = 32,
) -> dict[str, nn.Module]:
    """DenseNet for small images: each layer of a block sees all before it; 121 layers by default.

    torchvision's blocks and initial weights, with bottlenecks of four times the growth and
    transitions that halve the feature maps (DenseNet-BC).  The stem is a 3 × 3 convolution of
    stride 1 without max pooling, so that images of 32 × 32 pixels become 4 × 4.

    Args:
        shape: `(c, h, w)` of an image of at least 8 × 8 pixels.
        classes: the number of outputs.
        depth: layers in each of the four blocks.
        growth: feature maps each of them adds; the stem has twice as many.

    Raises:
        ValueError: for an image that is too small, or a depth or growth below 1.
    """
    expect_image("densenet", shape, 8)
    expect_at_least("densenet", "growth", growth, 1)
    depth = expect_depth("densenet", depth, 4)
    net = library("torchvision").models.DenseNet(
        growth, depth, num_init_features=2 * growth, num_classes=classes
    )
    found = net.features
    conv = nn.Conv2d(shape[0], 2 * growth, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    layers: dict[str, nn.Module] = {"conv": conv, "norm": found.norm0, "relu": found.relu0}
    for i in (1, 2, 3, 4):
        layers[f"block{i}"] = found.get_submodule(f"denseblock{i}")
        if i < 4:
            layers[f"transition{i}"] = found.get_submodule(f"transition{i}")
    layers |= {
        "last_norm": found.norm5,
        "last_relu": nn.ReLU(),
        "average": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "output": net.classifier,
    }
    for layer in layers.values():
        not_in_place(layer)
    return layers
