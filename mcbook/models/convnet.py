"""A small convolutional network, by default with batch norm."""

from __future__ import annotations

from torch import nn

from .layers import activation, norm2d
from .registry import register

__all__ = ["convnet"]


@register("convnet")
def convnet(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 16,
    depth: int = 3,
    norm: str | None = "batch",
    act: str = "relu",
) -> dict[str, nn.Module]:
    """A small convolutional network: 3 × 3 convolutions with batch norm, doubling in width.

    Each of the `depth` blocks is convolution, norm, activation; between blocks, 2 × 2 max pooling
    halves the image and the width doubles.  The last feature maps are averaged over the image and
    read out by one linear layer.

    Args:
        shape: `(c, h, w)` of an image of at least `2 ** (depth - 1)` pixels each way.
        classes: the number of outputs.
        width: feature maps of the first block.
        depth: the number of blocks.
        norm: `batch`, `group`, `layer`, `instance` or None.
        act: `relu`, `gelu`, `silu` or `tanh`.

    Raises:
        ValueError: for an image too small for the depth, or a width or depth below 1.
    """
    c, h, w = shape
    if width < 1 or depth < 1:
        raise ValueError(
            f"expected width and depth of a convnet to be at least 1, found {width} and {depth}"
        )
    if min(h, w) < 2 ** (depth - 1):
        raise ValueError(
            f"expected images of at least {2 ** (depth - 1)} pixels each way for a convnet of "
            f"depth {depth}, found {h} × {w}"
        )
    layers: dict[str, nn.Module] = {}
    maps = width
    for i in range(1, depth + 1):
        # a norm layer has a bias of its own
        layers[f"conv{i}"] = nn.Conv2d(c, maps, 3, padding=1, bias=norm is None)
        if norm is not None:
            layers[f"norm{i}"] = norm2d(norm, maps)
        layers[f"{act}{i}"] = activation(act)
        if i < depth:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            c, maps = maps, 2 * maps
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(maps, classes)
    return layers
