"""The deep convolutional networks of Simonyan and Zisserman (2015), for small images."""

from __future__ import annotations

from torch import nn

from .layers import activation, norm2d
from .registry import register

__all__ = ["vgg11", "vgg16"]

# configurations A and D of their table 1: convolutions in each of the five stages
_VGG11 = (1, 1, 2, 2, 2)
_VGG16 = (2, 2, 3, 3, 3)


@register("vgg11")
def vgg11(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 64,
    norm: str | None = "batch",
    act: str = "relu",
) -> dict[str, nn.Module]:
    """VGG-11 for small images: eight 3 × 3 convolutions in five stages, then one linear layer.

    Each convolution is followed by norm and activation, each stage by 2 × 2 max pooling; the stages
    have 1, 2, 4, 8 and 8 times `width` feature maps.  As usual for images of 32 × 32 pixels, whose
    last maps are single pixels, one linear layer takes the place of the paper's three.  Of larger
    images the last maps are averaged.

    Args:
        shape: `(c, h, w)` of an image of at least 32 × 32 pixels.
        classes: the number of outputs.
        width: feature maps of the first stage (64 in the paper).
        norm: `batch`, `group`, `layer`, `instance` or None.  Without, PyTorch's initial weights
            shrink the differences between images in every layer, and training may not start.
        act: `relu`, `gelu`, `silu` or `tanh`.

    Raises:
        ValueError: for an image that is too small, a width below 1, or an unknown norm or
            activation.
    """
    return _vgg("vgg11", _VGG11, shape, classes, width, norm, act)


@register("vgg16")
def vgg16(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 64,
    norm: str | None = "batch",
    act: str = "relu",
) -> dict[str, nn.Module]:
    """VGG-16 for small images: thirteen 3 × 3 convolutions in five stages, then one linear layer.

    As `vgg11`, with 2, 2, 3, 3 and 3 convolutions in the stages.

    Args:
        shape: `(c, h, w)` of an image of at least 32 × 32 pixels.
        classes: the number of outputs.
        width: feature maps of the first stage (64 in the paper).
        norm: `batch`, `group`, `layer`, `instance` or None; see `vgg11`.
        act: `relu`, `gelu`, `silu` or `tanh`.

    Raises:
        ValueError: for an image that is too small, a width below 1, or an unknown norm or
            activation.
    """
    return _vgg("vgg16", _VGG16, shape, classes, width, norm, act)


def _vgg(
    name: str,
    stages: tuple[int, ...],
    shape: tuple[int, int, int],
    classes: int,
    width: int,
    norm: str | None,
    act: str,
) -> dict[str, nn.Module]:
    """The layers of a network with so many convolutions in each stage."""
    c, h, w = shape
    least = 2 ** len(stages)
    if min(h, w) < least:
        raise ValueError(
            f"expected images of at least {least} × {least} pixels for {name}, found {h} × {w}; "
            f"load_data(..., size={least}) resizes them"
        )
    if width < 1:
        raise ValueError(f"expected the width of {name} to be at least 1, found {width}")
    layers: dict[str, nn.Module] = {}
    i = 0
    for stage, count in enumerate(stages):
        maps = width * min(2**stage, 8)
        for _ in range(count):
            i += 1
            # a norm layer has a bias of its own
            layers[f"conv{i}"] = nn.Conv2d(c, maps, 3, padding=1, bias=norm is None)
            if norm is not None:
                layers[f"norm{i}"] = norm2d(norm, maps)
            layers[f"{act}{i}"] = activation(act)
            c = maps
        layers[f"pool{stage + 1}"] = nn.MaxPool2d(2)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(c, classes)
    return layers
