"""TinyTen, the ten-layer convolutional network of Tatro et al."""

from __future__ import annotations

from torch import nn

from .layers import activation, norm2d
from .registry import register

__all__ = ["tinyten"]

# (multiple of the first layer's width, stride, padding) of the seven 3 × 3 convolutions
_LAYERS = ((1, 1, 1), (1, 1, 1), (2, 2, 1), (2, 1, 1), (2, 1, 1), (4, 2, 1), (4, 1, 0))


@register("tinyten")
def tinyten(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 16,
    norm: str | None = "batch",
    act: str = "relu",
) -> dict[str, nn.Module]:
    """TinyTen: eight convolutions with batch norm, an average over the image, one linear layer.

    Seven 3 × 3 convolutions with `width × (1, 1, 2, 2, 2, 4, 4)` channels, the third and the sixth
    with stride 2, the last without padding; a 1 × 1 convolution; all with biases, batch norm and
    ReLU.  At width 16 and ten classes 86,778 parameters on images with three channels.

    Source: Tatro et al. (2020), their smallest network.

    Args:
        shape: `(c, h, w)` of an image of at least 9 pixels each way.
        classes: the number of outputs.
        width: channels of the first layer.
        norm: `batch`, `group`, `layer`, `instance` or None.
        act: `relu`, `gelu`, `silu` or `tanh`.

    Raises:
        ValueError: for an image too small, or a width below 1.
    """
    c, h, w = shape
    if width < 1:
        raise ValueError(f"expected width of a tinyten to be at least 1, found {width}")
    if min(h, w) < 9:
        raise ValueError(
            f"expected images of at least 9 pixels each way for a tinyten, found {h} × {w}"
        )
    layers: dict[str, nn.Module] = {}
    kernels = [(k * width, 3, stride, padding) for k, stride, padding in _LAYERS]
    for i, (maps, kernel, stride, padding) in enumerate([*kernels, (4 * width, 1, 1, 0)], 1):
        layers[f"conv{i}"] = nn.Conv2d(c, maps, kernel, stride, padding)
        if norm is not None:
            layers[f"norm{i}"] = norm2d(norm, maps)
        layers[f"{act}{i}"] = activation(act)
        c = maps
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(c, classes)
    return layers
