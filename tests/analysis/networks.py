"""Small networks with every kind of layer that has a matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Tokens that attend to others, packed projections or separate ones."""

    def __init__(self, others: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.attention = nn.MultiheadAttention(
            6, 2, dropout, kdim=others, vdim=others, batch_first=True
        )
        self.others = nn.Linear(6, others or 6)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        others = self.others(x)
        y, _ = self.attention(x, others, value=2 * others)
        return self.output(y.mean(1))


class Encoder(nn.Module):
    """A layer that PyTorch runs in one fused kernel where nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.encoder(x).mean(1))


class Tied(nn.Module):
    """One weight in two layers, which read different things."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Repeated(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(6, 6)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.again(torch.tanh(self.again(x)))))


class Idle(nn.Module):
    """A layer that no forward pass calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(6, 3)
        self.idle = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def convolutions() -> nn.Module:
    """Grouped, depthwise, strided, dilated, padded in other ways, transposed."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=(1, 2)),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.Conv2d(6, 6, 3, padding="same", padding_mode="circular", dilation=(1, 2), groups=6),
        nn.GELU(),
        nn.Conv2d(6, 4, (1, 2), groups=2),
        nn.SiLU(inplace=True),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def lines() -> nn.Module:
    """Convolutions over one axis and over three."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2),
        nn.ReLU(),
        nn.Unflatten(2, (2, 2, -1)),
        nn.Conv3d(4, 2, (1, 2, 2), padding=(0, 1, 0)),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


# name: (how it is made, the shape of one input)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (convolutions, (2, 8, 8)),
    "lines": (lines, (2, 17)),
    "attention": (Attention, (5, 6)),
    "separate attention": (lambda: Attention(4, dropout=0.5), (5, 6)),
    "encoder": (Encoder, (5, 6)),
    "tied": (Tied, (6,)),
    "repeated": (Repeated, (6,)),
}


def build(name: str, seed: int) -> nn.Module:
    """One of the networks, in training mode, with statistics and norms that are not the initial."""
    make, _ = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for x in model.parameters():
                x.add_(0.1 * torch.randn_like(x))
            for x in model.buffers():
                if x.is_floating_point():
                    x.add_(torch.rand_like(x))
    return model


def inputs(name: str, count: int = 12, seed: int = 0) -> Tensor:
    """Inputs for one of the networks."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *NETWORKS[name][1], generator=generator)
