"""LeNet-5 (LeCun et al. 1998), with the choices usual today: max pooling, ReLU, no masks."""

from __future__ import annotations

from torch import nn

from .layers import activation
from .registry import register

__all__ = ["lenet5"]


@register("lenet5")
def lenet5(
    shape: tuple[int, int, int], classes: int, width: float = 1.0, act: str = "relu"
) -> dict[str, nn.Module]:
    """LeNet-5: two 5 × 5 convolutions with pooling, then linear layers of 120 and 84 units.

    Args:
        shape: `(c, h, w)` of an image of at least 12 × 12 pixels.
        classes: the number of outputs.
        width: multiplies every hidden width (6, 16, 120, 84).
        act: `relu`, `gelu`, `silu` or `tanh`.

    Raises:
        ValueError: for an image that is too small, or a width that leaves a layer without units.
    """
    c, h, w = shape
    if min(h, w) < 12:
        raise ValueError(
            f"expected images of at least 12 × 12 pixels for lenet5, found {h} × {w}; "
            f"load_data(..., size=28) resizes them"
        )
    maps1, maps2, units1, units2 = (round(width * k) for k in (6, 16, 120, 84))
    if maps1 < 1:
        raise ValueError(f"expected width to be at least 0.1 for lenet5, found {width}")
    flat = maps2 * ((h // 2 - 4) // 2) * ((w // 2 - 4) // 2)
    return {
        "conv1": nn.Conv2d(c, maps1, 5, padding=2),
        f"{act}1": activation(act),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(maps1, maps2, 5),
        f"{act}2": activation(act),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "linear1": nn.Linear(flat, units1),
        f"{act}3": activation(act),
        "linear2": nn.Linear(units1, units2),
        f"{act}4": activation(act),
        "output": nn.Linear(units2, classes),
    }
