"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

from torch import nn

from .layers import activation
from .registry import register

__all__ = ["mlp"]


@register("mlp")
def mlp(
    shape: tuple[int, int, int],
    classes: int,
    width: int | Sequence[int] = (128, 128),
    act: str = "relu",
    norm: str | None = None,
    bias: bool = True,
) -> dict[str, nn.Module]:
    """A multi-layer perceptron with any widths: linear, (norm,) activation, ..., linear.

    Args:
        shape: `(c, h, w)` of an image, which is flattened.
        classes: the number of outputs.
        width: the number of units of each hidden layer; one number is one layer.
        act: `relu`, `gelu`, `silu` or `tanh`.
        norm: None, `batch` or `layer`, before each activation.
        bias: whether the linear layers have one.

    Raises:
        ValueError: for a width below 1 or an unknown activation or norm.
    """
    widths = tuple(width) if isinstance(width, Sequence) else (width,)
    if any(not isinstance(w, Integral) or w < 1 for w in widths):
        raise ValueError(
            f"expected every width of an mlp to be a whole number from 1, found {list(widths)}"
        )
    if norm not in (None, "batch", "layer"):
        raise ValueError(f"expected norm to be None, 'batch' or 'layer', found {norm!r}")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    fan_in = math.prod(shape)
    for i, units in enumerate(map(int, widths), start=1):
        layers[f"linear{i}"] = nn.Linear(fan_in, units, bias=bias)
        if norm is not None:
            layers[f"norm{i}"] = nn.BatchNorm1d(units) if norm == "batch" else nn.LayerNorm(units)
        layers[f"{act}{i}"] = activation(act)
        fan_in = units
    layers["output"] = nn.Linear(fan_in, classes, bias=bias)
    return layers
