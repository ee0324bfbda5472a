"""Layers several architectures share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Shortcut", "Standardize", "activation", "norm2d"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel: `(x - mean) / std`.

    Both are buffers, not parameters: they are fixed, and they travel with the weights.

    Args:
        channels: the number of channels of an image `[n, c, h, w]`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise images `[n, c, h, w]`."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


class Shortcut(nn.Module):
    """The parameter-free shortcut of He et al. (2016), option A.

    Takes every `stride`-th pixel and fills the new channels with zeros.

    Args:
        extra: how many channels of zeros to add.
        stride: the step in both directions.
    """

    def __init__(self, extra: int, stride: int):
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, c, h, w]` to `[n, c + extra, ceil(h / stride), ceil(w / stride)]`."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def activation(name: str) -> nn.Module:
    """The activation called `name`.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation out of {sorted(ACTIVATIONS)}, found {name!r}")
    return ACTIVATIONS[name]()


def norm2d(kind: str | None, channels: int, groups: int = 8) -> nn.Module:
    """A normalisation of `channels` feature maps.

    Args:
        kind: `batch`, `group` (`groups` groups), `layer` (one group), `instance` (a group per
            channel), or None for the identity.
        channels: the number of feature maps.
        groups: for `group`; channels that it does not divide take the largest divisor below it.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(g for g in range(1, groups + 1) if channels % g == 0), channels)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    if kind is None:
        return nn.Identity()
    raise ValueError(
        f"expected norm to be 'batch', 'group', 'layer', 'instance' or None, found {kind!r}"
    )
