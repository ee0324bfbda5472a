"""Small networks, each with something that REPAIR must get right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """A network and the layers that are to be corrected, in the order of its forward pass.

    Attributes:
        make: makes it, with random weights.
        shape: of one input.
        layers: the names.
        first_is_corrected: whether the first layer of all is among them; else batch norm is.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    first_is_corrected: bool = True

    def inputs(self, count: int) -> Tensor:
        """So many inputs, always the same."""
        return torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(3))


class Residual(nn.Module):
    """A stream into which a branch is added, with layers named in another order than used."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.branch2 = nn.Linear(6, 4), nn.Linear(5, 6)
        self.branch1, self.stem = nn.Linear(6, 5), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        # some networks look at their layers' weights
        h = h.to(self.branch1.weight.dtype)
        return self.out((h + self.branch2(self.branch1(h).relu())).relu()).log_softmax(1)


class Registered(nn.Module):
    """A layer under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 6)
        self.stack = nn.ModuleList([self.a, nn.ReLU(), nn.Linear(6, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.stack:
            x = layer(x)
        return x


def _images(*layers: nn.Module, maps: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, 4))


_S = (3, 6, 6)
NETWORKS = {
    "mlp": Network(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4)
        ),
        (3, 4), ("1", "3", "5"),
    ),
    "convolutions": Network(
        lambda: _images(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), maps=5),
        _S, ("0", "2", "6"),
    ),
    # groups of 2 into 3 maps, and back to groups of 2
    "grouped": Network(
        lambda: _images(
            nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(inplace=True), nn.Conv2d(6, 9, 1, groups=3),
            nn.ReLU(inplace=True), nn.ConvTranspose2d(9, 6, 2, stride=2, groups=3), nn.ReLU(),
            nn.ConvTranspose2d(6, 5, 2), nn.ReLU(), maps=5,
        ),
        _S, ("0", "2", "4", "6", "10"),
    ),
    "conv1d": Network(
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 5, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(25, 4),
        ),
        (3, 8), ("0", "2", "5"),
    ),
    "conv3d": Network(
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (2, 3, 3, 3), ("0", "3"),
    ),
    # channels last
    "tokens": Network(
        lambda: nn.Sequential(
            nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 8), nn.GELU(),
            nn.Flatten(), nn.Linear(40, 3),
        ),
        (5, 4), ("0", "3", "6"),
    ),
    # PyTorch computes it in one piece where nothing looks at its layers
    "transformer": Network(
        lambda: nn.Sequential(
            nn.Linear(4, 8),
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            nn.Flatten(), nn.Linear(40, 3),
        ),
        (5, 4), ("0", "1.linear1", "1.linear2", "3"),
    ),
    "no biases": Network(
        lambda: nn.Sequential(
            nn.Linear(12, 7, bias=False), nn.ReLU(), nn.Linear(7, 6, bias=False), nn.ReLU(),
            nn.Linear(6, 4, bias=False),
        ),
        (12,), ("0", "2", "4"),
    ),
    # group norm is given a mean and a deviation of each channel, batch norm makes its own
    "group norm": Network(
        lambda: _images(
            nn.Conv2d(3, 6, 3, bias=False), nn.GroupNorm(2, 6), nn.ReLU(), maps=6
        ),
        _S, ("0", "5"),
    ),
    "batch norm": Network(
        lambda: _images(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(),
            nn.Conv2d(5, 5, 1, bias=False), nn.Identity(), nn.BatchNorm2d(5), maps=5,
        ),
        _S, ("3", "10"), first_is_corrected=False,
    ),
    # an in-place ReLU stands between, though the tensor is the same
    "batch norm after": Network(
        lambda: _images(
            nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(6), maps=6
        ),
        _S, ("0", "5"),
    ),
    "residual": Network(Residual, (12,), ("stem", "branch1", "branch2", "out")),
    "registered twice": Network(Registered, (12,), ("a", "stack.2")),
}  # fmt: skip
